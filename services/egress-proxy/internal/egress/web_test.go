package egress

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/uds"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/session"
)

// socket serves pack "p" as in production and gives the socket's path.
func (w *world) socket() string {
	w.t.Helper()
	dir, err := os.MkdirTemp("", "rumi") // t.TempDir's names may be too long for a socket's address
	if err != nil {
		w.t.Fatal(err)
	}
	l, err := uds.Listen(uds.Config{Dir: dir, Name: uds.DirName("p"), GID: -1})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		uds.Serve(ctx, l, w.proxy.Handler("p"), uds.Limits{Drain: time.Millisecond}, slog.New(slog.DiscardHandler))
	})
	w.t.Cleanup(func() { cancel(); serving.Wait(); os.RemoveAll(dir) })
	return l.Path()
}

// browser is an HTTP client with the socket as its proxy.
func (w *world) browser() *http.Client {
	path := w.socket()
	transport := &http.Transport{
		Proxy:           http.ProxyURL(&url.URL{Scheme: "http", Host: "proxy.test:3128"}),
		TLSClientConfig: &tls.Config{RootCAs: w.roots}, DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
	}
	w.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// dialSocket is a raw connection.
func dialSocket(t testing.TB, path string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// refusal is the answer to a request that got none from its server.
type refusal struct {
	Success   bool   `json:"success"`
	Error     string `json:"error"`
	ErrorType string `json:"error_type"`
}

func readRefusal(t testing.TB, r *http.Response) refusal {
	t.Helper()
	var got refusal
	data, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &got); err != nil || r.Header.Get("Content-Type") != "application/json; charset=utf-8" {
		t.Fatalf("got %d %q: %v; want JSON", r.StatusCode, data, err)
	}
	return got
}

// recorded waits for the audit entry that is written when an exchange is over, and takes all there are.
func (w *world) recorded(n int) []audit.Entry {
	w.t.Helper()
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		w.mu.Lock()
		have := len(w.entries)
		w.mu.Unlock()
		if have >= n || time.Since(began) > 10*time.Second {
			break
		}
	}
	entries := w.audited()
	if len(entries) != n {
		w.t.Fatalf("%d audit entries, want %d: %+v", len(entries), n, entries)
	}
	return entries
}

func TestHTTPForward(t *testing.T) {
	w := newWorld(t)
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<20) // 16 MiB
	w.site("x.example", "93.184.216.34", false, func(rw http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/big":
			rw.Write(big)
		case "/sum":
			h := sha256.New()
			io.Copy(h, r.Body)
			fmt.Fprintf(rw, "%x %v", h.Sum(nil), r.Trailer)
		case "/trailer":
			rw.Header().Set("Trailer", "X-Sum")
			io.WriteString(rw, "body")
			rw.Header().Set("X-Sum", "42")
		case "/headers":
			rw.Header().Set("Proxy-Authenticate", "Basic")
			rw.Header().Set("Keep-Alive", "timeout=5")
			rw.Header()["Set-Cookie"] = []string{"a=1", "b=2"}
			fmt.Fprint(rw, r.Host, " ", r.Header, " ", r.RequestURI)
		case "/empty":
			rw.WriteHeader(http.StatusNoContent)
		case "/moved":
			http.Redirect(rw, r, "http://elsewhere.example/", http.StatusFound)
		default:
			http.NotFound(rw, r)
		}
	})
	c := w.browser()
	do := func(method, path string, body io.Reader, change ...func(*http.Request)) (*http.Response, string) {
		t.Helper()
		q, err := http.NewRequest(method, "http://x.example"+path, body)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range change {
			f(q)
		}
		r, err := c.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		data, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return r, string(data)
	}
	if r, body := do("GET", "/big", nil); body != string(big) || r.ContentLength != -1 {
		t.Errorf("GET /big: got %d bytes of a length of %d; want %d, of an unknown length", len(body), r.ContentLength, len(big))
	}
	want := fmt.Sprintf("%x", sha256.Sum256(big))
	if _, body := do("POST", "/sum", bytes.NewReader(big)); !strings.HasPrefix(body, want) {
		t.Errorf("upload of known length: %s; want the sum of what was sent", body)
	}
	_, body := do("PUT", "/sum", io.MultiReader(bytes.NewReader(big)), func(q *http.Request) {
		q.Trailer = http.Header{"X-After": {"7"}}
		q.Header.Set("Expect", "100-continue")
	})
	if body != want+" map[X-After:[7]]" {
		t.Errorf("chunked upload with trailer: %s; want the sum of what was sent, and X-After 7", body)
	}
	if r, body := do("GET", "/trailer", nil, func(q *http.Request) { q.Header.Set("TE", "trailers") }); body != "body" || r.Trailer.Get("X-Sum") != "42" {
		t.Errorf("trailer: got %q %v, want body with X-Sum 42", body, r.Trailer)
	}
	r, body := do("GET", "/headers?q=%20&a=b%2f", nil, func(q *http.Request) {
		q.Header = http.Header{"Connection": {"X-Mine"}, "X-Mine": {"1"}, "Proxy-Authorization": {"x"}, "Upgrade": {"h2c"}, "X-Kept": {"1", "2"}, "User-Agent": {""}}
	})
	if body != "x.example map[X-Kept:[1 2]] /headers?q=%20&a=b%2f" {
		t.Errorf("the server saw %s, want the target as sent and X-Kept alone", body)
	}
	if r.Header.Get("Proxy-Authenticate")+r.Header.Get("Keep-Alive") != "" || len(r.Header["Set-Cookie"]) != 2 {
		t.Errorf("the headers are %v, want two cookies and none of the connection's", r.Header)
	}
	for _, q := range []struct {
		method, path string
		status       int
	}{{"HEAD", "/big", 200}, {"GET", "/empty", 204}, {"GET", "/nosuch", 404}, {"GET", "/moved", 302}, {"DELETE", "/nosuch", 404}} {
		if r, _ := do(q.method, q.path, nil); r.StatusCode != q.status {
			t.Errorf("%s %s: got %d, want %d", q.method, q.path, r.StatusCode, q.status)
		}
	}
	entries := w.recorded(10)
	d := entries[0].Details
	if entries[0].Category != audit.Network || d["bytes"] != int64(len(big)) || d["status_code"] != int64(200) || d["url"] != "http://x.example/big" || d["method"] != "GET" {
		t.Errorf("the entry is %+v, want a GET of /big with 200 and %d bytes", entries[0], len(big))
	}
	if got := entries[1].Details["bytes_sent"]; got != int64(len(big)) {
		t.Errorf("the entry has %v bytes sent, want %d", got, len(big))
	}
	if url := entries[4].Details["url"]; url != "http://x.example/headers" {
		t.Errorf("the entry's URL is %v, want it without its query", url)
	}
	if got := w.counts()["allowed/ok"]; got != 10 {
		t.Errorf("counted %v, want 10 of allowed/ok", w.counts())
	}
	if _, dialled := w.contacts(); len(dialled) != 1 {
		t.Errorf("%d connections, want 1", len(dialled))
	}
}

// An absolute https URL is fetched for the pack, as a frame would be.
func TestHTTPForwardToTLS(t *testing.T) {
	w := newWorld(t)
	w.site("x.example", "93.184.216.34", true, func(rw http.ResponseWriter, r *http.Request) { io.WriteString(rw, "secured") })
	c := dialSocket(t, w.socket())
	io.WriteString(c, "GET https://x.example/ HTTP/1.1\r\nHost: x.example\r\n\r\n")
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(r.Body); string(body) != "secured" {
		t.Errorf("got %q, %v; want secured", body, err)
	}
}

// Frames and HTTP may come over one socket, each over its own connections.
func TestBothProtocols(t *testing.T) {
	w := newWorld(t)
	w.site("x.example", "93.184.216.34", false, func(rw http.ResponseWriter, r *http.Request) { io.WriteString(rw, "hi") })
	path := w.socket()
	framed, plain := dialSocket(t, path), dialSocket(t, path)
	in := bufio.NewReader(plain)
	for range 3 {
		uds.WriteFrame(framed, []byte(`{"url":"http://x.example/"}`))
		data, err := uds.ReadFrame(framed, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if r := decode(t, data); !r.Success {
			t.Errorf("the frame's request fails: %s; want success", r.errorText())
		}
		// Two at once: the second waits in the buffer.
		io.WriteString(plain, strings.Repeat("GET http://x.example/ HTTP/1.1\r\nHost: x.example\r\n\r\n", 2))
		for range 2 {
			r, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			if body, err := io.ReadAll(r.Body); string(body) != "hi" {
				t.Fatalf("got %q, %v; want hi", body, err)
			}
		}
	}
}

func TestServerSentEventsArriveAtOnce(t *testing.T) {
	w := newWorld(t)
	next := make(chan string)
	ended := make(chan struct{})
	w.site("x.example", "93.184.216.34", false, func(rw http.ResponseWriter, r *http.Request) {
		defer close(ended)
		rw.Header().Set("Content-Type", "text/event-stream")
		rw.WriteHeader(200)
		rw.(http.Flusher).Flush()
		for {
			select {
			case text := <-next:
				io.WriteString(rw, text)
				rw.(http.Flusher).Flush()
			case <-r.Context().Done():
				return
			}
		}
	})
	r, err := w.browser().Get("http://x.example/events") // the head comes before any event
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	for i := range 3 {
		want := fmt.Sprintf("data: %d\n\n", i)
		next <- want
		if n, err := r.Body.Read(buf); string(buf[:n]) != want {
			t.Fatalf("read %q, %v; want %q", buf[:n], err, want)
		}
	}
	r.Body.Close() // a client that leaves is noticed though the server says nothing
	<-ended
	if e := w.recorded(1)[0]; e.Details["error_type"] != "client_closed" || e.Details["bytes"] != int64(27) {
		t.Errorf("entry: %+v, want error_type client_closed and 27 bytes", e)
	}
}

// echoUpgrade agrees to any upgrade and sends back what it gets.
func echoUpgrade(protocol string) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			fmt.Fprint(rw, "no upgrade")
			return
		}
		conn, in, err := rw.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+protocol+"\r\nSec-WebSocket-Accept: x\r\n\r\n")
		io.Copy(conn, in)
	}
}

func TestWebSocket(t *testing.T) {
	w := newWorld(t)
	w.site("x.example", "93.184.216.34", false, echoUpgrade("websocket"))
	w.site("other.example", "93.184.216.35", false, echoUpgrade("h2c"))
	path := w.socket()
	open := func(host, protocol string) (net.Conn, *bufio.Reader, *http.Response) {
		c := dialSocket(t, path)
		fmt.Fprintf(c, "GET http://%s/ HTTP/1.1\r\nHost: %s\r\nConnection: keep-alive, Upgrade\r\nUpgrade: %s\r\nSec-WebSocket-Key: y\r\n\r\nearly", host, host, protocol)
		in := bufio.NewReader(c)
		r, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		return c, in, r
	}
	c, in, r := open("x.example", "websocket")
	if r.StatusCode != 101 || r.Header.Get("Upgrade") != "websocket" || r.Header.Get("Sec-Websocket-Accept") != "x" {
		t.Fatalf("got %+v, want 101 with the server's upgrade", r)
	}
	io.WriteString(c, " and late")
	got := make([]byte, len("early and late"))
	if _, err := io.ReadFull(in, got); err != nil || string(got) != "early and late" {
		t.Errorf("got %q, %v; want \"early and late\"", got, err)
	}
	c.Close()
	if e := w.recorded(1)[0]; !e.Success || e.Details["bytes"] != int64(14) || e.Details["bytes_sent"] != int64(14) || e.Details["status_code"] != int64(101) {
		t.Errorf("entry: %+v, want success, 14 bytes each way, status_code 101", e)
	}
	if _, _, r := open("x.example", "h2c"); r.StatusCode != 200 { // no other upgrade gets through
		t.Errorf("h2c: got the status %d, want 200 without an upgrade", r.StatusCode)
	}
	if _, _, r := open("other.example", "websocket"); r.StatusCode != 502 {
		t.Errorf("another host: got %d, want 502", r.StatusCode)
	}
	c, _, _ = open("x.example", "websocket")
	w.proxy.Cut("p")
	if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, io.EOF) {
		t.Errorf("after the cut: %v; want the connection's end", err)
	}
}

// Permissions that shrink while an answer streams end it. Before its first byte the pack gets the reason.
func TestCutEndsHTTP(t *testing.T) {
	w := newWorld(t)
	arrived := make(chan struct{}, 4)
	w.site("x.example", "93.184.216.34", false, func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stream" {
			io.WriteString(rw, "begun")
			rw.(http.Flusher).Flush()
		}
		arrived <- struct{}{}
		<-r.Context().Done()
	})
	c := w.browser()
	r, err := c.Get("http://x.example/stream")
	if err != nil {
		t.Fatal(err)
	}
	<-arrived
	w.mu.Lock()
	w.gates["p"] = gate.State{PackID: "p", Status: "modified"}
	w.mu.Unlock()
	w.proxy.Cut("p")
	if body, err := io.ReadAll(r.Body); err == nil {
		t.Errorf("the body ended well with %q, want an error after the cut", body)
	}
	if all := w.recorded(2); all[0].Details["blocked_reason"] != "pack_modified" || all[1].Details["bytes"] != int64(5) {
		t.Errorf("entries: %+v, want blocked_reason pack_modified in the first, 5 bytes in the second", all)
	}
	w.mu.Lock()
	w.gates["p"] = gate.State{PackID: "p", Open: true}
	w.mu.Unlock()
	go func() {
		<-arrived
		w.mu.Lock()
		w.grants["p"] = nil
		w.mu.Unlock()
		w.proxy.Cut("p")
	}()
	r, err = c.Get("http://x.example/silent")
	if err != nil {
		t.Fatal(err)
	}
	if got := readRefusal(t, r); r.StatusCode != 403 || got.ErrorType != "grant_denied" {
		t.Errorf("got %d %+v, want 403 grant_denied", r.StatusCode, got)
	}
}

func TestStreamsAreBounded(t *testing.T) {
	w := newWorld(t)
	k := w.proxy.packs.Get("p")
	for range session.MaxStreams {
		k.AcquireStream()
	}
	r, err := w.browser().Get("http://x.example/")
	if err != nil {
		t.Fatal(err)
	}
	if got := readRefusal(t, r); r.StatusCode != 429 || got.ErrorType != "rate_limited" {
		t.Errorf("got %d %+v, want 429 rate_limited", r.StatusCode, got)
	}
	if resolved, _ := w.contacts(); !slices.Equal(resolved, nil) {
		t.Errorf("looked up %v, want nothing", resolved)
	}
}
