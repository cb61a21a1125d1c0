package upstream

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// replay is a connection on which a server says in and closes.
type replay struct{ in io.Reader }

func (r replay) Read(p []byte) (int, error)       { return r.in.Read(p) }
func (replay) Write(p []byte) (int, error)        { return len(p), nil }
func (replay) Close() error                       { return nil }
func (replay) LocalAddr() net.Addr                { return nil }
func (replay) RemoteAddr() net.Addr               { return nil }
func (replay) SetDeadline(time.Time) error        { return nil }
func (replay) SetReadDeadline(t time.Time) error  { return nil }
func (replay) SetWriteDeadline(t time.Time) error { return nil }

// Whatever a server says, the answer has valid parts and bounded size, and a connection is kept only when nothing is left
// on it.
func FuzzReceive(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nhi\r\n0\r\nA: b\r\n\r\n",
		"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nhi", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 304 Not\r\n\r\n",
		"HTTP/1.1 200 OK\r\nX: a\r\n\tb\r\nX: \xe9\r\n\r\n", "HTTP/1.1 200 OK\nContent-Length: 0\n\nHTTP/1.1 200 OK\n\n", "\r\r\n", "HTTP/1.1 200 \r\r\nA:b\r\r\n\r\n",
	} {
		f.Add([]byte(s), "GET")
	}
	f.Fuzz(func(t *testing.T, in []byte, method string) {
		conn := replay{bytes.NewReader(in)}
		c := newConn(conn, conn)
		const limit = 1000
		response, reusable, err := c.roundTrip(&Request{Method: method, Path: "/", Host: "x", MaxBody: limit}, false, nil)
		if err != nil {
			_ = exchangeError(err).Text
			return
		}
		if response.Status < 200 || response.Status > 999 || len(response.Body) > limit {
			t.Fatalf("%q gives %+v, want a status of 200 to 999 and a body within the limit", in, response)
		}
		for _, field := range response.Fields {
			if !utf8.ValidString(field.Name+field.Value) || strings.ContainsAny(field.Name+field.Value, "\r\n\x00") {
				t.Fatalf("%q gives the field %q, want valid UTF-8 without the ends of lines", in, field)
			}
		}
		if rest := c.in.Buffered(); reusable && rest > 0 {
			t.Fatalf("%q: %d bytes are left on a connection that is used again, want none", in, rest)
		}
	})
}
