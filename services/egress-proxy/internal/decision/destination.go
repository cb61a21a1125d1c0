package decision

import (
	"net/url"
	"strconv"
	"strings"

	"github.com/rumi-ai/rumi/libs/hostname"
	"github.com/rumi-ai/rumi/libs/text"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/urlpath"
)

// MaxURL is the longest URL that a pack may ask for or be redirected to, in bytes.
const MaxURL = 16 << 10

// Destination is where a request goes, read from its URL. Use ParseURL or ParseAuthority.
type Destination struct {
	TLS  bool          // https
	Host hostname.Host // in hostname's one form
	Port uint16        // never 0

	// Path is the path and query exactly as they are sent to the server. What the pack wrote is kept, but bytes that can't stand in a request
	// line are escaped (RFC 9112, section 3.2). It begins with "/", or is "*" for an OPTIONS request about the whole server.
	Path string

	HasPath bool // the URL had a path, if only "/"
}

// ParseURL reads a URL. Its host is brought to its one form, its path is left as it is.
func ParseURL(text string) (Destination, *Failure) {
	if len(text) > MaxURL {
		return Destination{}, Invalid("URL too long: %d > %d", len(text), MaxURL)
	}
	head, path, hasPath := cutPath(text)
	u, err := url.Parse(head)
	if err != nil || strings.ContainsFunc(path, isControl) {
		return Destination{}, Invalid("Invalid URL")
	}
	d, f := fromURL(u, head)
	if f != nil {
		return d, f
	}
	d.HasPath = hasPath
	if d.Path, err = requestTarget(path); err != nil {
		return d, Invalid("Invalid path in URL")
	}
	return d, nil
}

// cutPath splits a URL with an authority before its path or query, and drops its fragment. A URL without an authority is returned whole: it can't
// be requested. The path is kept from net/url, which would normalise it: a rule must see the path that the server gets.
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
	u := urlpath.RequestURL("https", "host", path)
	if _, err := url.PathUnescape(u.RawPath); err != nil {
		return "", err
	}
	return u.RequestURI(), nil
}

// Resolve reads the Location of a redirect that d's server answered with: a whole URL, or one relative to d (RFC 9110, section 10.2.2).
func (d Destination) Resolve(location string) (Destination, *Failure) {
	if len(location) > MaxURL {
		return Destination{}, Invalid("Redirect to a URL that is too long")
	}
	if head, _, _ := cutPath(location); head != location || strings.Contains(location, "://") && !strings.ContainsAny(location, "/?#") {
		return ParseURL(location) // absolute
	}
	u, err := url.Parse(location)
	if err != nil {
		return Destination{}, Invalid("Redirect to an invalid URL")
	}
	if strings.Contains(authority(location), "%") {
		return Destination{}, Invalid("Invalid hostname in URL")
	}
	base, err := url.Parse(d.String())
	if err != nil { // its path was sent as the pack wrote it
		base = &url.URL{Scheme: d.Scheme(), Host: d.HostPort(), Path: "/"}
	}
	return ParseURL(base.ResolveReference(u).String())
}

// fromURL takes over everything but the path. text is what u was parsed from.
func fromURL(u *url.URL, text string) (d Destination, f *Failure) {
	switch u.Scheme {
	case "http":
		d.Port = 80
	case "https":
		d.TLS, d.Port = true, 443
	default:
		return d, Invalid("Unsupported scheme: %s", Clip(u.Scheme))
	}
	if u.User != nil {
		return d, Invalid("URL must not contain user-info")
	}
	name, port := splitPort(u.Host)
	if name == "" {
		return d, Invalid("URL must have a hostname")
	}
	host, err := hostname.Parse(name)
	if err != nil || strings.Contains(authority(text), "%") {
		return d, Invalid("Invalid hostname in URL")
	}
	if port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return d, Invalid("Invalid port in URL")
		}
		d.Port = uint16(n)
	}
	d.Host = host
	return d, nil
}

// splitPort cuts ":port" off. The port isn't checked.
func splitPort(hostport string) (host, port string) {
	i := strings.LastIndexByte(hostport, ':')
	if i < 0 || strings.HasSuffix(hostport, "]") {
		return hostport, ""
	}
	return hostport[:i], hostport[i+1:]
}

// authority returns the host and port as they are written in a URL, "" where the URL is relative. net/url decodes escapes in a host, other clients
// don't: so the callers of authority refuse a host that could mean two things.
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

// HostPort is the value of the Host field: the port is left out where it is the scheme's own.
func (d Destination) HostPort() string {
	host := d.Host.Name
	if d.Host.Addr.Is6() {
		host = "[" + host + "]"
	}
	if d.Port == d.defaultPort() {
		return host
	}
	return host + ":" + strconv.Itoa(int(d.Port))
}

func (d Destination) defaultPort() uint16 {
	if d.TLS {
		return 443
	}
	return 80
}

// Scheme is "http" or "https".
func (d Destination) Scheme() string {
	if d.TLS {
		return "https"
	}
	return "http"
}

// IsHost says whether a Host field names this destination, with its port or, where that is the scheme's own, without. A field that names another
// host would be served by that one on a shared server (domain fronting), past the grant.
func (d Destination) IsHost(field string) bool {
	name, port := splitPort(strings.Trim(field, " \t"))
	host, err := hostname.Parse(name)
	if err != nil || host.Name != d.Host.Name || host.Numeric {
		return false
	}
	return port == strconv.Itoa(int(d.Port)) || port == "" && d.Port == d.defaultPort()
}

// String is the URL as the pack gets it, final_url: everything but a fragment.
func (d Destination) String() string {
	return d.Scheme() + "://" + d.HostPort() + strings.TrimPrefix(d.Path, "*") // of OPTIONS
}

// Redacted is the URL for the audit log, at most 2 KiB long: without its query, and with segments that look like credentials masked.
func (d Destination) Redacted() string {
	const limit = 2 << 10
	path, _, _ := strings.Cut(d.Path, "?")
	return text.Clip(d.Scheme()+"://"+d.HostPort()+urlpath.Mask(strings.TrimPrefix(path, "*")), limit)
}

// SharesCredentialsWith says whether the headers and body that a pack sent to d may follow a redirect to next: within one origin, or on the usual
// step of one name from http on port 80 to https on port 443. Anywhere else they would hand the pack's credentials to another server.
func (d Destination) SharesCredentialsWith(next Destination) bool {
	if d.Host != next.Host {
		return false
	}
	if d.TLS == next.TLS && d.Port == next.Port {
		return true
	}
	return !d.TLS && next.TLS && d.Port == 80 && next.Port == 443
}

// ParseAuthority reads the host and port of a CONNECT request: "x.example:443". The port must be given (RFC 9110, section 9.3.6).
func ParseAuthority(text string) (Destination, *Failure) {
	name, port := splitPort(text)
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return Destination{}, Invalid("Invalid port in URL")
	}
	host, err := hostname.Parse(name)
	if err != nil {
		return Destination{}, Invalid("Invalid hostname in URL")
	}
	return Destination{TLS: true, Host: host, Port: uint16(n)}, nil
}
