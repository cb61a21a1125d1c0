package headers

import (
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/decision"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/upstream"
)

func destination(t *testing.T) decision.Destination {
	t.Helper()
	to, f := decision.ParseURL("http://x.example/")
	if f != nil {
		t.Fatalf("ParseURL: %s, want it valid", f.Text)
	}
	return to
}

// Both ways in check a field alike: what one refuses, the other refuses with the same text.
func TestOneCheck(t *testing.T) {
	to := destination(t)
	for _, tt := range []struct {
		fields []string // "name: value"
		want   string
	}{
		{[]string{"Host: x.example", "Accept: a"}, ""},
		{[]string{"Host: X.example:80"}, ""},
		{[]string{"Host: y.example"}, "Host header does not equal the URL's host"},
		{[]string{"Host: x.example:81"}, "Host header does not equal the URL's host"},
		{[]string{"Host: x.example", "A b: c"}, "Invalid header name: A b"},
		{[]string{"Host: x.example", ": c"}, "Invalid header name: "},
		{[]string{"Host: x.example", "A: b\x00"}, "Invalid value of header: A"},
		{[]string{"Host: x.example", "A: b", "a: b"}, "Header in two spellings: a"},
		{[]string{"Host: x.example", "host: x.example"}, "Header in two spellings: host"},
		{[]string{"Host: x.example", strings.Repeat("a", 257) + ": b"}, "Header name too long: 257 > 256"},
		{[]string{"Host: x.example", "A: " + strings.Repeat("b", 8193)}, "Header value too long: 8193 > 8192"},
		{slices.Repeat([]string{"A: b"}, 101), "Too many headers: 101 > 100"},
	} {
		var fields []upstream.Field
		for _, line := range tt.fields {
			name, value, _ := strings.Cut(line, ": ")
			fields = append(fields, upstream.Field{Name: name, Value: value})
		}
		if _, f := OfFrame(fields, to); text(f) != tt.want {
			t.Errorf("OfFrame(%.100q): %q, want %q", tt.fields, text(f), tt.want)
		}
		if f := OfHead(tt.fields, "GET", "HTTP/1.1", to); text(f) != tt.want {
			t.Errorf("OfHead(%.100q): %q, want %q", tt.fields, text(f), tt.want)
		}
	}
}

func TestFraming(t *testing.T) {
	to := destination(t)
	for _, tt := range []struct {
		method, version string
		lines           []string
		want            string
	}{
		{"POST", "HTTP/1.1", []string{"Host: x.example", "Content-Length: 1"}, ""},
		{"POST", "HTTP/1.1", []string{"Host: x.example", "Transfer-Encoding: Chunked"}, ""},
		{"POST", "HTTP/1.1", []string{"Host: x.example", "Content-Length: 1", "Transfer-Encoding: chunked"}, "Both Content-Length and Transfer-Encoding"},
		{"POST", "HTTP/1.1", []string{"Host: x.example", "Content-Length: 1", "Content-Length: 1"}, "Header given twice: Content-Length"},
		{"POST", "HTTP/1.1", []string{"Host: x.example", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"}, "Header given twice: Transfer-Encoding"},
		{"POST", "HTTP/1.1", []string{"Host: x.example", "Transfer-Encoding: gzip, chunked"}, "Unsupported Transfer-Encoding"},
		{"POST", "HTTP/1.0", []string{"Transfer-Encoding: chunked"}, "Unsupported Transfer-Encoding"},
		{"CONNECT", "HTTP/1.1", []string{"Host: x.example", "Transfer-Encoding: chunked"}, "Unsupported Transfer-Encoding"},
		{"CONNECT", "HTTP/1.1", []string{"Host: x.example", "Content-Length: 1"}, "Header not allowed: Content-Length"},
		{"POST", "HTTP/1.1", []string{"Host: x.example", "Expect: tea"}, "Unsupported Expect header"},
		{"POST", "HTTP/1.1", []string{"Host: x.example", "Expect: 100-Continue"}, ""},
		{"GET", "HTTP/1.1", []string{"Host: x.example", "Host: y.example"}, "Header given twice: Host"},
		{"GET", "HTTP/1.1", nil, "Host header is missing"},
		{"GET", "HTTP/1.0", nil, ""},
		{"GET", "HTTP/1.1", []string{"Host: x.example", "no colon"}, "Invalid header name: no colon"},
		{"GET", "HTTP/1.1", []string{"Host: x.example", " folded: x"}, "Invalid header name:  folded"},
		{"GET", "HTTP/1.1", []string{"Host : x.example"}, "Invalid header name: Host "},
	} {
		if f := OfHead(tt.lines, tt.method, tt.version, to); text(f) != tt.want {
			t.Errorf("%s %s, %q: %q, want %q", tt.method, tt.version, tt.lines, text(f), tt.want)
		}
	}
}

// What holds for one connection, what Connection names and what the proxy says itself is not passed on.
func TestPerConnection(t *testing.T) {
	to := destination(t)
	fields := []upstream.Field{
		{Name: "Host", Value: "x.example"}, {Name: "Connection", Value: "X-Named , close"}, {Name: "X-Named", Value: "1"}, {Name: "Keep-Alive", Value: "1"},
		{Name: "TE", Value: "trailers"}, {Name: "Upgrade", Value: "h2c"}, {Name: "Proxy-Authorization", Value: "z"}, {Name: "content-length", Value: "7"},
		{Name: "Trailer", Value: "X"}, {Name: "x-Kept", Value: " 1 "}, {Name: "User-Agent", Value: "mine"},
	}
	got, f := OfFrame(fields, to)
	want := []upstream.Field{{Name: "x-Kept", Value: "1"}, {Name: "User-Agent", Value: "mine"}, {Name: "Accept-Encoding", Value: "identity"}}
	if f != nil || !slices.Equal(got, want) {
		t.Errorf("OfFrame: %v, %v; want %v", got, f, want)
	}
	h := http.Header{}
	for _, f := range fields {
		h.Add(f.Name, f.Value)
	}
	h.Set("Transfer-Encoding", "chunked")
	Strip(h)
	if want := (http.Header{"X-Kept": {" 1 "}, "User-Agent": {"mine"}}); !reflect.DeepEqual(h, want) {
		t.Errorf("Strip leaves %v, want %v", h, want)
	}
}

func text(f *decision.Failure) string {
	if f == nil {
		return ""
	}
	return f.Text
}
