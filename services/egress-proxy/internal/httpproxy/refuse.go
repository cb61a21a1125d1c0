package httpproxy

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/decision"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/record"
)

// refusal is the body of an answer that is the proxy's own.
type refusal struct {
	Success   bool          `json:"success"` // false
	Error     string        `json:"error"`
	ErrorType decision.Kind `json:"error_type"`
}

// refuse records why a request gets no answer from its server, and answers the client with the reason.
func (c *clientConn) refuse(r *record.Result, began time.Time) {
	if err := c.finish(r, began); err != nil {
		r.Failure = decision.Internal
	}
	body, _ := json.Marshal(refusal{Error: r.Failure.Text, ErrorType: r.Failure.Kind}, jsontext.AllowInvalidUTF8(true)) // of strings: it can't fail
	body = append(body, '\n')
	c.beginResponse()
	c.refusalHead(r)
	c.out.WriteString("Content-Type: application/json; charset=utf-8\r\nContent-Length: ")
	c.out.WriteString(strconv.Itoa(len(body)))
	if c.closeAfter {
		c.out.WriteString("\r\nConnection: close")
	}
	c.out.WriteString("\r\n\r\n")
	if r.Method != http.MethodHead {
		c.out.Write(body)
	}
	if c.out.Flush() != nil {
		c.closeAfter = true
	}
}

// httpStatus is how a failure is called in HTTP: 403 for what was refused.
func httpStatus(f *decision.Failure) int {
	switch f.Kind {
	case decision.KindValidation, decision.KindProtocol:
		return http.StatusBadRequest
	case decision.KindRate:
		return http.StatusTooManyRequests
	case decision.KindTimeout:
		return http.StatusGatewayTimeout
	case decision.KindInternal:
		return http.StatusInternalServerError
	}
	if f.Denied() {
		return http.StatusForbidden
	}
	return http.StatusBadGateway
}

// refusalHead writes what says that it is the proxy that answers, and not the server: Proxy-Status (RFC 9209), which no server's
// answer may have.
func (c *clientConn) refusalHead(r *record.Result) {
	status := httpStatus(r.Failure)
	reason := http.StatusText(status)
	if r.Method == http.MethodConnect { // of which most clients show nothing else
		reason = "Rumi: " + printable(strings.TrimPrefix(r.Failure.Text, "Network access denied: "))
	}
	c.out.WriteString("HTTP/1.1 " + strconv.Itoa(status) + " " + reason + "\r\nProxy-Status: rumi; error=" + proxyError(r.Failure) + "\r\n")
	if wait := c.pack.RetryAfter(r.Failure, time.Now()); wait > 0 {
		c.out.WriteString("Retry-After: " + strconv.Itoa(int(math.Ceil(wait.Seconds()))) + "\r\n")
	}
}

// printable is a text as a reason phrase may have it: one line of ASCII, of which a reader sees all.
func printable(text string) string {
	const limit = 200
	clean := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, text)
	return clean[:min(len(clean), limit)]
}

// proxyError is a failure in the words of RFC 9209, section 2.3. It doesn't tell the pack more than the text does: not which address a name has.
func proxyError(f *decision.Failure) string {
	switch {
	case f == decision.TooManyStreams:
		return "connection_limit_reached"
	case f.Denied():
		return "http_request_denied"
	}
	switch f.Kind {
	case decision.KindValidation, decision.KindProtocol, decision.KindClient:
		return "http_request_error"
	case decision.KindTimeout:
		if strings.HasPrefix(f.Text, "Request") {
			return "http_response_timeout"
		}
		return "connection_timeout"
	case decision.KindRefused, decision.KindDNS:
		return string(f.Kind)
	case decision.KindTLS:
		if strings.HasPrefix(f.Text, "TLS certificate") {
			return "tls_certificate_error"
		}
		return "tls_protocol_error"
	case decision.KindUpstream:
		return "http_response_incomplete"
	}
	return "proxy_internal_error"
}
