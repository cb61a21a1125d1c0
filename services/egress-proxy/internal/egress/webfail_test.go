package egress

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// A server that answers early, stops short, or never reads.
func TestHTTPServersThatMisbehave(t *testing.T) {
	w := newWorld(t)
	w.at("x.example", "93.184.216.34", "80", script(t, func(path string) string {
		return map[string]string{
			"/short":   "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nabc<close>",
			"/chunk":   "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n<close>",
			"/until":   "HTTP/1.1 200 OK\r\n\r\nabc<close>",
			"/smuggle": "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
		}[path]
	}))
	c := w.browser()
	for path, whole := range map[string]bool{"/short": false, "/chunk": false, "/until": true, "/smuggle": true} {
		r, err := c.Get("http://x.example" + path)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(r.Body); string(body) != "abc" || (err == nil) != whole {
			t.Errorf("%s: got %q, %v; want abc, whole: %v", path, body, err, whole)
		}
		if e := w.recorded(1)[0]; e.Success != whole {
			t.Errorf("%s: the entry is %+v, want success %v", path, e, whole)
		}
	}
}

// The client of a plain HTTP proxy gets to know what went wrong between proxy and server, too.
func TestHTTPServersThatFail(t *testing.T) {
	w := newWorld(t)
	hello := func(rw http.ResponseWriter, r *http.Request) { io.WriteString(rw, "hello") }
	w.site("good.example", "93.184.216.1", true, hello)
	w.at("wrong.example", "93.184.216.1", "443", w.sites["93.184.216.1:443"])
	w.at("plain.example", "93.184.216.2", "443", script(t, func(string) string { return "HTTP/1.1 200 OK\r\n\r\n<close>" }))
	w.at("closed.example", "93.184.216.3", "443", "127.0.0.1:1")
	w.at("resets.example", "93.184.216.4", "80", script(t, func(string) string { return "<reset>" }))
	w.at("nonsense.example", "93.184.216.5", "80", script(t, func(string) string { return "SSH-2.0-OpenSSH_9.6\r\n<close>" }))
	w.at("header.example", "93.184.216.6", "80", script(t, func(string) string {
		return "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("y", 300<<10) + "\r\n\r\n<close>"
	}))
	w.at("switch.example", "93.184.216.7", "80", script(t, func(string) string {
		return "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n<close>"
	}))
	w.at("status.example", "93.184.216.8", "80", script(t, func(string) string {
		return "HTTP/1.1 099 X\r\nContent-Length: 0\r\n\r\n"
	}))
	path := w.socket()
	for url, want := range map[string]string{
		"http://status.example/":  "502 upstream_error Server sent an invalid status",
		"https://wrong.example/":  "502 ssl_error TLS certificate is for another name",
		"https://plain.example/":  "502 ssl_error ",
		"https://closed.example/": "502 connection_refused Connection refused",
		"http://resets.example/":  "502 upstream_error",
		"http://nonsense.example": "502 upstream_error",
		"http://header.example/":  "502 upstream_error",
		"http://switch.example/":  "502 upstream_error",
		"http://nosuch.example/":  "502 dns_error Name could not be resolved",
	} {
		c := dialSocket(t, path)
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", url, strings.Split(url, "/")[2])
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		f := readRefusal(t, r)
		if got := fmt.Sprint(r.StatusCode, " ", f.ErrorType, " ", f.Error); !strings.HasPrefix(got, want) || strings.Contains(got, "93.184") || strings.Contains(got, "127.0") {
			t.Errorf("%s: got %s, want %s and no address", url, got, want)
		}
	}
}

// An answer without end reaches a pack for as long as it reads, byte for byte; when the pack leaves, the server sees its connection end.
func TestHTTPAnswerWithoutEnd(t *testing.T) {
	w := newWorld(t)
	block := make([]byte, 64<<10)
	for i := range block {
		block[i] = byte(i * 7)
	}
	left := make(chan struct{})
	w.site("x.example", "93.184.216.34", false, func(rw http.ResponseWriter, r *http.Request) {
		defer close(left)
		for {
			if _, err := rw.Write(block); err != nil {
				return
			}
		}
	})
	r, err := w.browser().Get("http://x.example/")
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(block))
	for range 200 { // 12.5 MiB, over any bound on what is kept
		if _, err := io.ReadFull(r.Body, got); err != nil || !bytes.Equal(got, block) {
			t.Fatalf("not what was sent, %v", err)
		}
	}
	r.Body.Close()
	<-left
	if e := w.recorded(1)[0]; e.Details["error_type"] != "client_closed" {
		t.Errorf("entry: %+v, want error_type client_closed", e)
	}
}

// A body that doesn't come to its end: a client that sends nonsense gets an answer that says so, one that leaves gets none.
func TestHTTPBodiesThatBreak(t *testing.T) {
	w := newWorld(t)
	read := func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }
	w.site("x.example", "93.184.216.34", false, read)
	w.site2("y.example", "93.184.216.35", read)
	path := w.socket()
	for body, want := range map[string]string{
		"3\r\nabc\r\nzz\r\nabc\r\n0\r\n\r\n":          "400 protocol_error Request body is not well-formed",
		"3\r\nabcdef\r\n0\r\n\r\n":                    "400 protocol_error Request body is not well-formed",
		"fffffffffffffffff\r\nabc\r\n":                "400 protocol_error Request body is not well-formed",
		strings.Repeat("3", 10<<10) + "\r\nabc\r\n":   "400 protocol_error Request body is not well-formed",
		"3\r\nabc\r\n0\r\nX-A: 1\r\nno field\r\n\r\n": "400 protocol_error Request body is not well-formed",
		"3\r\nab":      "502 client_closed Client closed the connection",
		"3\r\nabc\r\n": "502 client_closed Client closed the connection",
	} {
		for _, url := range []string{"http://x.example", "https://y.example"} {
			c := dialSocket(t, path)
			fmt.Fprintf(c, "POST %s/ HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\n\r\n%s", url, strings.Split(url, "/")[2], body)
			if strings.HasPrefix(want, "502") {
				c.(*net.UnixConn).CloseWrite()
			}
			r, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Errorf("%.40q to %s: %v", body, url, err)
				continue
			}
			f := readRefusal(t, r)
			if got := fmt.Sprint(r.StatusCode, " ", f.ErrorType, " ", f.Error); got != want || !r.Close {
				t.Errorf("%.40q to %s: got %s, closes %v; want %s, and the connection closed", body, url, got, r.Close, want)
			}
			if e := w.recorded(1)[0]; e.Success || e.Details["error_type"] != f.ErrorType {
				t.Errorf("%.40q to %s: the entry is %+v, want %s", body, url, e, f.ErrorType)
			}
		}
	}
}
