package egress

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/frameproto"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/headers"
)

// site2 is site for a server that speaks HTTP/2, and HTTP/1.1 to who doesn't.
func (w *world) site2(name, addr string, h http.HandlerFunc, change ...func(*http.Server)) *httptest.Server {
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{certificate(w.t, w.roots, name)}}
	s.EnableHTTP2 = true
	for _, f := range change {
		f(s.Config)
	}
	s.StartTLS()
	w.t.Cleanup(s.Close)
	w.at(name, addr, "443", s.Listener.Addr().String())
	return s
}

// absolute sends a request in absolute form for an https URL, over a connection of its own.
func absolute(t testing.TB, path, method, url, fields, body string) (*http.Response, net.Conn, *bufio.Reader) {
	t.Helper()
	c := dialSocket(t, path)
	host, _, _ := strings.Cut(strings.TrimPrefix(url, "https://"), "/")
	fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: %s\r\n%s\r\n%s", method, url, host, fields, body)
	in := bufio.NewReader(c)
	r, err := http.ReadResponse(in, &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	return r, c, in
}

func TestHTTP2InFrames(t *testing.T) {
	w := newWorld(t)
	var got *http.Request
	var sent []byte
	w.site2("x.example", "93.184.216.34", func(rw http.ResponseWriter, r *http.Request) {
		got = r
		sent, _ = io.ReadAll(r.Body)
		switch r.URL.Path {
		case "/binary":
			rw.Write([]byte{0xff, 0xfe, 0})
		case "/huge":
			rw.Write(make([]byte, frameproto.MaxResponse+1))
		case "/claims":
			rw.Header().Set("Content-Length", fmt.Sprint(frameproto.MaxResponse+1))
		case "/moved":
			http.Redirect(rw, r, "/end", http.StatusFound)
		case "/same":
			rw.Header().Set("Content-Length", "100")
			rw.WriteHeader(http.StatusNotModified)
		default:
			rw.Header()["Set-Cookie"] = []string{"b=2", "a=1"}
			rw.Header().Set("x-other", "y")
			fmt.Fprint(rw, "hello")
		}
	})
	r := w.ask("POST", "https://x.example//a%2Fb/?q=%20&&x", "body", "some text", "headers", map[string]string{"x-api-KEY": "k", "Cookie": "a=1; b=2", "Connection": "X-Drop", "X-Drop": "1"})
	if !r.Success || *r.Body != "hello" || r.Headers["Set-Cookie"] != "b=2\na=1" || r.Headers["X-Other"] != "y" {
		t.Fatalf("got %+v (%s), want hello with both cookies and X-Other", r, r.errorText())
	}
	if got.ProtoMajor != 2 || got.Host != "x.example" || got.RequestURI != "//a%2Fb/?q=%20&&x" || got.Method != "POST" || string(sent) != "some text" || got.ContentLength != 9 {
		t.Errorf("the server got %s %s %s %q, want HTTP/2 with the method, the target and the body as sent", got.Proto, got.Method, got.RequestURI, sent)
	}
	if h := got.Header; h.Get("X-Api-Key") != "k" || h.Get("X-Drop") != "" || h.Get("Accept-Encoding") != "identity" || h.Get("User-Agent") != headers.UserAgent || h.Get("Cookie") != "a=1; b=2" {
		t.Errorf("the server got the headers %v, want the client's without those of its connection", h)
	}
	for i := range r.HeaderList[1:] {
		if r.HeaderList[i][0] > r.HeaderList[i+1][0] {
			t.Errorf("the header list is %v, want it sorted by name", r.HeaderList)
		}
	}
	large := strings.Repeat("x", 900<<10)
	for _, c := range []struct{ method, path, body, kind, answer string }{
		{"GET", "/binary", "", "", "//4A"},
		{"GET", "/huge", "", "response_too_large", ""},
		{"GET", "/claims", "", "response_too_large", ""},
		{"HEAD", "/claims", "", "", ""},
		{"GET", "/same", "", "", ""},
		{"GET", "/moved", "", "", "hello"},
		{"PUT", "/", large, "", "hello"},
	} {
		if r := w.ask(c.method, "https://x.example"+c.path, "body", c.body); r.errorType() != c.kind || c.kind == "" && *r.Body != c.answer {
			t.Errorf("%s: got %s %s, want the error type %q or the body %q", c.path, r.errorType(), r.errorText(), c.kind, c.answer)
		}
		if string(sent) != c.body {
			t.Errorf("%s: %d bytes arrived, want %d", c.path, len(sent), len(c.body))
		}
	}
	if _, dialled := w.contacts(); len(dialled) != 1 {
		t.Errorf("%d connections, want 1", len(dialled))
	}
}

// One connection serves many requests at once; it belongs to a pack, a name and an address, and ends with a revoke.
func TestHTTP2IsShared(t *testing.T) {
	w := newWorld(t)
	var mu sync.Mutex
	waiting, most := 0, 0
	all := make(chan struct{})
	s := w.site2("x.example", "93.184.216.34", func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/wait" {
			return
		}
		mu.Lock()
		waiting++
		if most = max(most, waiting); waiting == 15 {
			close(all)
		}
		mu.Unlock()
		<-all
	})
	dialled := 0
	count := func() int {
		_, d := w.contacts()
		dialled += len(d)
		return dialled
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
	get(1, "https://x.example/")
	var asking sync.WaitGroup
	for range 15 {
		asking.Go(func() {
			if r := w.ask("GET", "https://x.example/wait"); !r.Success {
				t.Errorf("a GET among many fails: %s; want success", r.errorText())
			}
		})
	}
	asking.Wait()
	if got := count(); got != 1 {
		t.Errorf("%d connections, want 1", got)
	}
	w.roots.AddCert(s.Certificate())
	w.at("y.example", "93.184.216.34", "443", s.Listener.Addr().String())
	if r := w.ask("GET", "https://y.example/"); r.errorType() != "ssl_error" || count() != 2 { // the certificate is for x
		t.Errorf("another name: got %s over %d connections, want ssl_error over a second", r.errorType(), count())
	}
	w.gates["q"], w.grants["q"] = gate.State{Open: true}, []string{"*"}
	if r := decode(t, w.proxy.Handler("q").Answer(context.Background(), []byte(`{"url":"https://x.example/"}`), nil)); !r.Success || count() != 3 {
		t.Errorf("another pack uses p's connection: %d connections", dialled)
	}
	w.proxy.Cut("q")
	get(3, "https://x.example/")
	w.proxy.Cut("p")
	get(4, "https://x.example/") // none is used past a revoke
	w.proxy.packs.Get("p").Session().Pool.Sweep(time.Now().Add(time.Hour))
	get(5, "https://x.example/") // idle for long
	s.CloseClientConnections()
	get(6, "https://x.example/") // a dead one is noticed
}

func TestCutEndsHTTP2(t *testing.T) {
	w := newWorld(t)
	arrived, left := make(chan string, 2), make(chan string, 2)
	closed := make(chan struct{}, 2)
	w.site2("x.example", "93.184.216.34", func(rw http.ResponseWriter, r *http.Request) {
		rw.Write([]byte("begun"))
		rw.(http.Flusher).Flush()
		arrived <- r.Proto
		<-r.Context().Done()
		left <- r.URL.Path
	}, func(s *http.Server) {
		s.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed {
				closed <- struct{}{}
			}
		}
	})
	arrives := func(path string) {
		t.Helper()
		if proto := <-arrived; proto != "HTTP/2.0" {
			t.Errorf("%s came as %s, want HTTP/2.0", path, proto)
		}
	}
	framed := make(chan reply, 1)
	go func() { framed <- w.ask("GET", "https://x.example/framed") }()
	arrives("/framed")
	streamed, _, _ := absolute(t, w.socket(), "GET", "https://x.example/streamed", "", "")
	arrives("/streamed")
	if _, dialled := w.contacts(); len(dialled) != 1 {
		t.Errorf("what is framed and what is streamed use %d connections, want 1", len(dialled))
	}
	w.mu.Lock()
	w.grants["p"] = nil
	w.mu.Unlock()
	w.proxy.Cut("p")
	if r := <-framed; r.errorType() != "grant_denied" {
		t.Errorf("after the cut: got %s %s, want grant_denied", r.errorType(), r.errorText())
	}
	if _, err := io.ReadAll(streamed.Body); err == nil {
		t.Error("the stream ended well")
	}
	for range 2 {
		<-left // the server's handlers see it
	}
	<-closed // and the connection doesn't stay
}

// What a pack sees of a plain HTTP proxy is the same whether the server speaks HTTP/2 or not.
func TestHTTP2InHTTP(t *testing.T) {
	w := newWorld(t)
	next := make(chan string)
	w.site2("x.example", "93.184.216.34", func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("X-Proto", r.Proto)
		switch r.URL.Path {
		case "/trailer":
			rw.Header().Set("Trailer", "X-Sum")
			body, _ := io.ReadAll(r.Body)
			rw.Write(body)
			rw.Header().Set("X-Sum", r.Trailer.Get("X-After"))
		case "/events":
			rw.Header().Set("Content-Type", "text/event-stream")
			rw.(http.Flusher).Flush()
			for text := range next {
				io.WriteString(rw, text)
				rw.(http.Flusher).Flush()
			}
		case "/ws":
			echoUpgrade("websocket")(rw, r)
		default:
			n, _ := io.Copy(io.Discard, r.Body)
			fmt.Fprint(rw, n)
		}
	})
	path := w.socket()
	read := func(r *http.Response) string {
		t.Helper()
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		return string(body)
	}
	r, _, _ := absolute(t, path, "POST", "https://x.example/trailer", "TE: trailers\r\nTransfer-Encoding: chunked\r\nTrailer: X-After\r\n", "3\r\nabc\r\n0\r\nX-After: 7\r\n\r\n")
	if body := read(r); body != "abc" || r.Trailer.Get("X-Sum") != "7" || r.Header.Get("X-Proto") != "HTTP/2.0" || r.Proto != "HTTP/1.1" {
		t.Errorf("got %q with the trailer %v and the header %v; want abc, X-Sum 7 and HTTP/2.0 within HTTP/1.1", body, r.Trailer, r.Header)
	}
	large := strings.Repeat("0123456789abcdef", 1<<18) // 4 MiB
	r, _, _ = absolute(t, path, "PUT", "https://x.example/sink", fmt.Sprintf("Content-Length: %d\r\n", len(large)), large)
	if body := read(r); body != fmt.Sprint(len(large)) {
		t.Errorf("the server got %s bytes, want %d", body, len(large))
	}
	r, c, _ := absolute(t, path, "GET", "https://x.example/events", "", "")
	buf := make([]byte, 100)
	for i := range 3 {
		want := fmt.Sprintf("data: %d\n\n", i)
		next <- want
		if n, err := r.Body.Read(buf); string(buf[:n]) != want {
			t.Fatalf("read %q, %v; want %q", buf[:n], err, want)
		}
	}
	close(next)
	c.Close()
	r, c, in := absolute(t, path, "GET", "https://x.example/ws", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: y\r\n", "early")
	if r.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("WebSocket: got the status %d, want 101", r.StatusCode)
	}
	io.WriteString(c, " and late")
	got := make([]byte, len("early and late"))
	if _, err := io.ReadFull(in, got); err != nil || string(got) != "early and late" {
		t.Errorf("WebSocket: got %q, %v; want \"early and late\"", got, err)
	}
	if _, dialled := w.contacts(); len(dialled) != 2 { // WebSocket has one of its own
		t.Errorf("%d connections, want 2", len(dialled))
	}
}

// An address needs no name: its certificate is for the address.
func TestAddressLiterals(t *testing.T) {
	w := newWorld(t)
	hello := func(rw http.ResponseWriter, r *http.Request) { fmt.Fprint(rw, r.Host, r.TLS.ServerName) }
	w.site2("93.184.216.34", "93.184.216.34", hello)
	w.site2("2606:2800:220:1::1", "2606:2800:220:1::1", hello)
	path := w.socket()
	for url, want := range map[string]string{"https://93.184.216.34/": "93.184.216.34", "https://[2606:2800:220:1::1]/": "[2606:2800:220:1::1]"} {
		if r := w.ask("GET", url); !r.Success || *r.Body != want {
			t.Errorf("%s: got %s %s %v, want the body %s", url, r.errorType(), r.errorText(), r.Body, want)
		}
		r, _, _ := absolute(t, path, "GET", url, "", "")
		if body, err := io.ReadAll(r.Body); string(body) != want {
			t.Errorf("%s in absolute form: got %q, %v; want %q", url, body, err, want)
		}
	}
	if resolved, _ := w.contacts(); resolved != nil {
		t.Errorf("looked up %v, want nothing for an address", resolved)
	}
}

// A pack that doesn't read its answer holds little of it here.
func TestHTTP2Backpressure(t *testing.T) {
	w := newWorld(t)
	chunk := bytes.Repeat([]byte("x"), 64<<10)
	var mu sync.Mutex
	written := 0
	stuck := make(chan struct{})
	w.site2("x.example", "93.184.216.34", func(rw http.ResponseWriter, r *http.Request) {
		timer := time.AfterFunc(500*time.Millisecond, sync.OnceFunc(func() { close(stuck) }))
		for {
			if _, err := rw.Write(chunk); err != nil {
				return
			}
			timer.Reset(500 * time.Millisecond)
			mu.Lock()
			written += len(chunk)
			mu.Unlock()
			if written > 64<<20 {
				return
			}
		}
	})
	_, c, _ := absolute(t, w.socket(), "GET", "https://x.example/", "", "")
	<-stuck
	c.Close()
	mu.Lock()
	defer mu.Unlock()
	if written > 8<<20 { // sockets' buffers included
		t.Errorf("%d bytes were taken for a pack that reads none", written)
	}
}
