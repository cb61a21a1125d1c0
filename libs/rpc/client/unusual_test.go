package client_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/rpc/client"
	"github.com/rumi-ai/rumi/libs/rpc/internal/rpctest"
)

// joining is a connection whose writes may be made one.
type joining struct {
	net.Conn
	held *bytes.Buffer // nil where they are not
}

func (c *joining) Write(p []byte) (int, error) {
	if c.held != nil {
		return c.held.Write(p)
	}
	return c.Conn.Write(p)
}

// broken serves as "approval", and not as the library would: what answer gives for the request with that number on its connection is sent
// as it is, each piece in a record of its own and all records in one write. After an empty piece the connection ends.
func broken(t *testing.T, w *rpctest.World, answer func(n int, r *http.Request) []string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	cfg := w.Identity("approval").Server()
	serve := func(raw net.Conn) {
		defer raw.Close()
		below := &joining{Conn: raw}
		conn := tls.Server(below, cfg)
		in := bufio.NewReader(conn)
		for n := 0; ; n++ {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, r.Body)
			below.held = new(bytes.Buffer)
			ends := false
			for _, piece := range answer(n, r) {
				_, _ = io.WriteString(conn, piece)
				ends = piece == ""
			}
			all := below.held.Bytes()
			below.held = nil
			if _, err := raw.Write(all); err != nil || ends {
				return
			}
		}
	}
	go func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			go serve(raw)
		}
	}()
	return l.Addr().String()
}

func answered(n int) string {
	body := fmt.Sprintf(`{"success":true,"data":{"n":%d},"error":null}`, n)
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// Bytes that follow an answer must not be taken for the answer to the connection's next request.
func TestStrayBytesAreNoAnswer(t *testing.T) {
	w := rpctest.New(t)
	stray := answered(666)
	for name, c := range map[string]struct {
		method string
		pieces []string
	}{
		"a second answer":                  {"GET", []string{answered(1), stray}},
		"in the same record":               {"GET", []string{answered(1) + stray}},
		"half of one":                      {"GET", []string{answered(1), stray[:10]}},
		"one after a body in chunks":       {"GET", []string{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", stray}},
		"a body of a HEAD":                 {"HEAD", []string{"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", stray}},
		"one of a 204":                     {"GET", []string{"HTTP/1.1 204 No Content\r\nContent-Length: 100\r\n\r\n", stray}},
		"one of a 304":                     {"GET", []string{"HTTP/1.1 304 Not Modified\r\n\r\n", stray}},
		"more than the length":             {"GET", []string{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", stray}},
		"one after an answer without body": {"GET", []string{"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", stray}},
		"many":                             {"GET", append([]string{answered(1)}, strings.SplitAfter(strings.Repeat(stray, 500), "}}")...)},
	} {
		t.Run(name, func(t *testing.T) {
			peer := w.Peer("gateway", broken(t, w, func(n int, r *http.Request) []string {
				if r.URL.Path == "/own" {
					return []string{answered(7)}
				}
				return c.pieces
			}))
			for range 3 {
				r, err := http.NewRequestWithContext(t.Context(), c.method, "https://approval/odd", nil)
				if err != nil {
					t.Fatal(err)
				}
				response, err := peer.RoundTrip(r)
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, response.Body)
				response.Body.Close()
				for range 2 {
					if got, err := client.Call[rpctest.Number](t.Context(), peer, "POST", "/own", rpctest.Number{N: 7}); err != nil || got.N != 7 {
						t.Errorf("the next call got %d, %v; want 7", got.N, err)
					}
				}
			}
		})
	}
}

// An answer without the envelope of a success is an error, whatever its status.
func TestMalformedAnswersAreErrors(t *testing.T) {
	w := rpctest.New(t)
	for _, c := range []struct {
		status, body, want string // of the error
	}{
		{"200 OK", `{}`, "status 200 without success"},
		{"200 OK", `{"success":false,"data":{"n":1},"error":null}`, "status 200 without success"},
		{"200 OK", `{"success":false,"data":null,"error":"Broken"}`, "status 200 without success"},
		{"200 OK", `{"success":true,"data":[],"error":null}`, "unmarshal JSON array"},
		{"200 OK", `{"success":true,"data":{"n":1},"error":null}{}`, "read answer"},
		{"200 OK", `null`, "status 200 without success"},
		{"200 OK", ``, "read answer"},
		{"204 No Content", ``, "read answer"},
		{"302 Found", ``, "status 302 without a readable answer"},
		{"400 Bad Request", `{"success":false}`, "status 400 without a readable answer"},
		{"500 Oh", `<html>`, "status 500 without a readable answer"},
		{"599 Oh", `{"success":true,"data":{"n":1},"error":null}`, "status 599 without a readable answer"},
		{"999 Oh", `{"success":true,"data":{"n":1},"error":null}`, "status 999 without a readable answer"},
	} {
		peer := w.Peer("gateway", broken(t, w, func(int, *http.Request) []string {
			return []string{fmt.Sprintf("HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s", c.status, len(c.body), c.body)}
		}))
		got, err := client.Call[rpctest.Number](t.Context(), peer, "GET", "/x", nil)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "%!") {
			t.Errorf("%s %s: got %v, %v; want an error that says %q", c.status, c.body, got, err, c.want)
		}
	}
}

// noted is a body that knows whether it was closed.
type noted struct {
	io.Reader
	closed atomic.Bool
}

func (n *noted) Close() error { n.closed.Store(true); return nil }

// A body is closed however the call ends: who writes to its other end would wait for ever.
func TestBodiesAreClosed(t *testing.T) {
	w := rpctest.New(t)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	dead := w.Peer("gateway", l.Addr().String())
	for name, c := range map[string]struct {
		ctx   context.Context
		peer  *client.Peer
		calls int
	}{
		"a dead one, and a breaker": {t.Context(), dead, 7},
		"nobody waits":              {over, w.Peer("gateway", broken(t, w, func(int, *http.Request) []string { return []string{answered(1)} })), 1},
		"an answer":                 {t.Context(), w.Peer("gateway", broken(t, w, func(int, *http.Request) []string { return []string{answered(1)} })), 1},
	} {
		for i := range c.calls {
			body := &noted{Reader: strings.NewReader("{}")}
			_, _ = client.Call[rpctest.Number](c.ctx, c.peer, "POST", "/x", body)
			for range 1000 { // http.Transport may close it a little later
				if body.closed.Load() {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			if !body.closed.Load() {
				t.Errorf("%s: the body of call %d was not closed", name, i)
			}
		}
	}
}

// A request whose context has ended already isn't sent, and costs no connection.
func TestCancelledRequestsAreNotSent(t *testing.T) {
	w := rpctest.New(t)
	var asked atomic.Int32
	s := w.ServeCounted(w.Mux(map[string]http.Handler{"POST /double": rpc.Handle(func(_ context.Context, n rpctest.Number) (rpctest.Number, error) {
		asked.Add(1)
		return n, nil
	})}), "")
	peer := w.Peer("gateway", s.Address())
	if _, err := client.Call[rpctest.Number](t.Context(), peer, "POST", "/double", rpctest.Number{N: 1}); err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 {
		if _, err := client.Call[rpctest.Number](over, peer, "POST", "/double", rpctest.Number{N: 1}); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	if _, err := client.Call[rpctest.Number](t.Context(), peer, "POST", "/double", rpctest.Number{N: 1}); err != nil {
		t.Fatal(err)
	}
	if asked.Load() != 2 || s.Connections.Load() != 1 {
		t.Errorf("asked %d times over %d connections, want twice over one", asked.Load(), s.Connections.Load())
	}
}

// Unusual answers are read as http.Transport reads them, and so is the answer that follows.
func TestUnusualAnswersAreReadAsNetHTTPDoes(t *testing.T) {
	w := rpctest.New(t)
	const ok = "HTTP/1.1 200 OK\r\n"
	for name, answer := range map[string]string{
		"plain":                      ok + "Content-Length: 2\r\n\r\nok",
		"HTTP/1.0":                   "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.0, kept":             "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.0, no length":        "HTTP/1.0 200 OK\r\n\r\nok",
		"HTTP/1.0, chunked":          "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
		"HTTP/2":                     "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/9":                     "HTTP/9.9 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"no protocol":                "200 OK\r\n\r\n",
		"no reason":                  "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok",
		"status of two digits":       "HTTP/1.1 20 OK\r\n\r\n",
		"status of four":             "HTTP/1.1 2000 OK\r\n\r\n",
		"status 0":                   "HTTP/1.1 000 OK\r\nContent-Length: 2\r\n\r\nok",
		"negative status":            "HTTP/1.1 -20 OK\r\nContent-Length: 2\r\n\r\nok",
		"status 999":                 "HTTP/1.1 999 OK\r\nContent-Length: 2\r\n\r\nok",
		"line feeds alone":           "HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
		"no end of line":             "HTTP/1.1 200 OK",
		"close":                      ok + "Connection: close\r\nContent-Length: 2\r\n\r\nok",
		"close and keep":             ok + "Connection: keep-alive, close\r\nContent-Length: 2\r\n\r\nok",
		"two lengths":                ok + "Content-Length: 2\r\nContent-Length: 3\r\n\r\nok",
		"one length twice":           ok + "Content-Length: 2\r\nContent-Length: 2\r\n\r\nok",
		"two in one":                 ok + "Content-Length: 2, 2\r\n\r\nok",
		"negative length":            ok + "Content-Length: -1\r\n\r\nok",
		"signed length":              ok + "Content-Length: +2\r\n\r\nok",
		"hexadecimal length":         ok + "Content-Length: 0x2\r\n\r\nok",
		"huge length":                ok + "Content-Length: 99999999999999999999\r\n\r\nok",
		"empty length":               ok + "Content-Length: \r\n\r\nok",
		"length and chunks":          ok + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
		"chunks twice":               ok + "Transfer-Encoding: chunked, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
		"identity":                   ok + "Transfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nok",
		"gzip, chunked":              ok + "Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
		"bad size of a chunk":        ok + "Transfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n",
		"size of a chunk too large":  ok + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nok",
		"extension of a chunk":       ok + "Transfer-Encoding: chunked\r\n\r\n2;a=b\r\nok\r\n0\r\n\r\n",
		"extensions without end":     ok + "Transfer-Encoding: chunked\r\n\r\n2;" + strings.Repeat("a", 1<<20) + "\r\nok\r\n0\r\n\r\n",
		"chunk longer than its size": ok + "Transfer-Encoding: chunked\r\n\r\n2\r\nokay\r\n0\r\n\r\n",
		"trailers":                   ok + "Transfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n2\r\nok\r\n0\r\nX-T: v\r\n\r\n",
		"trailers nobody announced":  ok + "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nContent-Length: 7\r\n\r\n",
		"trailers without end":       ok + "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n" + strings.Repeat("X-T: v\r\n", 200_000) + "\r\n",
		"garbled trailers":           ok + "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nno trailer\r\n\r\n",
		"no last chunk":              ok + "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
		"folded header":              ok + "X-A: b\r\n c\r\nContent-Length: 2\r\n\r\nok",
		"header that is folded":      ok + " X-A: b\r\nContent-Length: 2\r\n\r\nok",
		"header without colon":       ok + "X-A\r\nContent-Length: 2\r\n\r\nok",
		"header without name":        ok + ": b\r\nContent-Length: 2\r\n\r\nok",
		"space before the colon":     ok + "Content-Length : 2\r\n\r\nok",
		"NUL in a header":            ok + "X-A: \x00\r\nContent-Length: 2\r\n\r\nok",
		"100 first":                  "HTTP/1.1 100 Continue\r\n\r\n" + ok + "Content-Length: 2\r\n\r\nok",
		"103 with a length":          "HTTP/1.1 103 Early Hints\r\nContent-Length: 2\r\n\r\n" + ok + "Content-Length: 2\r\n\r\nok",
		"103 with a body":            "HTTP/1.1 103 Early Hints\r\nContent-Length: 2\r\n\r\nok" + ok + "Content-Length: 2\r\n\r\nok",
		"many 103":                   strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 5) + ok + "Content-Length: 2\r\n\r\nok",
		"103 without end":            strings.Repeat("HTTP/1.1 103 Early Hints\r\nX-A: "+strings.Repeat("x", 1000)+"\r\n\r\n", 20_000),
		"103 only":                   "HTTP/1.1 103 Early Hints\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			peer := w.Peer("gateway", broken(t, w, func(n int, r *http.Request) []string {
				if r.URL.Path == "/own" {
					return []string{answered(7)}
				}
				return []string{answer, ""}
			}))
			read := func(body io.Reader) string {
				r, err := http.NewRequestWithContext(t.Context(), "POST", "https://approval/odd", body)
				if err != nil {
					t.Fatal(err)
				}
				response, err := peer.RoundTrip(r)
				if err != nil {
					return "refused"
				}
				data, err := io.ReadAll(response.Body)
				response.Body.Close()
				return fmt.Sprint(response.Proto, response.StatusCode, response.Header, response.ContentLength, response.Close, response.TransferEncoding, response.Trailer, string(data), err)
			}
			got, want := read(strings.NewReader("{}")), read(io.MultiReader(strings.NewReader("{}")))
			if got != want {
				t.Errorf("read %.300s, want %.300s", got, want)
			}
			for range 2 {
				if got, err := client.Call[rpctest.Number](t.Context(), peer, "GET", "/own", nil); err != nil || got.N != 7 {
					t.Errorf("the next call got %d, %v; want 7", got.N, err)
				}
			}
		})
	}
}
