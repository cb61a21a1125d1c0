package egress

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/libs/audit"
)

func TestHTTPRefusals(t *testing.T) {
	w := newWorld(t)
	w.grants["p"] = []string{"x.example", "10.0.0.1", "gateway", "127.1", "half.example", "hang.example", "closed.example", "nosuch.example"}
	w.names["x.example"] = []string{"93.184.216.34", "10.0.0.1"}
	w.at("half.example", "93.184.216.36", "80", script(t, func(string) string { return "nonsense<close>" }))
	w.at("closed.example", "93.184.216.37", "80", "127.0.0.1:1")
	path := w.socket()
	const get = "GET http://x.example/ HTTP/1.1\r\nHost: x.example\r\n"
	for name, c := range map[string]struct {
		request string
		status  int
		kind    string
		text    string
		reason  string
	}{
		"not granted":          {"GET http://other.example/ HTTP/1.1\r\nHost: other.example\r\n\r\n", 403, "grant_denied", "Network access denied: Domain 'other.example' not in allowed list", "grant_denied"},
		"tunnel not granted":   {"CONNECT other.example:443 HTTP/1.1\r\nHost: other.example:443\r\n\r\n", 403, "grant_denied", "Network access denied: Domain 'other.example' not in allowed list", "grant_denied"},
		"with a body":          {"POST http://other.example/ HTTP/1.1\r\nHost: other.example\r\nContent-Length: 4\r\n\r\nbody", 403, "grant_denied", "Network access denied: Domain 'other.example' not in allowed list", "grant_denied"},
		"rebinding":            {get + "\r\n", 403, "blocked", "Request blocked by security policy", "dns_rebinding_blocked"},
		"tunnel to it":         {"CONNECT x.example:443 HTTP/1.0\r\n\r\n", 403, "blocked", "Request blocked by security policy", "dns_rebinding_blocked"},
		"internal address":     {"GET http://10.0.0.1/ HTTP/1.1\r\nHost: 10.0.0.1\r\n\r\n", 403, "blocked", "Request blocked by security policy", "internal_ip_blocked"},
		"own service":          {"CONNECT gateway:443 HTTP/1.1\r\nHost: gateway:443\r\n\r\n", 403, "blocked", "Request blocked by security policy", "internal_name_blocked"},
		"unknown name":         {"GET http://nosuch.example/ HTTP/1.1\r\nHost: nosuch.example\r\n\r\n", 502, "dns_error", "Name could not be resolved", ""},
		"nonsense from server": {"GET http://half.example/ HTTP/1.1\r\nHost: half.example\r\n\r\n", 502, "upstream_error", "Connection to the server failed", ""},
		"refused":              {"GET http://closed.example/ HTTP/1.1\r\nHost: closed.example\r\n\r\n", 502, "connection_refused", "Connection refused", ""},
		"foreign host":         {"GET http://x.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n", 400, "validation_error", "Host header does not equal the URL's host", ""},
		"foreign host, tunnel": {"CONNECT x.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n", 400, "validation_error", "Host header does not equal the URL's host", ""},
		"two hosts":            {get + "Host: x.example\r\n\r\n", 400, "validation_error", "Header given twice: Host", ""},
		"no host":              {"GET http://x.example/ HTTP/1.1\r\n\r\n", 400, "validation_error", "Host header is missing", ""},
		"two spellings":        {get + "X-A: 1\r\nx-a: 2\r\n\r\n", 400, "validation_error", "Header in two spellings: x-a", ""},
		"both lengths":         {get + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "validation_error", "Both Content-Length and Transfer-Encoding", ""},
		"two lengths":          {get + "Content-Length: 3\r\nContent-Length: 3\r\n\r\n", 400, "validation_error", "Header given twice: Content-Length", ""},
		"signed length":        {get + "Content-Length: +3\r\n\r\nabc", 400, "protocol_error", "Request is not HTTP/1.1", ""},
		"unknown coding":       {get + "Transfer-Encoding: gzip, chunked\r\n\r\n", 400, "validation_error", "Unsupported Transfer-Encoding", ""},
		"folded":               {get + "X-A: 1\r\n 2\r\n\r\n", 400, "validation_error", "Invalid header name:  2", ""},
		"space before colon":   {get + "X-A : 1\r\n\r\n", 400, "validation_error", "Invalid header name: X-A ", ""},
		"NUL":                  {get + "X-A: \x00\r\n\r\n", 400, "validation_error", "Invalid value of header: X-A", ""},
		"CR":                   {get + "X-A: a\rb\r\n\r\n", 400, "validation_error", "Invalid value of header: X-A", ""},
		"bare LF":              {"GET http://x.example/ HTTP/1.1\nHost: x.example\n\n", 400, "protocol_error", "Request is not HTTP/1.1", ""},
		"origin form":          {"GET / HTTP/1.1\r\nHost: x.example\r\n\r\n", 400, "validation_error", "URL must have a hostname", ""},
		"user-info":            {"GET http://u:p@x.example/ HTTP/1.1\r\nHost: x.example\r\n\r\n", 400, "validation_error", "URL must not contain user-info", ""},
		"scheme":               {"GET ftp://x.example/ HTTP/1.1\r\nHost: x.example\r\n\r\n", 400, "validation_error", "Unsupported scheme: ftp", ""},
		"method":               {"TRACE http://x.example/ HTTP/1.1\r\nHost: x.example\r\n\r\n", 400, "validation_error", "Method not allowed: TRACE", ""},
		"tunnel without port":  {"CONNECT x.example HTTP/1.1\r\nHost: x.example\r\n\r\n", 400, "validation_error", "Invalid port in URL", ""},
		"tunnel with body":     {"CONNECT x.example:443 HTTP/1.1\r\nHost: x.example:443\r\nContent-Length: 1\r\n\r\n", 400, "validation_error", "Header not allowed: Content-Length", ""},
		"HTTP/2":               {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "protocol_error", "Request is not HTTP/1.1", ""},
		"other protocol":       {"hello\r\n\r\n", 400, "protocol_error", "Request is not HTTP/1.1", ""},
		"101 headers":          {get + strings.Repeat("X-A: 1\r\n", 100) + "\r\n", 400, "validation_error", "Too many headers: 101 > 100", ""},
		"long name":            {get + strings.Repeat("a", 257) + ": 1\r\n\r\n", 400, "validation_error", "Header name too long: 257 > 256", ""},
		"long value":           {get + "X-A: " + strings.Repeat("a", 8193) + "\r\n\r\n", 400, "validation_error", "Header value too long: 8193 > 8192", ""},
		"endless head":         {get + strings.Repeat("X-A: "+strings.Repeat("a", 1000)+"\r\n", 60), 400, "protocol_error", "Request header too large (max: 32768 bytes)", ""},
	} {
		w.contacts()
		conn := dialSocket(t, path)
		go io.WriteString(conn, c.request)
		r, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := readRefusal(t, r); r.StatusCode != c.status || got != (refusal{false, c.text, c.kind}) {
			t.Errorf("%s: got %d %+v, want %d %s %q", name, r.StatusCode, got, c.status, c.kind, c.text)
		}
		conn.Close()
		entries, want := 1, ""
		if c.reason != "" {
			entries, want = 2, c.reason
		}
		all := w.recorded(entries)
		got, _ := all[0].Details["blocked_reason"].(string)
		if got != want || (want != "" && (all[0].Category != audit.Security || all[1].Category != audit.Network)) {
			t.Errorf("%s: the entries are %+v, want the reason %q, and with one security's first", name, all, want)
		}
		resolved, dialled := w.contacts()
		if c.status < 500 && dialled != nil || c.reason != "dns_rebinding_blocked" && c.status < 500 && resolved != nil {
			t.Errorf("%s: looked up %v and dialled %v, want no dial, and a lookup only to find a rebinding", name, resolved, dialled)
		}
	}
}

// After a refusal the connection can be used again, as clients with a pool do.
func TestConnectionOutlivesRefusal(t *testing.T) {
	w := newWorld(t)
	w.grants["p"] = nil
	c := dialSocket(t, w.socket())
	in := bufio.NewReader(c)
	for range 3 {
		io.WriteString(c, "POST http://x.example/ HTTP/1.1\r\nHost: x.example\r\nContent-Length: 5\r\n\r\nhello")
		r, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		if readRefusal(t, r); r.StatusCode != 403 || r.Close {
			t.Errorf("got %+v, want 403 on a connection that stays open", r)
		}
	}
}
