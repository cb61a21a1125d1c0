package server

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"strconv"

	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/rpc"
)

// EnvelopeRefusals has what net/http answers by itself, before any handler, in the envelope and with a request id: a request that
// is no HTTP, a header that is too large, a transfer encoding or an expectation that it doesn't know. net/http writes
// such an answer as text, in one write of its own, and closes the connection after it.
func EnvelopeRefusals(l net.Listener, log *slog.Logger) net.Listener { return refusalListener{l, log} }

type refusalListener struct {
	net.Listener
	log *slog.Logger
}

func (l refusalListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &refusalConn{conn, l.log}, nil
}

type refusalConn struct {
	net.Conn
	log *slog.Logger
}

// Of net/http: what stands between the status line and the text of its own answers, and how its answer to Expect begins, which no
// handler gives.
var (
	plainHeaders = []byte("\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n")
	expectation  = []byte("HTTP/1.1 417 ")
)

// maxRefusal is longer than any of net/http's own answers, in bytes.
const maxRefusal = 512

// Write implements net.Conn.
func (c *refusalConn) Write(p []byte) (int, error) {
	status, detail := refusal(p)
	if status == 0 {
		return c.Conn.Write(p)
	}
	id := origin.NewRequestID()
	c.log.Info("refused what is no request that HTTP/1.1 allows", "status", status, "detail", detail,
		"address", c.Conn.RemoteAddr().String(), "request_id", id)
	answer, err := refusalAnswer(status, detail, id)
	if err != nil {
		return 0, err
	}
	if _, err := c.Conn.Write(answer); err != nil {
		return 0, err
	}
	return len(p), nil
}

// refusal is the status of an answer of net/http's own, and what it says beyond that, which is never the client's; 0 for any other write.
func refusal(p []byte) (status int, detail string) {
	if len(p) > maxRefusal || len(p) < len(expectation) || !bytes.HasPrefix(p, []byte("HTTP/1.1 ")) || p[len("HTTP/1.1 ")] < '4' {
		return 0, ""
	}
	line, text, plain := bytes.Cut(p, plainHeaders)
	if !plain && !bytes.HasPrefix(p, expectation) {
		return 0, ""
	}
	status, err := strconv.Atoi(string(line[len("HTTP/1.1 ") : len(expectation)-1]))
	if err != nil || status < 400 {
		return 0, ""
	}
	if _, after, found := bytes.Cut(text, []byte(": ")); found {
		detail = string(after)
	}
	return status, detail
}

// failure is what the envelope of a refusal says.
type failure struct{ code, text, remedy string }

// refusals are the codes and texts of the statuses that net/http answers with.
var refusals = map[int]failure{
	400: {"invalid_http", "Invalid HTTP request", "the request line or a header can't be read"},
	417: {"unsupported_expectation", "Expectation not supported", "the only one is 100-continue"},
	431: {"header_too_large", "Request header too large", "at most 64 KiB"},
	501: {"unsupported_encoding", "Transfer encoding not supported", "the only one is chunked"},
	505: {"unsupported_version", "HTTP version not supported", "want HTTP/1.1"},
}

func refusalAnswer(status int, detail, id string) ([]byte, error) {
	known, ok := refusals[status]
	if !ok {
		known = refusals[400]
	}
	if detail != "" && status == 400 {
		known.remedy = detail
	}
	return envelope(status, known, id)
}

// envelope is a whole answer, after which the connection is closed.
func envelope(status int, f failure, id string) ([]byte, error) {
	body, err := rpc.MarshalFailure(f.text+": "+f.remedy, f.code)
	if err != nil {
		return nil, fmt.Errorf("answer a request that is none: %w", err)
	}
	head := fmt.Sprintf("HTTP/1.1 %d %s\r\nContent-Type: application/json; charset=utf-8\r\nCache-Control: no-store\r\n"+
		"X-Content-Type-Options: nosniff\r\n%s: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n", status, f.text, rpc.RequestIDHeader, id, len(body))
	return append([]byte(head), body...), nil
}
