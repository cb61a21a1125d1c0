package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// speak sends one HTTP request over a connection to a pack's socket and reads its answer.
func speak(t *testing.T, c net.Conn, in *bufio.Reader, method, target, body string) (status int, text string) {
	t.Helper()
	host, _, _ := strings.Cut(strings.TrimPrefix(target, "http://"), "/")
	length := ""
	if body != "" {
		length = fmt.Sprintf("Content-Length: %d\r\n", len(body))
	}
	fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: %s\r\n%s\r\n%s", method, target, host, length, body)
	r, err := http.ReadResponse(in, &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	if method == http.MethodConnect && r.StatusCode == http.StatusOK {
		return r.StatusCode, ""
	}
	data, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	return r.StatusCode, string(data)
}

func (r *rig) reasons() map[string]int {
	found := map[string]int{}
	for _, e := range r.entries("security") {
		if e["action"] == "network_denied" {
			found[e["details"].(map[string]any)["blocked_reason"].(string)]++
		}
	}
	return found
}

// A grant's rules hold for what comes as HTTP, as it is sent; what they can't be kept in is a tunnel.
func TestRulesHoldForHTTPAndTunnels(t *testing.T) {
	r := newRig(t, nil)
	var mu sync.Mutex
	var seen string
	url, port := upstreamServer(t, func(_ http.ResponseWriter, q *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen = q.RequestURI
	})
	r.pack("p", "approved")
	grant := `{"pack_id":"p","allowed_domains":["127.0.0.1","localhost"],"allowed_ports":[` + port + `],"rules":[{"methods":["GET"],"path_prefixes":["/v1"]}]`
	r.mustCall("POST", "/api/network/grant", grant+"}")
	denials := 0
	for _, c := range []struct{ method, path, sent string }{
		{"GET", "/v1", "/v1"},
		{"GET", "/v1/a%5B%3D?x=%20&y=%61", "/v1/a%5B%3D?x=%20&y=%61"},
		{"GET", "/v1/%6dodels?x=%20&y", ""},
		{"GET", "/v1/%2e%2e/v1/x", ""},
		{"GET", "/v1/a%5b%3D", ""},
		{"DELETE", "/v1", ""},
		{"GET", "/v1/%2e%2e/admin", ""},
		{"GET", "/v1/..%2fadmin", ""},
		{"GET", "/v1/../admin", ""},
		{"GET", "//v1/x", ""},
	} {
		mu.Lock()
		seen = ""
		mu.Unlock()
		conn := r.dial("p")
		status, text := speak(t, conn, bufio.NewReader(conn), c.method, url+c.path, "")
		mu.Lock()
		got := seen
		mu.Unlock()
		want := http.StatusOK
		if c.sent == "" {
			want = http.StatusForbidden
			denials++
		}
		if got != c.sent || status != want {
			t.Errorf("%s %s: sent %q, want %q; answered %d %s", c.method, c.path, got, c.sent, status, text)
		}
	}
	tunnel := func() int {
		conn := r.dial("p")
		status, _ := speak(t, conn, bufio.NewReader(conn), "CONNECT", "localhost:"+port, "")
		conn.Close()
		return status
	}
	if status := tunnel(); status != http.StatusForbidden {
		t.Errorf("a tunnel past the rules: %d, want 403", status)
	}
	r.eventually("every denial is audited", func() bool { return r.reasons()["rule_denied"] == denials+1 })
	r.mustCall("POST", "/api/network/grant", grant+`,"allow_tunnel":true}`)
	if status := tunnel(); status != http.StatusOK {
		t.Errorf("an allowed tunnel got %d, want 200", status)
	}
}

// The day's bytes are those of every way out together.
func TestBudgetHoldsForHTTPAndTunnels(t *testing.T) {
	const daily = 4000
	r := newRig(t, map[string]string{"RUMI_EGRESS_DAILY_BYTES": fmt.Sprint(daily)})
	url, port := upstreamServer(t, func(_ http.ResponseWriter, q *http.Request) { io.Copy(io.Discard, q.Body) })
	received := make(chan int64, 1)
	secure := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
		n, _ := io.Copy(io.Discard, q.Body)
		received <- n
	}))
	defer secure.Close()
	_, securePort, _ := net.SplitHostPort(secure.Listener.Addr().String())
	for _, id := range []string{"p", "q"} {
		r.pack(id, "approved")
		r.mustCall("POST", "/api/network/grant", fmt.Sprintf(`{"pack_id":%q,"allowed_domains":["127.0.0.1","localhost"],"allowed_ports":[%s,%s]}`, id, port, securePort))
	}
	body := strings.Repeat("x", daily*2/3)
	conn := r.dial("p")
	in := bufio.NewReader(conn)
	if status, text := speak(t, conn, in, "POST", url+"/", body); status != http.StatusOK {
		t.Fatalf("within the budget: got %d %s, want 200", status, text)
	}
	status, text := speak(t, conn, in, "POST", url+"/", body)
	if status != http.StatusTooManyRequests || !strings.Contains(text, "Daily egress budget exceeded") {
		t.Errorf("over the budget: got %d %s, want 429", status, text)
	}

	tunnel := r.dial("q")
	if status, _ := speak(t, tunnel, bufio.NewReader(tunnel), "CONNECT", "localhost:"+securePort, ""); status != http.StatusOK {
		t.Fatalf("the tunnel got the status %d, want 200", status)
	}
	client := tls.Client(tunnel, &tls.Config{ServerName: "localhost", InsecureSkipVerify: true})
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(client, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n", 10*daily)
	for range 10 {
		if _, err := client.Write(make([]byte, daily)); err != nil {
			break
		}
	}
	client.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := client.Read(make([]byte, 1)); err == nil {
		t.Error("a tunnel over the budget was answered")
	}
	select {
	case n := <-received:
		if n > daily {
			t.Errorf("%d bytes got through, want at most %d", n, daily)
		}
	default: // the server saw no whole request
	}
	r.eventually("both are audited", func() bool { return r.reasons()["budget_exceeded"] == 2 })
}
