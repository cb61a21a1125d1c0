package egress

import (
	"net/url"
	"strconv"
	"strings"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/hostname"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/upstream"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/urlpath"
)

const maxURL = 16 << 10 // bytes

// destination is where a request goes.
type destination struct {
	tls     bool
	host    hostname.Host
	port    uint16
	path    string // path and query, as sent: as asked, but for bytes that can't stand in a request (RFC 9110, section 7.7)
	hasPath bool   // the URL had a path, if only /
}

// parseDestination reads a URL. Its host is brought to one form, its path is left as it is.
func parseDestination(text string) (destination, *failure) {
	if len(text) > maxURL {
		return destination{}, invalid("URL too long: %d > %d", len(text), maxURL)
	}
	head, path, hasPath := cutPath(text)
	u, err := url.Parse(head)
	if err != nil || strings.ContainsFunc(path, isControl) {
		return destination{}, invalid("Invalid URL")
	}
	d, f := destinationOf(u, head)
	if f != nil {
		return d, f
	}
	d.hasPath = hasPath
	if d.path, err = requestTarget(path); err != nil {
		return d, invalid("Invalid path in URL")
	}
	return d, nil
}

// cutPath cuts a URL with an authority before its path or query, and drops its fragment. Any other is given whole: it can't be
// requested.
func cutPath(text string) (head, path string, hasPath bool) {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok || strings.ContainsAny(scheme, "/?#") {
		return text, "", false
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		return text, "", false
	}
	path, _, _ = strings.Cut(rest[end:], "#")
	return text[:len(scheme)+len("://")+end], path, strings.HasPrefix(path, "/")
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

// requestTarget is a path and query as they are sent.
func requestTarget(path string) (string, error) {
	path = escapeTarget(path)
	switch {
	case !strings.HasPrefix(path, "/"): // empty, or a query only
		return "/" + path, nil
	case !strings.HasPrefix(path, "//"):
		return path, nil
	}
	// net/http writes such a path from its parts, in the form that net/url gives it.
	u := upstream.RequestURL("https", "host", path)
	if _, err := url.PathUnescape(u.RawPath); err != nil {
		return "", err
	}
	return u.RequestURI(), nil
}

// resolve resolves a Location against the destination it was sent from.
func (d destination) resolve(location string) (destination, *failure) {
	if len(location) > maxURL {
		return destination{}, invalid("Redirect to a URL that is too long")
	}
	if head, _, _ := cutPath(location); head != location || strings.Contains(location, "://") && !strings.ContainsAny(location, "/?#") {
		return parseDestination(location) // absolute
	}
	u, err := url.Parse(location)
	if err != nil {
		return destination{}, invalid("Redirect to an invalid URL")
	}
	if strings.Contains(authority(location), "%") {
		return destination{}, invalid("Invalid hostname in URL")
	}
	base, err := url.Parse(d.String())
	if err != nil { // its path was sent as the pack wrote it
		base = &url.URL{Scheme: d.scheme(), Host: d.hostPort(), Path: "/"}
	}
	return parseDestination(base.ResolveReference(u).String())
}

func destinationOf(u *url.URL, text string) (d destination, f *failure) {
	switch u.Scheme {
	case "http":
		d.port = 80
	case "https":
		d.tls, d.port = true, 443
	default:
		return d, invalid("Unsupported scheme: %s", shorten(u.Scheme))
	}
	if u.User != nil {
		return d, invalid("URL must not contain user-info")
	}
	name, port := splitPort(u.Host)
	if name == "" {
		return d, invalid("URL must have a hostname")
	}
	host, err := hostname.Parse(name)
	if err != nil || strings.Contains(authority(text), "%") {
		return d, invalid("Invalid hostname in URL")
	}
	if port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return d, invalid("Invalid port in URL")
		}
		d.port = uint16(n)
	}
	d.host = host
	return d, nil
}

// splitPort cuts ":port" off; url.Parse has made sure that it is a number or nothing.
func splitPort(hostport string) (host, port string) {
	i := strings.LastIndexByte(hostport, ':')
	if i < 0 || strings.HasSuffix(hostport, "]") {
		return hostport, ""
	}
	return hostport[:i], hostport[i+1:]
}

// authority is what stands for host and port in a URL's text, "" where it has none of its own.
func authority(text string) string {
	_, rest, ok := strings.Cut(text, "//")
	if !ok {
		return ""
	}
	if end := strings.IndexAny(rest, "/?#\\"); end >= 0 {
		rest = rest[:end]
	}
	return rest
}

// escapeTarget escapes what can't stand in a request line: spaces and other scripts.
func escapeTarget(target string) string {
	safe := true
	for i := range len(target) {
		if target[i] <= ' ' || target[i] >= 0x7f {
			safe = false
			break
		}
	}
	if safe {
		return target
	}
	var b strings.Builder
	for _, c := range []byte(target) {
		if c <= ' ' || c >= 0x7f {
			const hex = "0123456789ABCDEF"
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}

// hostPort is the Host field: without the port where it is the scheme's own.
func (d destination) hostPort() string {
	host := d.host.Name
	if d.host.Addr.Is6() {
		host = "[" + host + "]"
	}
	if d.port == d.defaultPort() {
		return host
	}
	return host + ":" + strconv.Itoa(int(d.port))
}

func (d destination) defaultPort() uint16 {
	if d.tls {
		return 443
	}
	return 80
}

func (d destination) scheme() string {
	if d.tls {
		return "https"
	}
	return "http"
}

// isHost says whether a Host field names this destination, its port given or not.
func (d destination) isHost(field string) bool {
	name, port := splitPort(strings.Trim(field, " \t"))
	host, err := hostname.Parse(name)
	if err != nil || host.Name != d.host.Name || host.Numeric {
		return false
	}
	return port == strconv.Itoa(int(d.port)) || port == "" && d.port == d.defaultPort()
}

// String is the URL for the pack: whole, but for a fragment.
func (d destination) String() string {
	return d.scheme() + "://" + d.hostPort() + strings.TrimPrefix(d.path, "*") // of OPTIONS
}

// redacted is the URL for the audit log: without query, and without segments that look like credentials.
func (d destination) redacted() string {
	const limit = 2 << 10
	path, _, _ := strings.Cut(d.path, "?")
	s := d.scheme() + "://" + d.hostPort() + urlpath.Mask(strings.TrimPrefix(path, "*"))
	if len(s) > limit {
		s = s[:limit] + "…"
	}
	return s
}

// sharesCredentialsWith says whether what a pack sent to d may be sent to next: the same origin, or the same name after the usual step
// from http to https.
func (d destination) sharesCredentialsWith(next destination) bool {
	if d.host != next.host {
		return false
	}
	if d.tls == next.tls && d.port == next.port {
		return true
	}
	return !d.tls && next.tls && d.port == 80 && next.port == 443
}
