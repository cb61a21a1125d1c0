package egress

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/libs/gate"
)

// HTTP/1.1 in a tunnel is served as in absolute form: each request is decided on and recorded by itself.
func TestHTTPInTunnel(t *testing.T) {
	w := newWorld(t)
	w.at("x.example", "93.184.216.34", "80", scriptLine(t, func(line string) string {
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(line), line)
	}))
	c := connect(t, w.socket(), "x.example:80")
	in := bufio.NewReader(c)
	ask := func(head string) (int, string) {
		t.Helper()
		io.WriteString(c, head+"\r\n\r\n")
		r, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatalf("%q: %v", head, err)
		}
		body, _ := io.ReadAll(r.Body)
		return r.StatusCode, string(body)
	}
	for head, want := range map[string]string{
		"GET /a?b HTTP/1.1\r\nHost: x.example":                                    "GET /a?b HTTP/1.1",
		"GET /a HTTP/1.1\r\nHost: x.example:80":                                   "GET /a HTTP/1.1",
		"GET http://x.example/abs HTTP/1.1\r\nHost: x.example":                    "GET /abs HTTP/1.1",
		"POST /in HTTP/1.1\r\nHost: x.example\r\nContent-Length: 0":               "POST /in HTTP/1.1",
		"OPTIONS * HTTP/1.1\r\nHost: x.example":                                   "OPTIONS * HTTP/1.1",
		"OPTIONS / HTTP/1.1\r\nHost: x.example":                                   "OPTIONS / HTTP/1.1",
		"GET //x/%7E HTTP/1.1\r\nHost: x.example":                                 "GET //x/%7E HTTP/1.1",
		"GET /ws HTTP/1.1\r\nHost: X.Example\r\nConnection: close-not, x\r\nX: 1": "GET /ws HTTP/1.1",
	} {
		if status, got := ask(head); status != 200 || got != want {
			t.Errorf("%q: %d %q, want %q", head, status, got, want)
		}
	}
	entries := w.recorded(9)
	if entries[0].Details["method"] != "CONNECT" || !entries[0].Success || entries[0].Phase != "end" {
		t.Errorf("the tunnel's entry is %+v, want the successful end of a CONNECT", entries[0])
	}
	for _, e := range entries[1:] {
		if e.Details["method"] == "CONNECT" || !strings.HasPrefix(e.Details["url"].(string), "http://x.example/") && e.Details["url"] != "http://x.example" {
			t.Errorf("a request's entry is %+v, want the request's own method, and a URL of x.example", e)
		}
	}
	// What a request may not do outside of a tunnel it may not in one.
	w.mu.Lock()
	w.gates["p"] = gate.State{PackID: "p", Status: "modified"}
	w.mu.Unlock()
	if status, body := ask("GET / HTTP/1.1\r\nHost: x.example"); status != 403 || !strings.Contains(body, "disabled due to modification") {
		t.Errorf("a modified pack: got %d %s, want 403 that says so", status, body)
	}
}

func TestHTTPInTunnelGoesNowhereElse(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"x.example", "evil.example"} {
		w.site(name, "93.184.216.34", false, func(rw http.ResponseWriter, r *http.Request) { io.WriteString(rw, "reached") })
	}
	path := w.socket()
	for _, head := range []string{
		"GET / HTTP/1.1\r\nHost: evil.example",
		"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example",
		"GET https://x.example/ HTTP/1.1\r\nHost: x.example",
		"GET http://x.example:81/ HTTP/1.1\r\nHost: x.example:81",
		"CONNECT evil.example:80 HTTP/1.1\r\nHost: evil.example:80",
		"CONNECT x.example:80 HTTP/1.1\r\nHost: x.example:80",
		"GET evil.example/ HTTP/1.1\r\nHost: x.example",
		"GET @evil.example/ HTTP/1.1\r\nHost: x.example",
		"GET / HTTP/1.1",
		"GET / HTTP/1.1\r\nHost: x.example\r\nHost: x.example",
	} {
		c := connect(t, path, "x.example:80")
		io.WriteString(c, head+"\r\n\r\n")
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatalf("%q: %v", head, err)
		}
		if got := readRefusal(t, r); r.StatusCode != 400 || got.ErrorType != "validation_error" {
			t.Errorf("%q: got %d %+v, want 400 validation_error", head, r.StatusCode, got)
		}
	}
}

// A client that speaks neither gets an answer that says so.
func TestOtherProtocolsInTunnelAreTold(t *testing.T) {
	w := newWorld(t)
	got := w.quietSite("x.example", "93.184.216.34", "50051")
	path := w.socket()
	for _, said := range []string{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "SSH-2.0-OpenSSH_9.6\r\n", "\x00\x00\x00\x01x", "*1\r\n$4\r\nPING\r\n"} {
		c := connect(t, path, "x.example:50051")
		io.WriteString(c, said)
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatalf("%q: %v", said, err)
		}
		if f := readRefusal(t, r); r.StatusCode != 403 || f.Error != "Request blocked by security policy: a tunnel must carry TLS or HTTP/1.1" {
			t.Errorf("%q: got %d %+v, want 403 that says that a tunnel must carry TLS or HTTP/1.1", said, r.StatusCode, f)
		}
		if all := w.recorded(2); all[0].Details["blocked_reason"] != "tls_required" {
			t.Errorf("%q: the entries are %+v, want tls_required", said, all)
		}
		if sent := next(t, got, "the server's end"); sent != "" {
			t.Errorf("%q: the server got %q, want nothing", said, sent)
		}
	}
}

// WebSocket by its own schemes, as aiohttp asks, and in a tunnel, as RFC 6455 has it.
func TestWebSocketSchemes(t *testing.T) {
	w := newWorld(t)
	w.site("x.example", "93.184.216.34", false, echoUpgrade("websocket"))
	w.site("x.example", "93.184.216.34", true, echoUpgrade("websocket"))
	path := w.socket()
	for _, target := range []string{"ws://x.example/chat", "WS://x.example/chat", "wss://x.example/chat", "/chat"} {
		c := dialSocket(t, path)
		if target == "/chat" {
			c = connect(t, path, "x.example:80")
		}
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: y\r\n\r\nhello", target)
		in := bufio.NewReader(c)
		r, err := http.ReadResponse(in, nil)
		if err != nil || r.StatusCode != 101 {
			t.Fatalf("%s: got %+v, %v; want 101", target, r, err)
		}
		got := make([]byte, len("hello"))
		if _, err := io.ReadFull(in, got); err != nil || string(got) != "hello" {
			t.Errorf("%s: got %q, %v; want hello", target, got, err)
		}
		c.Close()
	}
	if r := w.ask("GET", "ws://x.example/"); r.errorText() != "Unsupported scheme: ws" { // a frame carries no WebSocket
		t.Errorf("in a frame: got %s, want that the scheme is unsupported", r.errorText())
	}
}

// A client that asks for a tunnel for http:// as well, as Node's fetch does.
func TestClientThatTunnelsEverything(t *testing.T) {
	w := newWorld(t)
	w.site("x.example", "93.184.216.34", false, func(rw http.ResponseWriter, r *http.Request) { fmt.Fprint(rw, r.Host, " ", r.URL) })
	path := w.socket()
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return connect(t, path, "x.example:80"), nil }}
	defer transport.CloseIdleConnections()
	for range 3 {
		r, err := (&http.Client{Transport: transport}).Get("http://x.example/a")
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(r.Body); string(body) != "x.example /a" {
			t.Errorf("got %q, %v; want x.example /a", body, err)
		}
	}
}
