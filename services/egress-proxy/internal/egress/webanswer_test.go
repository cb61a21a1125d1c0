package egress

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/session"
)

// speak sends a request as it is and gives the answer as it is, up to the end of a body of known length.
func speak(t *testing.T, path, request string) (head string, body string) {
	t.Helper()
	c := dialSocket(t, path)
	defer c.Close()
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(c)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			t.Fatalf("%.60q: %q, %v", request, head+line, err)
		}
		if head += line; line != "\r\n" {
			continue
		}
		if strings.HasPrefix(head[strings.LastIndex("\r\n\r\n"+strings.TrimSuffix(head, "\r\n\r\n"), "\r\n\r\n"):], "HTTP/1.1 1") {
			continue // an interim answer
		}
		if _, after, ok := strings.Cut(head, "\r\nContent-Length: "); ok && !strings.HasPrefix(request, "HEAD ") && !strings.Contains(head, " 304 ") {
			var n int
			fmt.Sscan(after, &n)
			data := make([]byte, n)
			io.ReadFull(in, data)
			body = string(data)
		}
		return head, body
	}
}

func request(method, target string) string {
	host := strings.FieldsFunc(target[strings.Index(target, "://")+3:], func(r rune) bool { return strings.ContainsRune("/?#", r) })[0]
	return method + " " + target + " HTTP/1.1\r\nHost: " + host + "\r\n\r\n"
}

// A server's answer reaches the pack as it came: its reason, its interim answers, and what it says of a body that isn't there.
func TestAnswersPassAsTheyCame(t *testing.T) {
	w := newWorld(t)
	w.at("x.example", "93.184.216.34", "80", script(t, func(path string) string {
		return map[string]string{
			"/304":     "HTTP/1.1 304 Not Modified\r\nContent-Length: 1234\r\nETag: \"a\"\r\n\r\n",
			"/304bare": "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n",
			"/head":    "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n",
			"/bare":    "HTTP/1.1 200 OK\r\n\r\n",
			"/204":     "HTTP/1.1 204 No Content\r\n\r\n",
			"/reason":  "HTTP/1.1 422 Quota exceeded for key\r\nContent-Length: 0\r\n\r\n",
			"/custom":  "HTTP/1.1 599 Custom\r\nContent-Length: 0\r\n\r\n",
			"/early":   "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nKeep-Alive: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
			"/many":    strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 100) + "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
		}[path]
	}))
	path := w.socket()
	for _, test := range []struct{ method, path, starts, has, lacks string }{
		{"GET", "/304", "HTTP/1.1 304 Not Modified\r\n", "Content-Length: 1234\r\n", ""},
		{"GET", "/304bare", "HTTP/1.1 304 Not Modified\r\n", "Etag: \"a\"\r\n", "Content-Length"},
		{"HEAD", "/head", "HTTP/1.1 200 OK\r\n", "Content-Length: 1234\r\n", ""},
		{"HEAD", "/bare", "HTTP/1.1 200 OK\r\n", "", "Content-Length"},
		{"GET", "/204", "HTTP/1.1 204 No Content\r\n", "", "Content-Length"},
		{"GET", "/reason", "HTTP/1.1 422 Quota exceeded for key\r\n", "", ""},
		{"GET", "/custom", "HTTP/1.1 599 Custom\r\n", "", ""},
		{"GET", "/early", "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\n", "", "Keep-Alive"},
		{"GET", "/many", strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 100) + "HTTP/1.1 200 OK\r\n", "", ""},
	} {
		head, _ := speak(t, path, request(test.method, "http://x.example"+test.path))
		if !strings.HasPrefix(head, test.starts) || !strings.Contains(head, test.has) || test.lacks != "" && strings.Contains(head, test.lacks) {
			t.Errorf("%s %s: %q, want it to begin with %q, to have %q and not %q", test.method, test.path, head, test.starts, test.has, test.lacks)
		}
	}
	for _, path := range []string{"/early", "/many"} {
		if r := w.ask("GET", "http://x.example"+path); !r.Success || *r.Body != "hi" {
			t.Errorf("%s in a frame: %s; want success", path, r.errorText())
		}
	}
}

// A path is sent as it was asked for: a signature over it must fit.
func TestPathsAreSentAsAsked(t *testing.T) {
	w := newWorld(t)
	serve := func(rw http.ResponseWriter, r *http.Request) { io.WriteString(rw, r.RequestURI) }
	w.site("x.example", "93.184.216.34", false, serve)
	w.site2("y.example", "93.184.216.35", serve)
	raw := scriptLine(t, func(line string) string {
		target := strings.Fields(line)[1]
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(target), target)
	})
	w.at("raw.example", "93.184.216.36", "80", raw) // net/http's server refuses some
	path := w.socket()
	for _, target := range []string{
		"/", "/%7Euser", "/%41", "/%61.txt", "/a/../b", "/a/./b", "/a%2fb", "/a%2Fb", "//double", "//double%2f", "/a//b", "/caf%c3%a9", "/a;b=c", "/a?b=%41&c=/../",
		"/?", "/a?", "/a+b", "/:80", "/@x", "/a%00b", "/...", "/%2e%2e/x", "/a|b", `/"<>^{}`, "/%zz", "/%", "/a\\b",
	} {
		hosts := []string{"http://raw.example"}
		if !strings.ContainsAny(target, `|"\`) && !strings.HasSuffix(target, "%") && !strings.Contains(target, "%zz") {
			hosts = append(hosts, "http://x.example", "https://y.example")
		}
		for _, host := range hosts {
			if r := w.ask("GET", host+target); !r.Success || *r.Body != target {
				t.Errorf("%s%s in a frame: got %s %v, want the target unchanged", host, target, r.errorText(), r.Body)
			} else if *r.FinalURL != host+target {
				t.Errorf("%s%s in a frame: final_url %s", host, target, *r.FinalURL)
			}
			if _, got := speak(t, path, request("GET", host+target)); got != target {
				t.Errorf("%s%s: sent %q, want the target unchanged", host, target, got)
			}
		}
	}
	for asked, sent := range map[string]string{"": "/", "?x": "/?x", "/a b": "/a%20b", "/é": "/%C3%A9", "/a#b": "/a", "#b": "/"} {
		if r := w.ask("GET", "http://x.example"+asked); !r.Success || *r.Body != sent {
			t.Errorf("%q: %s %v, want %q", asked, r.errorText(), r.Body, sent)
		}
	}
}

// Every method that a rule may name can be used over HTTP; frames have the contract's six.
func TestMethods(t *testing.T) {
	w := newWorld(t)
	w.at("x.example", "93.184.216.34", "80", scriptLine(t, func(line string) string {
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(line), line)
	}))
	path := w.socket()
	for _, method := range []string{"OPTIONS", "PROPFIND", "REPORT", "MKCOL", "LIST", "QUERY", "LOCK"} {
		if _, got := speak(t, path, request(method, "http://x.example/a")); got != method+" /a HTTP/1.1" {
			t.Errorf("%s: the server got %q, want the method and /a", method, got)
		}
		if r := w.ask(method, "http://x.example/a"); r.errorText() != "Method not allowed: "+method {
			t.Errorf("%s in a frame: got %q, want that the method is not allowed", method, r.errorText())
		}
	}
	for _, method := range []string{"TRACE", "FOO", "get", "PRI"} {
		if head, _ := speak(t, path, request(method, "http://x.example/a")); !strings.HasPrefix(head, "HTTP/1.1 400 ") {
			t.Errorf("%s: got %q, want 400", method, head)
		}
	}
	for target, want := range map[string]string{"http://x.example": "*", "http://x.example/": "/", "http://x.example?a": "/?a"} { // RFC 9112, section 3.2.4
		if _, got := speak(t, path, request("OPTIONS", target)); got != "OPTIONS "+want+" HTTP/1.1" {
			t.Errorf("OPTIONS %s: the server got %q", target, got)
		}
	}
}

// A refusal says that it is the proxy's, why, and when to come again; of a CONNECT clients show the status line only.
func TestRefusalsExplainThemselves(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Rate = 60 })
	w.grants["p"] = []string{"x.example", "10.0.0.1", "closed.example"}
	w.at("closed.example", "93.184.216.37", "443", "127.0.0.1:1")
	path := w.socket()
	tunnel := func(to string) string { return "CONNECT " + to + " HTTP/1.1\r\nHost: " + to + "\r\n\r\n" }
	full := func() func() {
		k := w.proxy.packs.Get("p")
		for range session.MaxStreams {
			for !k.AcquireStream() { // the request before may not have given its own back
				time.Sleep(time.Millisecond)
			}
		}
		return func() {
			for range session.MaxStreams {
				k.ReleaseStream()
			}
		}
	}
	for name, test := range map[string]struct {
		request, starts, has string
		with                 func() (undo func())
	}{
		"tunnel not granted": {request: tunnel("other.example:443"), starts: "HTTP/1.1 403 Rumi: Domain 'other.example' not in allowed list\r\n", has: "Proxy-Status: rumi; error=http_request_denied\r\n"},
		"tunnel blocked":     {request: tunnel("10.0.0.1:443"), starts: "HTTP/1.1 403 Rumi: Request blocked by security policy\r\n", has: "Proxy-Status: rumi; error=http_request_denied\r\n"},
		"tunnel to nowhere":  {request: tunnel("closed.example:443"), starts: "HTTP/1.1 502 Rumi: Connection refused\r\n", has: "Proxy-Status: rumi; error=connection_refused\r\n"},
		"no such name":       {request: tunnel("x.example:443"), starts: "HTTP/1.1 502 Rumi: Name could not be resolved\r\n", has: "Proxy-Status: rumi; error=dns_error\r\n"},
		"not granted":        {request: request("GET", "http://other.example/"), starts: "HTTP/1.1 403 Forbidden\r\n", has: "Proxy-Status: rumi; error=http_request_denied\r\n"},
		"bad request":        {request: request("GET", "ftp://x.example/"), starts: "HTTP/1.1 400 Bad Request\r\n", has: "Proxy-Status: rumi; error=http_request_error\r\n"},
		"too many":           {request: tunnel("x.example:443"), starts: "HTTP/1.1 429 Rumi: Too many requests under way\r\n", has: "Proxy-Status: rumi; error=connection_limit_reached\r\nRetry-After: 1\r\n", with: full},
		"status of a pack": {request: tunnel("x.example:443"), starts: "HTTP/1.1 403 Rumi: Pack is not approved (status: bad?  status)\r\n", has: "", with: func() func() {
			set := func(s gate.State) {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.gates["p"] = s
			}
			set(gate.State{PackID: "p", Status: "bad\n  status"})
			return func() { set(gate.State{PackID: "p", Open: true, Status: "approved"}) }
		}},
	} {
		undo := func() {}
		if test.with != nil {
			undo = test.with()
		}
		head, _ := speak(t, path, test.request)
		undo()
		if !strings.HasPrefix(head, test.starts) || !strings.Contains(head, test.has) {
			t.Errorf("%s: %q, want it to begin with %q and to have %q", name, head, test.starts, test.has)
		}
	}
	for w.ask("GET", "http://10.0.0.1/").errorType() != "rate_limited" { // until no token is left
	}
	if head, _ := speak(t, path, tunnel("x.example:443")); !strings.HasPrefix(head, "HTTP/1.1 429 Rumi: Rate limit exceeded\r\n") || !strings.Contains(head, "\r\nRetry-After: 1\r\n") {
		t.Errorf("too often: got %q, want 429 with Retry-After: 1", head)
	}
}

// A server can't speak for the proxy.
func TestServersDoNotSetProxyStatus(t *testing.T) {
	w := newWorld(t)
	w.site("x.example", "93.184.216.34", false, func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Proxy-Status", "rumi; error=http_request_denied")
	})
	if head, _ := speak(t, w.socket(), request("GET", "http://x.example/")); strings.Contains(head, "Proxy-Status") {
		t.Errorf("head of the answer: %q, want no Proxy-Status of the server's", head)
	}
}
