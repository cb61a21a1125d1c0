package egress

import (
	"bufio"
	"bytes"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/decision"

	"golang.org/x/net/http/httpguts"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/grant"
)

const (
	maxHead     = 32 << 10         // bytes of a request line and its fields
	headTimeout = 10 * time.Second // from a head's first byte to its last
)

var (
	errHeadTooLong = decision.Protocol("Request header too large (max: 32768 bytes)")
	errHeadTooSlow = decision.Protocol("Request did not arrive in time")
	errNotHTTP     = decision.Protocol("Request is not HTTP/1.1")
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
func checkHead(head []byte, inside *decision.Destination) (method string, to decision.Destination, f *decision.Failure) {
	lines := strings.Split(strings.TrimSuffix(string(head), "\r\n\r\n"), "\r\n")
	method, rest, _ := strings.Cut(lines[0], " ")
	target, version, ok := strings.Cut(rest, " ")
	if !ok || version != "HTTP/1.1" && version != "HTTP/1.0" || bytes.Count(head, []byte("\n")) != len(lines)+1 {
		return "", to, errNotHTTP
	}
	switch {
	case method == http.MethodConnect && inside == nil:
		to, f = decision.ParseAuthority(target)
	case !slices.Contains(grant.Methods, method):
		return "", to, decision.Invalid("Method not allowed: %s", decision.Clip(method))
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
func parseTarget(method, target string, inside *decision.Destination) (to decision.Destination, f *decision.Failure) {
	asterisk := method == http.MethodOptions && target == "*"
	switch {
	case inside == nil && strings.HasPrefix(target, "/"):
		return to, decision.Invalid("URL must have a hostname")
	case inside != nil && (asterisk || strings.HasPrefix(target, "/")):
		target = "http://" + inside.HostPort() + strings.TrimPrefix(target, "*")
	}
	for ours, theirs := range map[string]string{"http": "ws", "https": "wss"} {
		if scheme, rest, ok := strings.Cut(target, "://"); ok && strings.EqualFold(scheme, theirs) {
			target = ours + "://" + rest
			break
		}
	}
	if to, f = decision.ParseURL(target); f != nil {
		return to, f
	}
	if inside != nil && (to.TLS || to.Host != inside.Host || to.Port != inside.Port) {
		return to, decision.Invalid("URL is not of the tunnel's host")
	}
	if method == http.MethodOptions && !to.HasPath && !strings.Contains(to.Path, "?") {
		to.Path = "*" // RFC 9112, section 3.2.4
	}
	return to, nil
}

// checkFields says what is wrong with the lines of a head after the first.
func checkFields(fields []string, method, version string, to decision.Destination) *decision.Failure {
	if len(fields) > maxHeaders {
		return decision.Invalid("Too many headers: %d > %d", len(fields), maxHeaders)
	}
	seen := make(map[string]string, len(fields)) // the spelling of each name
	for _, line := range fields {
		name, value, ok := strings.Cut(line, ":")
		lower := strings.ToLower(name)
		value = strings.Trim(value, " \t")
		before, again := seen[lower]
		switch {
		case len(name) > maxHeaderName:
			return decision.Invalid("Header name too long: %d > %d", len(name), maxHeaderName)
		case !ok || !httpguts.ValidHeaderFieldName(name):
			return decision.Invalid("Invalid header name: %s", decision.Clip(name))
		case len(value) > maxHeaderValue:
			return decision.Invalid("Header value too long: %d > %d", len(value), maxHeaderValue)
		case !httpguts.ValidHeaderFieldValue(value):
			return decision.Invalid("Invalid value of header: %s", decision.Clip(name))
		case again && before != name:
			return decision.Invalid("Header in two spellings: %s", decision.Clip(name))
		case again && (lower == "host" || lower == "content-length" || lower == "transfer-encoding"):
			return decision.Invalid("Header given twice: %s", decision.Clip(name))
		case lower == "host" && !to.IsHost(value):
			return decision.Invalid("Host header does not equal the URL's host")
		case lower == "transfer-encoding" && (!strings.EqualFold(value, "chunked") || version != "HTTP/1.1" || method == http.MethodConnect):
			return decision.Invalid("Unsupported Transfer-Encoding")
		case lower == "expect" && !strings.EqualFold(value, "100-continue"):
			return decision.Invalid("Unsupported Expect header")
		}
		seen[lower] = name
	}
	_, chunked := seen["transfer-encoding"]
	name, sized := seen["content-length"]
	_, hosted := seen["host"]
	switch {
	case chunked && sized:
		return decision.Invalid("Both Content-Length and Transfer-Encoding")
	case sized && method == http.MethodConnect:
		return decision.Invalid("Header not allowed: %s", name)
	case !hosted && version == "HTTP/1.1":
		return decision.Invalid("Host header is missing")
	}
	return nil
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
