package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/gate"
)

func TestServersThatMisbehave(t *testing.T) {
	w := newWorld(t)
	const ok = "HTTP/1.1 200 OK\r\n"
	tests := []struct {
		name, answer string
		kind         string // "" for success
		body         string
	}{
		{"no body", ok + "Content-Length: 0\r\n\r\n", "", ""},
		{"until the end", ok + "\r\nall of it<close>", "", "all of it"},
		{"HTTP/1.0", "HTTP/1.0 200 OK\r\n\r\nold<close>", "", "old"},
		{"no reason", "HTTP/1.1 200\r\nContent-Length: 1\r\n\r\nx", "", "x"},
		{"bare LF", "HTTP/1.1 200 OK\nContent-Length: 1\n\nx", "", "x"},
		{"folded", ok + "X: a\r\n b\r\nContent-Length: 1\r\n\r\nx", "", "x"},
		{"chunked", ok + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\nTrailer: x\r\n\r\n", "", "abcde"},
		{"chunked and length", ok + "Transfer-Encoding: chunked\r\nContent-Length: 100\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "", "abc"},
		{"interim", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + ok + "Content-Length: 1\r\n\r\nx", "", "x"},
		{"the same length twice", ok + "Content-Length: 1\r\nContent-Length: 1\r\n\r\nx", "", "x"},
		{"more than it said", ok + "Content-Length: 1\r\n\r\nxHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", "", "x"},

		{"nothing", "<close>", "upstream_error", ""},
		{"reset", "<reset>", "upstream_error", ""},
		{"reset in the header", ok + "Content-<reset>", "upstream_error", ""},
		{"reset in the body", ok + "Content-Length: 10\r\n\r\nabc<reset>", "upstream_error", ""},
		{"stops short", ok + "Content-Length: 10\r\n\r\nabc<close>", "upstream_error", ""},
		{"chunk stops short", ok + "Transfer-Encoding: chunked\r\n\r\na\r\nabc<close>", "upstream_error", ""},
		{"no last chunk", ok + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n<close>", "upstream_error", ""},
		{"no end of trailer", ok + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n<close>", "upstream_error", ""},
		{"bad chunk", ok + "Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n", "upstream_error", ""},
		{"unknown coding", ok + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "upstream_error", ""},
		{"two lengths", ok + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nx", "upstream_error", ""},
		{"negative length", ok + "Content-Length: -1\r\n\r\nx", "upstream_error", ""},
		{"signed length", ok + "Content-Length: +1\r\n\r\nx", "upstream_error", ""},
		{"list of lengths", ok + "Content-Length: 1, 1\r\n\r\nx", "upstream_error", ""},
		{"huge length", ok + "Content-Length: 99999999999999999999\r\n\r\nx", "upstream_error", ""},
		{"nonsense", "SSH-2.0-OpenSSH_9.6\r\n\r\n<close>", "upstream_error", ""},
		{"HTTP/2", "HTTP/2 200 OK\r\n\r\n<close>", "upstream_error", ""},
		{"HTTP/0.9", "<html>hello</html><close>", "upstream_error", ""},
		{"status", "HTTP/1.1 abc OK\r\n\r\n<close>", "upstream_error", ""},
		{"status of four digits", "HTTP/1.1 2000 OK\r\n\r\n<close>", "upstream_error", ""},
		{"status below 100", "HTTP/1.1 099 OK\r\n\r\n<close>", "upstream_error", ""},
		{"empty first line", "\r\n" + ok + "\r\n<close>", "upstream_error", ""},
		{"field without colon", ok + "Nonsense\r\n\r\n<close>", "upstream_error", ""},
		{"field with space", ok + "A b: c\r\n\r\n<close>", "upstream_error", ""},
		{"space before colon", ok + "Content-Length : 5\r\n\r\nhello<close>", "upstream_error", ""},
		{"NUL in field", ok + "A: \x00\r\n\r\n<close>", "upstream_error", ""},
		{"CR in field", ok + "A: b\rC: d\r\n\r\n<close>", "upstream_error", ""},
		{"fold at once", ok + " a: b\r\n\r\n<close>", "upstream_error", ""},
		{"switch", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n<close>", "upstream_error", ""},
		{"interim for ever", strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 100) + "<close>", "upstream_error", ""},
		{"header for ever", ok + strings.Repeat("X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n", 4000) + "<close>", "upstream_error", ""},
		{"one long field", ok + "X: " + strings.Repeat("y", 300<<10) + "\r\n\r\n<close>", "upstream_error", ""},
		{"silence", "<hang>", "timeout", ""},
		{"silence in the header", ok + "<hang>", "timeout", ""},
		{"silence in the body", ok + "Content-Length: 10\r\n\r\nabc<hang>", "timeout", ""},
	}
	answers := map[string]string{}
	for i, tt := range tests {
		answers[fmt.Sprint("/", i)] = tt.answer
	}
	w.at("x.example", "93.184.216.34", "80", script(t, func(path string) string { return answers[path] }))
	for i, tt := range tests {
		seconds := 20.0
		if tt.kind == "timeout" {
			seconds = 0.1
		}
		r := w.ask("POST", fmt.Sprint("http://x.example/", i), "timeout_seconds", seconds)
		if r.errorType() != tt.kind || tt.kind == "" && *r.Body != tt.body {
			t.Errorf("%s: got %s %q, body %v; want the error type %q or the body %q", tt.name, r.errorType(), r.errorText(), r.Body, tt.kind, tt.body)
		}
		if strings.ContainsAny(r.errorText(), "0123456789") && !strings.Contains(r.errorText(), "HTTP/1.1") {
			t.Errorf("%s: the text %q has an address, want none", tt.name, r.errorText())
		}
	}
}

// timeout_seconds bounds all of a request: a server that always sends a little more doesn't get more time.
func TestTimeoutBoundsEverything(t *testing.T) {
	w := newWorld(t)
	over := make(chan struct{})
	drip := func(rw http.ResponseWriter, r *http.Request) {
		for {
			select {
			case <-over:
				return
			case <-r.Context().Done():
				return
			case <-time.After(5 * time.Millisecond):
				rw.Write([]byte("x"))
				rw.(http.Flusher).Flush()
			}
		}
	}
	w.site("drip.example", "93.184.216.34", false, drip)
	w.site("loop.example", "93.184.216.35", false, func(rw http.ResponseWriter, r *http.Request) {
		time.Sleep(60 * time.Millisecond)
		http.Redirect(rw, r, "http://loop.example/", http.StatusFound)
	})
	defer close(over)
	for _, url := range []string{"http://drip.example/", "http://loop.example/"} {
		began := time.Now()
		r := w.ask("GET", url, "timeout_seconds", 0.15)
		if took := time.Since(began); r.errorType() != "timeout" || took > 2*time.Second {
			t.Errorf("%s: got %s after %v, want timeout within 2s", url, r.errorType(), took)
		}
	}
	if r := w.ask("GET", "http://drip.example/", "timeout_seconds", 0.15, "connect_timeout_seconds", 0.1, "read_timeout_seconds", 0.1); r.errorType() != "timeout" {
		t.Errorf("all three limits: got %s, want timeout", r.errorType())
	}
}

func TestConnectFailures(t *testing.T) {
	w := newWorld(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	l.Close()
	w.at("closed.example", "93.184.216.34", "80", closed)
	w.at("half.example", "93.184.216.35", "80", closed)
	w.at("half.example", "93.184.216.36", "80", script(t, func(string) string { return "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi" }))
	for url, want := range map[string]string{
		"http://closed.example/":   "connection_refused Connection refused",
		"http://closed.example:1/": "connection_refused Host is not reachable",
		"http://unknown.example/":  "dns_error Name could not be resolved",
		"http://half.example/":     " ",
	} {
		if r := w.ask("GET", url); r.errorType()+" "+r.errorText() != want {
			t.Errorf("%s: got %s %q, want %s", url, r.errorType(), r.errorText(), want)
		}
	}
	w.proxy.packs.Upstream.Dial = func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }
	for _, field := range []string{"timeout_seconds", "connect_timeout_seconds"} {
		if r := w.ask("GET", "http://93.184.216.99/", field, 0.05); r.errorType() != "timeout" {
			t.Errorf("%s: got %s %q, want timeout", field, r.errorType(), r.errorText())
		}
	}
}

func TestTLS(t *testing.T) {
	w := newWorld(t)
	hello := func(rw http.ResponseWriter, r *http.Request) { rw.Write([]byte("hello")) }
	w.site("good.example", "93.184.216.1", true, hello)
	w.site("93.184.216.2", "93.184.216.2", true, hello)
	serveTLS := func(name, addr string, cert tls.Certificate, cfg *tls.Config) {
		cfg.Certificates = []tls.Certificate{cert}
		l, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
		if err != nil {
			t.Fatal(err)
		}
		accept(t, l, func(c net.Conn) {
			converse(c, func(string) string { return "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi" })
		})
		w.at(name, addr, "443", l.Addr().String())
	}
	serveTLS("wrong.example", "93.184.216.3", certificate(t, w.roots, "other.example"), &tls.Config{})
	serveTLS("unknown.example", "93.184.216.4", certificate(t, nil, "unknown.example"), &tls.Config{})
	serveTLS("expired.example", "93.184.216.5", certificate(t, w.roots, "expired.example", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), &tls.Config{})
	serveTLS("old.example", "93.184.216.6", certificate(t, w.roots, "old.example"), &tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10})
	for i, greeting := range []string{"HTTP/1.1 400 Bad Request\r\n\r\n", ""} {
		address := listen(t, func(c net.Conn) {
			io.WriteString(c, greeting)
			c.(*net.TCPConn).CloseWrite()
			io.Copy(io.Discard, c)
		})
		w.at([]string{"plain.example", "closes.example"}[i], "93.184.217."+strconv.Itoa(i), "443", address)
	}
	for url, want := range map[string]string{
		"https://good.example/":    " ",
		"https://93.184.216.2/":    " ",
		"https://wrong.example/":   "ssl_error TLS certificate is for another name",
		"https://93.184.216.1/":    "ssl_error TLS certificate is for another name",
		"https://unknown.example/": "ssl_error TLS certificate is signed by an unknown authority",
		"https://expired.example/": "ssl_error TLS certificate has expired or is not valid yet",
		"https://old.example/":     "ssl_error TLS handshake failed: server says tls: protocol version not supported",
		"https://plain.example/":   "ssl_error Server does not speak TLS",
		"https://closes.example/":  "ssl_error TLS handshake failed",
	} {
		if r := w.ask("GET", url); r.errorType()+" "+r.errorText() != want {
			t.Errorf("%s: got %s %q, want %s", url, r.errorType(), r.errorText(), want)
		}
	}
}

func TestConnectionsArePooled(t *testing.T) {
	w := newWorld(t)
	s := w.site("x.example", "93.184.216.1", false, func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/close" {
			rw.Header().Set("Connection", "close")
		}
	})
	conns := 0
	count := func() int {
		_, dialled := w.contacts()
		conns += len(dialled)
		return conns
	}
	get := func(want int, url string) {
		t.Helper()
		if r := w.ask("GET", url); !r.Success {
			t.Fatalf("GET %s fails: %s; want success", url, r.errorText())
		}
		if got := count(); got != want {
			t.Errorf("%s: %d connections, want %d", url, got, want)
		}
	}
	get(1, "http://x.example/")
	get(1, "http://x.example/2")
	get(1, "http://x.example/close")
	get(2, "http://x.example/")
	w.at("y.example", "93.184.216.1", "80", s.Listener.Addr().String())
	get(3, "http://y.example/") // the same address under another name
	get(3, "http://x.example/")
	s.CloseClientConnections()
	get(4, "http://x.example/") // a dead one is noticed before use
	w.proxy.Cut("p")
	get(5, "http://x.example/") // none is used past a revoke
	w.gates["q"], w.grants["q"] = gate.State{Open: true}, []string{"*"}
	if r := decode(t, w.proxy.Handler("q").Answer(context.Background(), []byte(`{"url":"http://x.example/"}`), nil)); !r.Success || count() != 6 {
		t.Errorf("another pack uses p's connection: %d connections", conns)
	}
	w.proxy.packs.Get("p").Session().Pool.Sweep(time.Now().Add(time.Hour))
	get(7, "http://x.example/") // idle for long
	w.proxy.Cut("q")
}

// A server that closes just when the next request comes must not cost a request that may be sent again.
func TestIdleConnectionDiesInFlight(t *testing.T) {
	w := newWorld(t)
	var mu sync.Mutex
	seen := map[string]int{}
	w.at("x.example", "93.184.216.1", "80", script(t, func(path string) string {
		mu.Lock()
		defer mu.Unlock()
		if seen[path]++; strings.HasPrefix(path, "/dies") && seen[path] == 1 {
			return "<close>"
		}
		return "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
	}))
	for method, want := range map[string]bool{"GET": true, "HEAD": true, "PUT": true, "DELETE": true, "POST": false, "PATCH": false} {
		if r := w.ask("GET", "http://x.example/"); !r.Success {
			t.Fatalf("the request before fails: %s; want success", r.errorText())
		}
		path := "/dies-" + method
		if r := w.ask(method, "http://x.example"+path); r.Success != want || !want && r.errorType() != "upstream_error" {
			t.Errorf("%s: got success %v, %s; want success %v, or else upstream_error", method, r.Success, r.errorType(), want)
		}
		if times := map[bool]int{true: 2, false: 1}[want]; seen[path] != times {
			t.Errorf("%s was sent %d times, want %d", method, seen[path], times)
		}
	}
	// On a new connection nothing is sent twice.
	w.proxy.Cut("p")
	if r := w.ask("GET", "http://x.example/dies-new"); r.Success || seen["/dies-new"] != 1 {
		t.Errorf("on a new connection: %v, sent %d times", r.Success, seen["/dies-new"])
	}
}
