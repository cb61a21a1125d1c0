package client

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// TestRequestsAreRead: what writeRequest writes is what net/http reads.
func TestRequestsAreRead(t *testing.T) {
	for _, c := range []struct{ method, path, body string }{
		{"GET", "/api/packs", ""},
		{"GET", "/api/packs/a%2Fb/files?x=1&y=%0D%0A", ""},
		{"HEAD", "/", ""},
		{"DELETE", "/api/packs/x", ""},
		{"POST", "/api/packs/scan", ""},
		{"POST", "/api/packs/scan", `{"a": 1}`},
		{"PUT", "/api/secrets/x", strings.Repeat("x", connBuffer)},
	} {
		r := request(t, c.method, c.path, c.body)
		r.Header["X-Rumi-Actor"] = []string{"alice"}
		r.Header["Accept"] = []string{"a/b", "c/d"}
		r.Header["Content-Length"] = []string{"7"}
		r.Header["Host"] = []string{"elsewhere"}
		var out bytes.Buffer
		w := bufio.NewWriter(&out)
		if err := writeRequest(w, r); err != nil {
			t.Fatalf("%s %s: %v", c.method, c.path, err)
		}
		w.Flush()
		in := bufio.NewReader(&out)
		got, err := http.ReadRequest(in)
		if err != nil {
			t.Fatalf("%s %s: %v", c.method, c.path, err)
		}
		body, err := io.ReadAll(got.Body)
		if got.Method != c.method || got.RequestURI != c.path || string(body) != c.body || err != nil {
			t.Errorf("read %s %s with %q, %v; want %s %s with %q", got.Method, got.RequestURI, body, err, c.method, c.path, c.body)
		}
		if got.Host != "approval" || got.ContentLength != int64(len(c.body)) || in.Buffered() != 0 {
			t.Errorf("%s %s: the host is %s, the length %d, %d bytes are left; want approval, %d and 0", c.method, c.path, got.Host, got.ContentLength, in.Buffered(), len(c.body))
		}
		if got.Header.Get("X-Rumi-Actor") != "alice" || len(got.Header["Accept"]) != 2 {
			t.Errorf("%s %s: the headers are %v, want alice and two of Accept", c.method, c.path, got.Header)
		}
	}
}

// TestNoSecondRequest: what would end a line is refused before anything is written.
func TestNoSecondRequest(t *testing.T) {
	for name, spoil := range map[string]func(*http.Request){
		"method":           func(r *http.Request) { r.Method = "GET / HTTP/1.1\r\nX: y\r\n\r\nGET" },
		"empty method":     func(r *http.Request) { r.Method = "" },
		"query":            func(r *http.Request) { r.URL.RawQuery = "a=b HTTP/1.1\r\n\r\n" },
		"NUL in the query": func(r *http.Request) { r.URL.RawQuery = "a=\x00" },
		"opaque":           func(r *http.Request) { r.URL.Opaque = "x HTTP/1.1\r\n" },
		"host":             func(r *http.Request) { r.Host = "a\r\nX: y" },
		"the URL's host":   func(r *http.Request) { r.Host, r.URL.Host = "", "a\r\nX: y" },
		"value":            func(r *http.Request) { r.Header["X-Rumi-Actor"] = []string{"a\r\nX-Rumi-Role: admin"} },
		"bare line feed":   func(r *http.Request) { r.Header["X-Rumi-Actor"] = []string{"a\nX-Rumi-Role: admin"} },
		"name":             func(r *http.Request) { r.Header["X: y\r\nZ"] = []string{"1"} },
		"empty name":       func(r *http.Request) { r.Header[""] = []string{"1"} },
		"longer body":      func(r *http.Request) { r.ContentLength-- },
		"shorter body":     func(r *http.Request) { r.ContentLength++ },
	} {
		r := request(t, "POST", "/api/packs", "body")
		spoil(r)
		var out bytes.Buffer
		if err := writeRequest(bufio.NewWriter(&out), r); err == nil {
			t.Errorf("%s: no error, want one", name)
		}
		if out.Len() > 0 {
			t.Errorf("%s: %q is on its way, want nothing", name, out.String())
		}
	}
}

func request(t *testing.T, method, path, body string) *http.Request {
	t.Helper()
	u, err := url.Parse("https://approval:8080" + path)
	if err != nil {
		t.Fatal(err)
	}
	r := (&http.Request{Method: method, URL: u, Header: http.Header{}, Host: "approval"}).WithContext(context.Background())
	if body != "" {
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	}
	return r
}
