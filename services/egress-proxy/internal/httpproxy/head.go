package httpproxy

import (
	"bufio"
	"bytes"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/decision"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/grant"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/headers"
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

// head waits for a whole request head, and leaves it unread. The error is bufio.ErrBufferFull for a head that is too long,
// os.ErrDeadlineExceeded for one that takes too long (a client that sends a byte a minute would hold its buffers for ever), or the connection's.
func (c *clientConn) head() ([]byte, error) {
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

// checkHead reads what a request's head says. Whatever two parsers may understand differently is refused (RFC 9112, sections 2.2, 3.2.2, 5.1, 5.2
// and 6.3): net/http reads the head after us, and the server after that, and all must see the request that was decided on. method and to are filled in as far as they
// could be read. tunnelTo is where the tunnel goes in which the request came; nil for none.
func checkHead(head []byte, tunnelTo *decision.Destination) (method string, to decision.Destination, f *decision.Failure) {
	lines := strings.Split(strings.TrimSuffix(string(head), "\r\n\r\n"), "\r\n")
	method, rest, _ := strings.Cut(lines[0], " ")
	target, version, ok := strings.Cut(rest, " ")
	if !ok || version != "HTTP/1.1" && version != "HTTP/1.0" || bytes.Count(head, []byte("\n")) != len(lines)+1 {
		return "", to, errNotHTTP
	}
	switch {
	case method == http.MethodConnect && tunnelTo == nil:
		to, f = decision.ParseAuthority(target)
	case !slices.Contains(grant.Methods, method):
		return "", to, decision.Invalid("Method not allowed: %s", decision.Clip(method))
	default:
		to, f = parseTarget(method, target, tunnelTo)
	}
	if f != nil {
		return method, to, f
	}
	return method, to, headers.OfHead(lines[1:], method, version, to)
}

// maskPercents overwrites the escapes in a head's request target, in place. checkHead has read the target already, and net/http, which reads the
// head next, refuses targets that servers accept, such as "/%".
func maskPercents(head []byte) {
	line, _, _ := bytes.Cut(head, []byte("\r\n"))
	for i := range line {
		if line[i] == '%' {
			line[i] = '_'
		}
	}
}

// parseTarget reads a request target: in absolute form (RFC 9112, section 3.2.2), or, in a tunnel, in origin form or what comes to the same.
func parseTarget(method, target string, tunnelTo *decision.Destination) (to decision.Destination, f *decision.Failure) {
	if url, ok := inTunnel(method, target, tunnelTo); ok {
		target = url
	} else if strings.HasPrefix(target, "/") {
		return to, decision.Invalid("URL must have a hostname")
	}
	if to, f = decision.ParseURL(fromWebSocket(target)); f != nil {
		return to, f
	}
	if tunnelTo != nil && (to.TLS || to.Host != tunnelTo.Host || to.Port != tunnelTo.Port) {
		return to, decision.Invalid("URL is not of the tunnel's host")
	}
	if method == http.MethodOptions && !to.HasPath && !strings.Contains(to.Path, "?") {
		to.Path = "*" // RFC 9112, section 3.2.4
	}
	return to, nil
}

// inTunnel returns the URL for a target without a host, which has a meaning in a tunnel only: a path, or "*" for OPTIONS.
func inTunnel(method, target string, tunnelTo *decision.Destination) (url string, ok bool) {
	if tunnelTo == nil || !strings.HasPrefix(target, "/") && (method != http.MethodOptions || target != "*") {
		return "", false
	}
	return "http://" + tunnelTo.HostPort() + strings.TrimPrefix(target, "*"), true
}

// fromWebSocket returns a URL with HTTP's scheme where it has WebSocket's. These are other names for the same: what asks for WebSocket is the
// upgrade (RFC 6455, section 1.7).
func fromWebSocket(url string) string {
	scheme, rest, ok := strings.Cut(url, "://")
	switch {
	case ok && strings.EqualFold(scheme, "ws"):
		return "http://" + rest
	case ok && strings.EqualFold(scheme, "wss"):
		return "https://" + rest
	}
	return url
}
