package egress

import (
	"net/url"
	"strconv"
	"strings"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/hostname"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/urlpath"
)

const maxURL = 16 << 10 // bytes

// place is where a request goes.
type place struct {
	tls  bool
	host hostname.Host
	port uint16
	path string // path and query, as sent
	base *url.URL
}

// parsePlace reads a URL. What is sent, judged and shown is what was understood of it, never its text.
func parsePlace(text string) (place, *failure) {
	if len(text) > maxURL {
		return place{}, invalid("URL too long: %d > %d", len(text), maxURL)
	}
	u, err := url.Parse(text)
	if err != nil {
		return place{}, invalid("Invalid URL")
	}
	return placeOf(u, text)
}

// follow resolves a Location against the place it was sent from.
func (p place) follow(location string) (place, *failure) {
	if len(location) > maxURL {
		return place{}, invalid("Redirect to a URL that is too long")
	}
	u, err := url.Parse(location)
	if err != nil {
		return place{}, invalid("Redirect to an invalid URL")
	}
	return placeOf(p.base.ResolveReference(u), location)
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
	p.path = urlpath.Normalize(u.EscapedPath())
	if p.path == "" {
		p.path = "/"
	}
	if u.ForceQuery || u.RawQuery != "" {
		p.path += "?" + escapeQuery(u.RawQuery)
	}
	p.base = u
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

// escapeQuery escapes what must not stand in a request line; url.Parse leaves spaces and other scripts as they are.
func escapeQuery(q string) string {
	safe := true
	for i := range len(q) {
		if q[i] <= ' ' || q[i] >= 0x7f {
			safe = false
			break
		}
	}
	if safe {
		return q
	}
	var b strings.Builder
	for _, c := range []byte(q) {
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
	return p.scheme() + "://" + p.hostPort() + p.path
}

// logged is the URL for the audit log: without query, and without segments that look like credentials.
func (p place) logged() string {
	const limit = 2 << 10
	path, _, _ := strings.Cut(p.path, "?")
	s := p.scheme() + "://" + p.hostPort() + urlpath.Mask(path)
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
