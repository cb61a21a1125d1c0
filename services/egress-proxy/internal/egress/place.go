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

// place is where a request goes.
type place struct {
	tls    bool
	host   hostname.Host
	port   uint16
	path   string // path and query, as sent: as asked, but for bytes that can't stand in a request (RFC 9110, section 7.7)
	rooted bool   // the URL had a path, if only /
}

// parsePlace reads a URL. Its host is brought to one form, its path is left as it is.
func parsePlace(text string) (place, *failure) {
	if len(text) > maxURL {
		return place{}, invalid("URL too long: %d > %d", len(text), maxURL)
	}
	head, path, rooted := cutPath(text)
	u, err := url.Parse(head)
	if err != nil || strings.ContainsFunc(path, isControl) {
		return place{}, invalid("Invalid URL")
	}
	p, f := placeOf(u, head)
	if f != nil {
		return p, f
	}
	p.rooted = rooted
	if p.path, err = requestTarget(path); err != nil {
		return p, invalid("Invalid path in URL")
	}
	return p, nil
}

// cutPath cuts a URL with an authority before its path or query, and drops its fragment. Any other is given whole: it can't be
// requested.
func cutPath(text string) (head, path string, rooted bool) {
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

// follow resolves a Location against the place it was sent from.
func (p place) follow(location string) (place, *failure) {
	if len(location) > maxURL {
		return place{}, invalid("Redirect to a URL that is too long")
	}
	if head, _, _ := cutPath(location); head != location || strings.Contains(location, "://") && !strings.ContainsAny(location, "/?#") {
		return parsePlace(location) // absolute
	}
	u, err := url.Parse(location)
	if err != nil {
		return place{}, invalid("Redirect to an invalid URL")
	}
	if strings.Contains(authority(location), "%") {
		return place{}, invalid("Invalid hostname in URL")
	}
	base, err := url.Parse(p.String())
	if err != nil { // its path was sent as the pack wrote it
		base = &url.URL{Scheme: p.scheme(), Host: p.hostPort(), Path: "/"}
	}
	return parsePlace(base.ResolveReference(u).String())
}

func placeOf(u *url.URL, text string) (p place, f *failure) {
	switch u.Scheme {
	case "http":
		p.port = 80
	case "https":
		p.tls, p.port = true, 443
	default:
		return p, invalid("Unsupported scheme: %s", shorten(u.Scheme))
	}
	if u.User != nil {
		return p, invalid("URL must not contain user-info")
	}
	name, port := splitPort(u.Host)
	if name == "" {
		return p, invalid("URL must have a hostname")
	}
	host, err := hostname.Parse(name)
	if err != nil || strings.Contains(authority(text), "%") {
		return p, invalid("Invalid hostname in URL")
	}
	if port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return p, invalid("Invalid port in URL")
		}
		p.port = uint16(n)
	}
	p.host = host
	return p, nil
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
func (p place) hostPort() string {
	host := p.host.Name
	if p.host.Addr.Is6() {
		host = "[" + host + "]"
	}
	if p.port == p.defaultPort() {
		return host
	}
	return host + ":" + strconv.Itoa(int(p.port))
}

func (p place) defaultPort() uint16 {
	if p.tls {
		return 443
	}
	return 80
}

func (p place) scheme() string {
	if p.tls {
		return "https"
	}
	return "http"
}

// isHost says whether a Host field names this place, its port given or not.
func (p place) isHost(field string) bool {
	name, port := splitPort(strings.Trim(field, " \t"))
	host, err := hostname.Parse(name)
	if err != nil || host.Name != p.host.Name || host.Numeric {
		return false
	}
	return port == strconv.Itoa(int(p.port)) || port == "" && p.port == p.defaultPort()
}

// String is the URL for the pack: whole, but for a fragment.
func (p place) String() string {
	return p.scheme() + "://" + p.hostPort() + strings.TrimPrefix(p.path, "*") // of OPTIONS
}

// logged is the URL for the audit log: without query, and without segments that look like credentials.
func (p place) logged() string {
	const limit = 2 << 10
	path, _, _ := strings.Cut(p.path, "?")
	s := p.scheme() + "://" + p.hostPort() + urlpath.Mask(strings.TrimPrefix(path, "*"))
	if len(s) > limit {
		s = s[:limit] + "…"
	}
	return s
}

// trusts says whether what a pack sent to p may be sent to next: the same origin, or the same name after the usual step
// from http to https.
func (p place) trusts(next place) bool {
	if p.host != next.host {
		return false
	}
	if p.tls == next.tls && p.port == next.port {
		return true
	}
	return !p.tls && next.tls && p.port == 80 && next.port == 443
}
