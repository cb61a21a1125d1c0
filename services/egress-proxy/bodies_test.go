package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// carelessServer answers what it is asked and reads no body, so that it takes one for the next request (a known class of flaws,
// "CL.0"). It gives what it was asked for, in order. A connection whose request says so it closes.
func carelessServer(t *testing.T) (port string, asked func() []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	var mu sync.Mutex
	var lines []string
	serve := func(c net.Conn) {
		defer c.Close()
		in := bufio.NewReader(c)
		for {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			mu.Lock()
			lines = append(lines, r.Method+" "+r.RequestURI)
			mu.Unlock()
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			if r.Close {
				return
			}
		}
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port, func() []string {
		mu.Lock()
		defer mu.Unlock()
		all := lines
		lines = nil
		return all
	}
}

// A body can't bring a request past a grant's rules, at a server that doesn't read it either.
func TestBodiesBringNothingPastRules(t *testing.T) {
	r := newRig(t, nil)
	port, asked := carelessServer(t)
	url := "http://127.0.0.1:" + port
	r.pack("p", "approved")
	grant := `{"pack_id":"p","allowed_domains":["127.0.0.1"],"allowed_ports":[` + port + `]`
	r.mustCall("POST", "/api/network/grant", grant+`,"rules":[{"path_prefixes":["/v1"]}]}`)
	inner := "POST /admin/delete-all HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
	refused := 0
	for _, method := range []string{"GET", "HEAD", "DELETE", "POST", "PUT", "PATCH"} {
		bodiless := method == "GET" || method == "HEAD" || method == "DELETE"
		want := []string{method + " /v1/static", "GET /v1/next"}
		if bodiless {
			want, refused = want[1:], refused+2
		}
		c := r.dial("p")
		a, err := ask(c, fmt.Sprintf(`{"method":%q,"url":"%s/v1/static","body":%q}`, method, url, inner))
		if err != nil {
			t.Fatal(err)
		}
		if text := "Network access denied: Grant with rules does not allow a body with " + method; bodiless && a.Error != text || !bodiless && !a.Success {
			t.Errorf("%s in a frame: got %+v, want success only with a method that may have a body", method, a)
		}
		r.ask(c, url+"/v1/next")
		if got := asked(); strings.Join(got, ", ") != strings.Join(want, ", ") {
			t.Errorf("%s in a frame: the server was asked %q, want %q", method, got, want)
		}
		c = r.dial("p")
		in := bufio.NewReader(c)
		status, text := speak(t, c, in, method, url+"/v1/static", inner)
		if bodiless && status != http.StatusForbidden || !bodiless && status != http.StatusOK {
			t.Errorf("%s over HTTP: got %d %s, want 200 only with a method that may have a body", method, status, text)
		}
		if !bodiless { // of which the answer came before the body was read
			c = r.dial("p")
			in = bufio.NewReader(c)
		}
		speak(t, c, in, "GET", url+"/v1/next", "")
		if got := asked(); strings.Join(got, ", ") != strings.Join(want, ", ") {
			t.Errorf("%s over HTTP: the server was asked %q, want %q", method, got, want)
		}
	}
	r.eventually("each refusal is audited", func() bool { return r.reasons()["body_denied"] == refused })
	// Without rules there is nothing to get past.
	r.mustCall("POST", "/api/network/grant", grant+`}`)
	c := r.dial("p")
	if a, err := ask(c, fmt.Sprintf(`{"method":"GET","url":"%s/v1/search","body":"{}"}`, url)); err != nil || !a.Success {
		t.Errorf("a body with GET, without rules: %+v, %v; want success", a, err)
	}
}

// In a tunnel that carries HTTP/1.1 the rules hold, though the tunnel was allowed whatever it carries.
func TestRulesHoldForHTTPInTunnels(t *testing.T) {
	r := newRig(t, nil)
	port, asked := carelessServer(t)
	r.pack("p", "approved")
	r.mustCall("POST", "/api/network/grant", `{"pack_id":"p","allowed_domains":["127.0.0.1"],"allowed_ports":[`+port+`],"rules":[{"methods":["GET"],"path_prefixes":["/v1"]}],"allow_tunnel":true}`)
	c := r.dial("p")
	in := bufio.NewReader(c)
	if status, _ := speak(t, c, in, "CONNECT", "127.0.0.1:"+port, ""); status != http.StatusOK {
		t.Fatalf("the tunnel got the status %d, want 200", status)
	}
	for _, q := range []struct {
		method, target string
		status         int
	}{{"GET", "/v1/x", 200}, {"GET", "/admin", 403}, {"DELETE", "/v1/x", 403}, {"GET", "/v1/../admin", 403}, {"GET", "/v1/y", 200}} {
		fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: 127.0.0.1:%s\r\n\r\n", q.method, q.target, port)
		a, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, a.Body)
		if a.StatusCode != q.status {
			t.Errorf("%s %s: %d, want %d", q.method, q.target, a.StatusCode, q.status)
		}
	}
	if got := strings.Join(asked(), ", "); got != "GET /v1/x, GET /v1/y" {
		t.Errorf("the server was asked %s", got)
	}
}
