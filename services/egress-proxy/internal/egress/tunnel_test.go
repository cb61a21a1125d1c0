package egress

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/clienthello"
)

func TestTunnel(t *testing.T) {
	w := newWorld(t)
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<18) // 4 MiB
	w.site("x.example", "93.184.216.34", true, func(rw http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(rw, n, " ")
		rw.Write(big)
	})
	c := w.browser()
	r, err := c.Post("https://x.example/secret", "text/plain", bytes.NewReader(big))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil || string(body) != fmt.Sprint(len(big), " ", string(big)) {
		t.Errorf("got %d bytes, %v; want the %d that were sent, and their number", len(body), err, len(big))
	}
	w.recorded(0)
	c.CloseIdleConnections()
	e := w.recorded(1)[0]
	received, _ := e.Details["bytes"].(int64)
	sent, _ := e.Details["bytes_sent"].(int64)
	if !e.Success || e.Details["method"] != "CONNECT" || e.Details["url"] != "https://x.example" || received < int64(len(big)) || sent < int64(len(big)) {
		t.Errorf("entry: %+v, want a tunnel for https://x.example by CONNECT with at least the bytes that were sent", e)
	}
}

// connect opens a tunnel and gives the connection behind the answer to CONNECT, which must be 200.
func connect(t *testing.T, path, to string) net.Conn {
	t.Helper()
	c := dialSocket(t, path)
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", to, to)
	r, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: "CONNECT"})
	if err != nil || r.StatusCode != 200 {
		t.Fatalf("CONNECT %s: got %+v, %v; want 200", to, r, err)
	}
	return c // the proxy says nothing more before the client does
}

// quietSite takes connections and gives what it is sent on each until its end.
func (w *world) quietSite(name, addr, port string) <-chan string {
	got := make(chan string, 100)
	w.at(name, addr, port, listen(w.t, func(c net.Conn) {
		all, _ := io.ReadAll(c)
		got <- string(all)
	}))
	return got
}

// No byte goes to a server before the ClientHello has shown that the tunnel goes where it was granted to go.
func TestTunnelIsForItsNameOnly(t *testing.T) {
	w := newWorld(t)
	w.site("x.example", "93.184.216.34", true, func(http.ResponseWriter, *http.Request) {})
	real := w.sites["93.184.216.34:443"]
	reached := w.quietSite("x.example", "93.184.216.34", "443")
	path := w.socket()
	hello := func(name string) func(net.Conn) {
		return func(c net.Conn) {
			go tls.Client(c, &tls.Config{ServerName: name, InsecureSkipVerify: true}).Handshake()
		}
	}
	dotted := func(c net.Conn) { // which crypto/tls never sends
		near, far := net.Pipe()
		defer near.Close()
		go tls.Client(far, &tls.Config{ServerName: "x.example0"}).Handshake()
		records, _, _ := clienthello.Read(near)
		c.Write(bytes.Replace(records, []byte("x.example0"), []byte("x.example."), 1))
	}
	write := func(text string) func(net.Conn) { return func(c net.Conn) { io.WriteString(c, text) } }
	for name, c := range map[string]struct {
		to     string
		speak  func(net.Conn)
		reason string
	}{
		"another name":     {"x.example:443", hello("evil.example"), "sni_mismatch"},
		"a longer name":    {"x.example:443", hello("a.x.example"), "sni_mismatch"},
		"no name":          {"x.example:443", hello(""), "sni_mismatch"},
		"an address":       {"93.184.216.34:443", hello("93.184.216.34"), "sni_mismatch"},
		"name for address": {"93.184.216.34:443", hello("x.example"), "sni_mismatch"},
		"name with a dot":  {"x.example:443", dotted, "sni_mismatch"},
		"HTTP/2":           {"x.example:443", write("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), "tls_required"},
		"SSH":              {"x.example:443", write("SSH-2.0-OpenSSH_9.6\r\n"), "tls_required"},
		"broken TLS":       {"x.example:443", write("\x16\x03\x01\x00\x04\x02\x00\x00\x00"), "tls_required"},
		"huge hello":       {"x.example:443", write("\x16\x03\x01\x00\x04\x01\xff\xff\xff"), "tls_required"},
		"half, then end": {"x.example:443", func(c net.Conn) {
			io.WriteString(c, "\x16\x03\x01")
			c.(*net.UnixConn).CloseWrite()
		}, "tls_required"},
	} {
		conn := connect(t, path, c.to)
		w.contacts()
		c.speak(conn)
		if entries := w.recorded(2); entries[0].Category != audit.Security || entries[0].Details["blocked_reason"] != c.reason || entries[1].Details["allowed"] != false {
			t.Errorf("%s: the entries are %+v, want a refusal of security with %v and one of network", name, entries, c.reason)
		}
		conn.Close()
		if got := <-reached; got != "" {
			t.Errorf("%s: the server was sent %q", name, got)
		}
	}
	w.at("x.example", "93.184.216.34", "443", real)
	// The client's own error says what was wrong.
	conn := connect(t, path, "x.example:443")
	if err := tls.Client(conn, &tls.Config{ServerName: "evil.example"}).Handshake(); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("the client sees %v, want the server's alert: unrecognized name", err)
	}
	w.recorded(2)
	// A client that goes away without a word was not refused anything.
	conn = connect(t, path, "x.example:443")
	conn.Close()
	if e := w.recorded(1)[0]; e.Details["error_type"] != "client_closed" {
		t.Errorf("entry: %+v, want error_type client_closed", e)
	}
	// The name is compared in its one form.
	conn = connect(t, path, "X.Example:443")
	secured := tls.Client(conn, &tls.Config{ServerName: "x.EXAMPLE", RootCAs: w.roots})
	if err := secured.Handshake(); err != nil {
		t.Error(err)
	}
	conn.Close()
	w.recorded(1)
}

// WebSocket over TLS is the client's and the server's affair, until one of them or a revoke ends it.
func TestTunnelOfWebSocket(t *testing.T) {
	w := newWorld(t)
	w.site("x.example", "93.184.216.34", true, echoUpgrade("websocket"))
	secured := tls.Client(connect(t, w.socket(), "x.example:443"), &tls.Config{ServerName: "x.example", RootCAs: w.roots})
	io.WriteString(secured, "GET /ws HTTP/1.1\r\nHost: x.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: y\r\n\r\n")
	in := bufio.NewReader(secured)
	if r, err := http.ReadResponse(in, nil); err != nil || r.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("WebSocket: got %v, %v; want 101", r, err)
	}
	for _, text := range []string{"one", "\x00\xff", strings.Repeat("many ", 100_000)} {
		go io.WriteString(secured, text)
		got := make([]byte, len(text))
		if _, err := io.ReadFull(in, got); err != nil || string(got) != text {
			t.Fatalf("read %.20q, %v; want %.20q", got, err, text)
		}
	}
	w.mu.Lock()
	w.grants["p"] = nil
	w.mu.Unlock()
	w.proxy.Cut("p")
	if _, err := in.ReadByte(); err == nil {
		t.Error("a revoke leaves it open")
	}
	if e := w.recorded(2)[0]; e.Details["blocked_reason"] != "grant_changed" {
		t.Errorf("entry: %+v, want blocked_reason grant_changed", e)
	}
}

// A server that can't be reached is reported before there is a tunnel, as for any other request.
func TestTunnelToNowhere(t *testing.T) {
	w := newWorld(t)
	w.at("x.example", "93.184.216.34", "443", "127.0.0.1:1")
	c := dialSocket(t, w.socket())
	io.WriteString(c, "CONNECT x.example:443 HTTP/1.1\r\nHost: x.example:443\r\n\r\n")
	r, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: "GET"}) // ReadResponse reads no body for CONNECT
	if err != nil {
		t.Fatal(err)
	}
	if got := readRefusal(t, r); r.Status != "502 Rumi: Connection refused" || got.ErrorType != "connection_refused" {
		t.Errorf("got %s %+v, want 502 connection_refused", r.Status, got)
	}
	if e := w.recorded(1)[0]; e.Details["error_type"] != "connection_refused" {
		t.Errorf("entry: %+v, want error_type connection_refused", e)
	}
}

func TestCutEndsTunnel(t *testing.T) {
	w := newWorld(t)
	w.site("x.example", "93.184.216.34", true, func(http.ResponseWriter, *http.Request) {})
	path := w.socket()
	waiting := connect(t, path, "x.example:443") // has not said a word yet
	conn := connect(t, path, "x.example:443")
	secured := tls.Client(conn, &tls.Config{ServerName: "x.example", RootCAs: w.roots})
	if err := secured.Handshake(); err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	w.grants["p"] = nil
	w.mu.Unlock()
	began := time.Now()
	w.proxy.Cut("p")
	for _, c := range []net.Conn{secured, waiting} {
		if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil {
			t.Errorf("after the cut: read %d bytes, %v; want an error", n, err)
		}
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the cut ended the connections after %v, want at most 5s", took)
	}
	for _, e := range w.recorded(4) {
		if e.Details["blocked_reason"] != "grant_changed" {
			t.Errorf("entry: %+v, want blocked_reason grant_changed", e)
		}
	}
}
