package egress

import (
	"encoding/base64"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/libs/uds"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/decision"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/frameproto"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/headers"
)

func TestRequestsThatBreakTheRules(t *testing.T) {
	w := newWorld(t)
	many := map[string]string{}
	for i := range 101 {
		many[fmt.Sprint("X-", i)] = "v"
	}
	header := func(name, value string) map[string]string { return map[string]string{name: value} }
	frame := func(fields string) string { return `{"method":"GET","url":"http://x.example/",` + fields + `}` }
	build := func(fields ...any) string {
		m := map[string]any{"method": "GET", "url": "http://x.example/"}
		for i := 0; i < len(fields); i += 2 {
			m[fields[i].(string)] = fields[i+1]
		}
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	tests := []struct{ name, frame, kind, text string }{
		{"no JSON", `hello`, "protocol_error", "Request is not a JSON object"},
		{"empty", ``, "protocol_error", ""}, {"array", `[]`, "protocol_error", ""}, {"string", `"x"`, "protocol_error", ""}, {"number", `1`, "protocol_error", ""},
		{"trailing", `{} {}`, "protocol_error", ""}, {"cut", `{"method":"GET"`, "protocol_error", ""}, {"no UTF-8", "{\"method\":\"\xff\"}", "protocol_error", ""},
		{"member twice", frame(`"url":"http://y.example/"`), "validation_error", "A name stands twice in the request: url"},
		{"no url", `{}`, "validation_error", "Unsupported scheme: "},
		{"url null", `{"url":null}`, "validation_error", "Unsupported scheme: "},
		{"url number", `{"url":1}`, "validation_error", "Invalid value for field 'url'"},
		{"method number", frame(`"x":1,"body":1`), "validation_error", "Invalid value for field 'body'"},

		{"method", build("method", "TRACE"), "validation_error", "Method not allowed: TRACE"},
		{"CONNECT", build("method", "CONNECT"), "validation_error", "Method not allowed: CONNECT"},
		{"OPTIONS", build("method", "options"), "validation_error", "Method not allowed: options"},
		{"method with a line end", build("method", "GET\r\nX: y"), "validation_error", "Method not allowed: GET??X: y"},
		{"long method", build("method", strings.Repeat("A", 1000)), "validation_error", "Method not allowed: " + strings.Repeat("A", 100) + "…"},

		{"scheme", build("url", "ftp://x.example/"), "validation_error", "Unsupported scheme: ftp"},
		{"file", build("url", "file:///etc/passwd"), "validation_error", "Unsupported scheme: file"},
		{"unix", build("url", "unix:///run/docker.sock"), "validation_error", "Unsupported scheme: unix"},
		{"no scheme", build("url", "x.example/"), "validation_error", "Unsupported scheme: "},
		{"no host", build("url", "http:///path"), "validation_error", "URL must have a hostname"},
		{"opaque", build("url", "http:x.example"), "validation_error", "URL must have a hostname"},
		{"port alone", build("url", "http://:80/"), "validation_error", "URL must have a hostname"},
		{"line end in url", build("url", "http://x.example/\r\nX: y"), "validation_error", "Invalid URL"},
		{"NUL in url", build("url", "http://x.example/\x00"), "validation_error", "Invalid URL"},
		{"user-info", build("url", "http://a:b@x.example/"), "validation_error", "URL must not contain user-info"},
		{"long url", build("url", "http://x.example/"+strings.Repeat("a", decision.MaxURL)), "validation_error", "URL too long: 16401 > 16384"},

		{"headers list", frame(`"headers":[["a","b"]]`), "validation_error", "Invalid value for field 'headers'"},
		{"header number", frame(`"headers":{"A":1}`), "validation_error", ""},
		{"header null", frame(`"headers":{"A":null}`), "validation_error", ""},
		{"header object", frame(`"headers":{"A":{}}`), "validation_error", ""},
		{"same header twice", frame(`"headers":{"A":"1","A":"2"}`), "validation_error", "A name stands twice in the request: headers/A"},
		{"two spellings", frame(`"headers":{"Accept":"1","aCCEPT":"2"}`), "validation_error", "Header in two spellings: aCCEPT"},
		{"many", build("headers", many), "validation_error", "Too many headers: 101 > 100"},
		{"long name", build("headers", header(strings.Repeat("x", 257), "v")), "validation_error", "Header name too long: 257 > 256"},
		{"long value", build("headers", header("X", strings.Repeat("v", 8193))), "validation_error", "Header value too long: 8193 > 8192"},
		{"empty name", build("headers", header("", "v")), "validation_error", "Invalid header name: "},
		{"CR LF in name", build("headers", header("A\r\nB", "v")), "validation_error", "Invalid header name: A??B"},
		{"space in name", build("headers", header("A ", "v")), "validation_error", "Invalid header name: A "},
		{"colon in name", build("headers", header("A:", "v")), "validation_error", "Invalid header name: A:"},
		{"CR LF in value", build("headers", header("A", "v\r\nB: c")), "validation_error", "Invalid value of header: A"},
		{"LF in value", build("headers", header("A", "v\nB: c")), "validation_error", "Invalid value of header: A"},
		{"NUL in value", build("headers", header("A", "v\x00")), "validation_error", "Invalid value of header: A"},
		{"Transfer-Encoding", build("headers", map[string]string{"transfer-encoding": "chunked", "Content-Length": "5"}), "validation_error", "Header not allowed: Transfer-Encoding"},
		{"Host", build("headers", header("Host", "internal.example")), "validation_error", "Host header does not equal the URL's host"},
		{"Host with another port", build("headers", header("host", "x.example:81")), "validation_error", "Host header does not equal the URL's host"},

		{"long timeout", build("timeout_seconds", 121), "validation_error", "Timeout too large: 121.0 > 120.0"},
		{"longer", build("timeout_seconds", 1e300), "validation_error", "Timeout too large: 1e+300 > 120.0"},
		{"fraction", build("connect_timeout_seconds", 120.5), "validation_error", "Timeout too large: 120.5 > 120.0"},
		{"read", build("read_timeout_seconds", 121), "validation_error", "Timeout too large: 121.0 > 120.0"},
		{"negative", build("timeout_seconds", -1), "validation_error", "Timeout must be positive: -1.0"},
		{"zero", build("timeout_seconds", 0), "validation_error", "Timeout must be positive: 0.0"},
		{"minus zero", frame(`"timeout_seconds":-0.0`), "validation_error", "Timeout must be positive: -0.0"},
		{"NaN", frame(`"timeout_seconds": NaN`), "validation_error", "Numbers must be finite"},
		{"Infinity", frame(`"timeout_seconds":Infinity`), "validation_error", "Numbers must be finite"},
		{"-Infinity", frame(`"read_timeout_seconds": -Infinity`), "validation_error", "Numbers must be finite"},
		{"over all floats", frame(`"timeout_seconds":1e999`), "validation_error", ""},
		{"text", frame(`"timeout_seconds":"30"`), "validation_error", "Invalid value for field 'timeout_seconds'"},
		{"true", frame(`"timeout_seconds":true`), "validation_error", "Invalid value for field 'timeout_seconds'"},
	}
	for _, tt := range tests {
		r := w.raw(tt.frame)
		if r.errorType() != tt.kind || tt.text != "" && r.errorText() != tt.text {
			t.Errorf("%s: %s %q, want %s %q", tt.name, r.errorType(), r.errorText(), tt.kind, tt.text)
		}
		if entries := w.audited(); len(entries) != 1 || entries[0].Success || entries[0].Details["allowed"] != false {
			t.Errorf("%s: the entries are %+v, want one refusal", tt.name, entries)
		}
	}
	if resolved, dialled := w.contacts(); resolved != nil || dialled != nil {
		t.Errorf("looked up %v and dialled %v, want neither", resolved, dialled)
	}
}

func TestFramesThatCannotBeRead(t *testing.T) {
	w := newWorld(t)
	h := w.proxy.Handler("p")
	for err, text := range map[error]string{
		uds.ErrEmpty: "Request is empty",
		&uds.TooLargeError{Length: math.MaxUint32, Max: MaxRequest}: "Request too large (max: 1048576 bytes)",
	} {
		r := decode(t, h.Refuse(err, nil))
		if r.errorType() != "protocol_error" || r.errorText() != text {
			t.Errorf("%v: got %s %q, want protocol_error %q", err, r.errorType(), r.errorText(), text)
		}
	}
	if entries := w.audited(); len(entries) != 2 {
		t.Errorf("the entries are %+v, want two", entries)
	}
}

func TestWhatIsSent(t *testing.T) {
	w := newWorld(t)
	var got *http.Request
	var body string
	w.site("x.example", "93.184.216.34", false, func(rw http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, body = r.Clone(r.Context()), string(b)
	})
	r := w.ask("post", "HTTP://X.Example:80/a%20b/ü?q=1 2&ü=\"#frag", "body", "hällo", "unknown", true, "headers", map[string]string{
		"Host": "X.example", "X-One": " 1 ", "X-Empty": "", "Content-Length": "999", "Connection": "close, X-Hop, keep-alive", "X-Hop": "1", "Keep-Alive": "5",
		"TE": "trailers", "Trailer": "X", "Upgrade": "websocket", "Proxy-Authorization": "secret", "Proxy-Foo": "x", "Authorization": "Bearer t", "Cookie": "a=b",
		"Content-Type": "text/plain",
	})
	if !r.Success {
		t.Fatalf("the request fails: %s; want success", r.errorText())
	}
	if got.Method != "POST" || got.Host != "x.example" || body != "hällo" || got.ContentLength != 6 {
		t.Errorf("method %s, host %s, body %q, length %d", got.Method, got.Host, body, got.ContentLength)
	}
	if got.RequestURI != "/a%20b/%C3%BC?q=1%202&%C3%BC=\"" {
		t.Errorf("the server got the target %s, want it with its path and its query escaped as sent", got.RequestURI)
	}
	want := http.Header{"X-One": {"1"}, "X-Empty": {""}, "Authorization": {"Bearer t"}, "Cookie": {"a=b"}, "Content-Type": {"text/plain"},
		"User-Agent": {headers.UserAgent}, "Accept-Encoding": {"identity"}, "Content-Length": {"6"}}
	if fmt.Sprint(got.Header) != fmt.Sprint(want) {
		t.Errorf("header %v, want %v", got.Header, want)
	}
	if *r.FinalURL != "http://x.example/a%20b/%C3%BC?q=1%202&%C3%BC=\"" {
		t.Errorf("the final URL is %s, want it escaped as sent", *r.FinalURL)
	}
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"} {
		if r := w.ask(method, "http://x.example/"); !r.Success || got.Method != method {
			t.Errorf("%s: got %s, and the server saw %s", method, r.errorText(), got.Method)
		}
		wantLength := ""
		if method == "POST" || method == "PUT" || method == "PATCH" {
			wantLength = "0"
		}
		if got.Header.Get("Content-Length") != wantLength {
			t.Errorf("%s without a body: Content-Length %q", method, got.Header.Get("Content-Length"))
		}
	}
	big := strings.Repeat("0123456789abcdef", 60<<10) // over 64 KiB it is written beside the reading
	if r := w.ask("PUT", "http://x.example/", "body", big); !r.Success || body != big {
		t.Errorf("a body of %d bytes: %s, got %d", len(big), r.errorText(), len(body))
	}
	if r := w.raw(`{"url":"http://x.example/"}`); !r.Success || got.Method != "GET" {
		t.Errorf("the least request: got %s, and the server saw %s; want a GET that succeeds", r.errorText(), got.Method)
	}
	if r := w.raw(`{"url":"http://x.example/","method":null,"headers":null,"body":null,"timeout_seconds":null}`); !r.Success {
		t.Errorf("fields that are null: %s; want success", r.errorText())
	}
}

func TestWhatIsAnswered(t *testing.T) {
	w := newWorld(t)
	binary := "\x00\xff\xfe\x80binary"
	w.at("x.example", "93.184.216.34", "80", script(t, func(path string) string {
		switch path {
		case "/headers":
			return "HTTP/1.1 404 Nope\r\nx-LOWER: 1\r\nSet-Cookie: a=1; Expires=Mon, 01 Jan 2035 00:00:00 GMT\r\nVary: A\r\nX-Other: \xe9\r\nset-cookie: b=2\r\nVARY: B\r\nContent-Length: 2\r\n\r\nhi"
		case "/binary":
			return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(binary), binary)
		case "/liar":
			return "HTTP/1.1 200 OK\r\nX-Proxy-Body-Encoding: base64\r\nContent-Length: 2\r\n\r\nhi"
		case "/control":
			return "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n\"\\\n\x01\x7f\x00"
		case "/nothing":
			return "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"
		default:
			return "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"
		}
	}))
	r := w.ask("GET", "http://x.example/headers")
	if !r.Success || *r.Status != 404 || *r.Body != "hi" || *r.BytesRead != 2 || *r.Hops != 0 {
		t.Errorf("got %+v, want 404 with body hi, 2 bytes, no hops", r)
	}
	wantHeaders := map[string]string{"x-LOWER": "1", "Set-Cookie": "a=1; Expires=Mon, 01 Jan 2035 00:00:00 GMT\nb=2", "Vary": "A, B", "X-Other": "é", "Content-Length": "2"}
	if fmt.Sprint(r.Headers) != fmt.Sprint(wantHeaders) {
		t.Errorf("the headers are %q, want %q", r.Headers, wantHeaders)
	}
	wantList := [][2]string{{"x-LOWER", "1"}, {"Set-Cookie", "a=1; Expires=Mon, 01 Jan 2035 00:00:00 GMT"}, {"Vary", "A"}, {"X-Other", "é"}, {"set-cookie", "b=2"}, {"VARY", "B"}, {"Content-Length", "2"}}
	if !slices.Equal(r.HeaderList, wantList) {
		t.Errorf("the header list is %q, want %q", r.HeaderList, wantList)
	}
	r = w.ask("GET", "http://x.example/binary")
	if got, _ := base64.StdEncoding.DecodeString(*r.Body); string(got) != binary || r.Headers["X-Proxy-Body-Encoding"] != "base64" || *r.BytesRead != len(binary) {
		t.Errorf("the binary answer is %+v, want %d bytes in base64", r, len(binary))
	}
	if r = w.ask("GET", "http://x.example/liar"); *r.Body != "hi" || r.Headers["X-Proxy-Body-Encoding"] != "" || len(r.HeaderList) != 1 {
		t.Errorf("a server that claims our encoding: %+v; want hi and its claim removed", r)
	}
	if r = w.ask("GET", "http://x.example/control"); *r.Body != "\"\\\n\x01\x7f\x00" {
		t.Errorf("control characters: got %q, want them unchanged", *r.Body)
	}
	if r = w.ask("GET", "http://x.example/nothing"); !r.Success || *r.Status != 204 || *r.Body != "" {
		t.Errorf("no content: got %+v, want 204 and an empty body", r)
	}
	if r = w.ask("GET", "http://x.example/"); !r.Success || *r.Status != 500 {
		t.Errorf("a server's own error: got %+v, want success with the status 500", r)
	}
}

// An answer that is allowed fits the client's 4 MiB message whatever its body is made of.
func TestResponseTooLarge(t *testing.T) {
	w := newWorld(t)
	const limit = frameproto.MaxResponse
	w.site("x.example", "93.184.216.34", false, func(rw http.ResponseWriter, r *http.Request) {
		var n int
		var fill string
		fmt.Sscanf(r.URL.Path, "/%d/%s", &n, &fill)
		body := []byte(strings.Repeat(map[string]string{"a": "a", "quote": `"`, "binary": "\xff"}[fill], n))
		if r.URL.Query().Has("chunked") {
			for len(body) > 0 {
				n, err := rw.Write(body[:min(len(body), 32<<10)])
				if err != nil {
					return
				}
				body = body[n:]
				rw.(http.Flusher).Flush()
			}
			return
		}
		rw.Header().Set("Content-Length", fmt.Sprint(n))
		rw.Write(body)
	})
	h := w.proxy.Handler("p")
	for _, query := range []string{"", "?chunked"} {
		for _, tt := range []struct {
			path string
			ok   bool
		}{
			{"/4000000/a", true}, {"/4193000/a", true}, {fmt.Sprintf("/%d/a", limit), false}, {fmt.Sprintf("/%d/a", limit+1), false}, {"/50000000/a", false},
			{"/2000000/quote", true}, {"/2200000/quote", false}, {"/3100000/binary", true}, {"/3200000/binary", false},
		} {
			answer := h.Answer(t.Context(), []byte(`{"url":"http://x.example`+tt.path+query+`"}`), nil)
			if len(answer) > limit {
				t.Errorf("%s%s: an answer of %d bytes", tt.path, query, len(answer))
			}
			r := decode(t, answer)
			if r.Success != tt.ok || !tt.ok && (r.errorType() != "response_too_large" || r.errorText() != "Response too large (max: 4194304 bytes)") {
				t.Errorf("%s%s: got success %v, %s %q; want success %v, or else response_too_large", tt.path, query, r.Success, r.errorType(), r.errorText(), tt.ok)
			}
		}
	}
	if r := w.ask("HEAD", "http://x.example/50000000/a"); !r.Success || r.Headers["Content-Length"] != "50000000" {
		t.Errorf("HEAD: got %s %q, want success with the length of 50,000,000", r.errorType(), r.errorText())
	}
}

func TestRecords(t *testing.T) {
	w := newWorld(t)
	w.grants["p"] = []string{"x.example"}
	w.site("x.example", "93.184.216.34", false, func(rw http.ResponseWriter, r *http.Request) { rw.Write([]byte("hello")) })
	secrets := []string{"s3cr3t-query", "s3cr3t-header", "s3cr3t-body"}
	if r := w.ask("POST", "http://x.example/path?token=s3cr3t-query", "headers", map[string]string{"Authorization": "s3cr3t-header"}, "body", "s3cr3t-body"); !r.Success {
		t.Fatalf("the request fails: %s; want success", r.errorText())
	}
	w.ask("GET", "http://y.example/?token=s3cr3t-query", "headers", map[string]string{"Authorization": "s3cr3t-header"})
	w.ask("GET", "http://x.example:81/?token=s3cr3t-query")
	entries := w.audited()
	if len(entries) != 4 {
		t.Fatalf("%d entries: %+v; want 4", len(entries), entries)
	}
	d := entries[0].Details
	if e := entries[0]; !e.Success || e.Action != "network_request" || e.OwnerPack != "p" ||
		d["domain"] != "x.example" || d["port"] != int64(80) || d["allowed"] != true || d["check_type"] != "proxy_request" || d["method"] != "POST" ||
		d["url"] != "http://x.example/path" || d["status_code"] != int64(200) || d["bytes"] != int64(5) || d["redirect_hops"] != int64(0) || d["latency_ms"] == nil {
		t.Errorf("the entry is %+v, want p's success with the details of the request and no query", e)
	}
	if e := entries[1]; e.Action != "network_denied" || e.Details["blocked_reason"] != "grant_denied" || e.RejectionReason != "Domain 'y.example' not in allowed list" {
		t.Errorf("the entry is %+v, want network_denied of y.example with grant_denied", e)
	}
	if e := entries[3]; e.Success || e.Details["allowed"] != true || e.Details["error_type"] != "connection_refused" {
		t.Errorf("the entry is %+v, want an allowed request that failed with connection_refused", e)
	}
	logged := w.logs.String()
	if n := strings.Count(logged, "\n"); n != 3 {
		t.Errorf("%d log lines for 3 requests:\n%s", n, logged)
	}
	everything := logged + fmt.Sprintf("%+v", entries)
	for _, secret := range secrets {
		if strings.Contains(everything, secret) {
			t.Errorf("the secret %s is in the log or the entries, want it in neither", secret)
		}
	}
	want := map[string]float64{"allowed/ok": 1, "denied/grant_denied": 1, "failed/connection_refused": 1}
	if got := w.counts(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("counts %v, want %v", got, want)
	}
}

// What can't be written down is not let out.
func TestAuditFails(t *testing.T) {
	w := newWorld(t)
	w.site("x.example", "93.184.216.34", false, func(rw http.ResponseWriter, r *http.Request) { rw.Write([]byte("hello")) })
	w.auditErr = io.ErrShortWrite
	for _, url := range []string{"http://x.example/", "http://10.0.0.1/"} {
		if r := w.ask("GET", url); r.errorType() != "internal_error" || r.errorText() != "Internal error" {
			t.Errorf("%s: got %+v, want internal_error", url, r)
		}
	}
}
