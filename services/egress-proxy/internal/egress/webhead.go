package egress

import (
	"bufio"
	"bytes"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/grant"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/hostname"
)

const (
	maxHead     = 32 << 10         // bytes of a request line and its fields
	headTimeout = 10 * time.Second // from a head's first byte to its last
)

var (
	errHeadTooLong = &failure{kind: "protocol_error", text: "Request header too large (max: 32768 bytes)"}
	errHeadTooSlow = &failure{kind: "protocol_error", text: "Request did not arrive in time"}
	errNotHTTP     = &failure{kind: "protocol_error", text: "Request is not HTTP/1.1"}
)

// head waits for a whole request head, which stays unread. The error is bufio.ErrBufferFull for one that is too long, or
// the connection's.
func (c *client) head() ([]byte, error) {
	timed := false
	for seen := 0; ; {
		_, err := c.in.Peek(seen + 1)
		have, _ := c.in.Peek(c.in.Buffered())
		if n := headEnd(have); n > 0 {
			if timed {
				c.stream.SetReadDeadline(time.Time{})
			}
			return have[:n], nil
		}
		if err != nil {
			return nil, err
		}
		if seen = len(have); seen == c.in.Size() {
			return nil, bufio.ErrBufferFull
		}
		if !timed {
			timed = true
			if err := c.stream.SetReadDeadline(time.Now().Add(headTimeout)); err != nil {
				return nil, err
			}
		}
	}
}

// headEnd is the length of the head that b begins with, its empty line included; 0 where there is no whole one.
func headEnd(b []byte) int {
	for from := 0; ; {
		i := bytes.IndexByte(b[from:], '\n')
		if i < 0 {
			return 0
		}
		from += i + 1
		switch rest := b[from:]; {
		case len(rest) > 0 && rest[0] == '\n':
			return from + 1
		case len(rest) > 1 && rest[0] == '\r' && rest[1] == '\n':
			return from + 2
		}
	}
}

// checkHead reads what a request's head says. It takes one reading of it only: what two parsers may understand
// differently is refused (RFC 9112, sections 2.2, 3.2.2, 5.1, 5.2 and 6.3). method and to are filled in as far as they
// could be read. inside is where a tunnel goes in which the request came; nil for none.
func checkHead(head []byte, inside *destination) (method string, to destination, f *failure) {
	lines := strings.Split(strings.TrimSuffix(string(head), "\r\n\r\n"), "\r\n")
	method, rest, _ := strings.Cut(lines[0], " ")
	target, version, ok := strings.Cut(rest, " ")
	if !ok || version != "HTTP/1.1" && version != "HTTP/1.0" || bytes.Count(head, []byte("\n")) != len(lines)+1 {
		return "", to, errNotHTTP
	}
	switch {
	case method == http.MethodConnect && inside == nil:
		to, f = parseAuthority(target)
	case !slices.Contains(grant.Methods, method):
		return "", to, invalid("Method not allowed: %s", shorten(method))
	default:
		to, f = parseTarget(method, target, inside)
	}
	if f != nil {
		return method, to, f
	}
	return method, to, checkFields(lines[1:], method, version, to)
}

// maskPercents overwrites the escapes in a head's request target, where it lies. checkHead has read it, and net/http, which reads the
// rest, refuses targets that servers accept.
func maskPercents(head []byte) {
	line, _, _ := bytes.Cut(head, []byte("\r\n"))
	for i := range line {
		if line[i] == '%' {
			line[i] = '_'
		}
	}
}

// parseTarget reads a request target: in absolute form (RFC 9112, section 3.2.2), or, in a tunnel, in origin form or what comes to
// the same. WebSocket's schemes are HTTP's by other names: what asks for it is the upgrade (RFC 6455, section 1.7).
func parseTarget(method, target string, inside *destination) (to destination, f *failure) {
	asterisk := method == http.MethodOptions && target == "*"
	switch {
	case inside == nil && strings.HasPrefix(target, "/"):
		return to, invalid("URL must have a hostname")
	case inside != nil && (asterisk || strings.HasPrefix(target, "/")):
		target = "http://" + inside.hostPort() + strings.TrimPrefix(target, "*")
	}
	for ours, theirs := range map[string]string{"http": "ws", "https": "wss"} {
		if scheme, rest, ok := strings.Cut(target, "://"); ok && strings.EqualFold(scheme, theirs) {
			target = ours + "://" + rest
			break
		}
	}
	if to, f = parseDestination(target); f != nil {
		return to, f
	}
	if inside != nil && (to.tls || to.host != inside.host || to.port != inside.port) {
		return to, invalid("URL is not of the tunnel's host")
	}
	if method == http.MethodOptions && !to.hasPath && !strings.Contains(to.path, "?") {
		to.path = "*" // RFC 9112, section 3.2.4
	}
	return to, nil
}

// checkFields says what is wrong with the lines of a head after the first.
func checkFields(fields []string, method, version string, to destination) *failure {
	if len(fields) > maxHeaders {
		return invalid("Too many headers: %d > %d", len(fields), maxHeaders)
	}
	seen := make(map[string]string, len(fields)) // the spelling of each name
	for _, line := range fields {
		name, value, ok := strings.Cut(line, ":")
		lower := strings.ToLower(name)
		value = strings.Trim(value, " \t")
		before, again := seen[lower]
		switch {
		case len(name) > maxHeaderName:
			return invalid("Header name too long: %d > %d", len(name), maxHeaderName)
		case !ok || !httpguts.ValidHeaderFieldName(name):
			return invalid("Invalid header name: %s", shorten(name))
		case len(value) > maxHeaderValue:
			return invalid("Header value too long: %d > %d", len(value), maxHeaderValue)
		case !httpguts.ValidHeaderFieldValue(value):
			return invalid("Invalid value of header: %s", shorten(name))
		case again && before != name:
			return invalid("Header in two spellings: %s", shorten(name))
		case again && (lower == "host" || lower == "content-length" || lower == "transfer-encoding"):
			return invalid("Header given twice: %s", shorten(name))
		case lower == "host" && !to.isHost(value):
			return invalid("Host header does not equal the URL's host")
		case lower == "transfer-encoding" && (!strings.EqualFold(value, "chunked") || version != "HTTP/1.1" || method == http.MethodConnect):
			return invalid("Unsupported Transfer-Encoding")
		case lower == "expect" && !strings.EqualFold(value, "100-continue"):
			return invalid("Unsupported Expect header")
		}
		seen[lower] = name
	}
	_, chunked := seen["transfer-encoding"]
	name, sized := seen["content-length"]
	_, hosted := seen["host"]
	switch {
	case chunked && sized:
		return invalid("Both Content-Length and Transfer-Encoding")
	case sized && method == http.MethodConnect:
		return invalid("Header not allowed: %s", name)
	case !hosted && version == "HTTP/1.1":
		return invalid("Host header is missing")
	}
	return nil
}

// parseAuthority reads where a CONNECT request wants a tunnel to.
func parseAuthority(text string) (destination, *failure) {
	name, port := splitPort(text)
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return destination{}, invalid("Invalid port in URL")
	}
	host, err := hostname.Parse(name)
	if err != nil {
		return destination{}, invalid("Invalid hostname in URL")
	}
	return destination{tls: true, host: host, port: uint16(n)}, nil
}

// isWebSocket says whether a head asks for that upgrade, or agrees to it. No other is passed on: what follows it could be
// requests that nobody judges.
func isWebSocket(h http.Header) bool {
	return hasToken(h["Connection"], "upgrade") && len(h["Upgrade"]) == 1 && strings.EqualFold(h["Upgrade"][0], "websocket")
}

func hasToken(values []string, want string) bool { return slices.Contains(tokens(values), want) }

// tokens are the elements of lists, in lower case.
func tokens(values []string) (all []string) {
	for _, value := range values {
		for token := range strings.SplitSeq(value, ",") {
			all = append(all, strings.ToLower(strings.Trim(token, " \t")))
		}
	}
	return all
}

// strip drops the fields that hold for one connection only, and those that the proxy says itself.
func strip(h http.Header) {
	named := tokens(h["Connection"])
	for name := range h {
		if lower := strings.ToLower(name); proxyControlled(lower) || lower == "transfer-encoding" || slices.Contains(named, lower) {
			delete(h, name)
		}
	}
}
