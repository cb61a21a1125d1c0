package egress

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/rumi-ai/rumi/libs/packtrace"
)

const (
	packTrace  = "4bf92f3577b34da6a3ce929d0e0e4736"
	packSpan   = "00f067aa0ba902b7"
	packParent = "00-" + packTrace + "-" + packSpan + "-01"
)

// spansNow waits for n spans to have ended and takes them.
func (w *world) spansNow(n int) []sdktrace.ReadOnlySpan {
	w.t.Helper()
	spans := w.spans.Ended()
	for began := time.Now(); len(spans) < n && time.Since(began) < 10*time.Second; spans = w.spans.Ended() {
		time.Sleep(time.Millisecond) // an audit entry comes just before its span ends
	}
	if len(spans) != n {
		w.t.Fatalf("%d spans, want %d", len(spans), n)
	}
	w.spans.Reset()
	return spans
}

func attributes(s sdktrace.ReadOnlySpan) string {
	var all []string
	for _, a := range s.Attributes() {
		if !strings.HasSuffix(string(a.Key), ".size") && a.Key != "rumi.request_id" {
			all = append(all, fmt.Sprint(a.Key, "=", a.Value.String()))
		}
	}
	return strings.Join(all, " ")
}

func TestSpans(t *testing.T) {
	w := newWorld(t)
	var seen http.Header
	h := func(rw http.ResponseWriter, r *http.Request) {
		seen = r.Header
		if r.URL.Path == "/nosuch" {
			http.NotFound(rw, r)
		}
		if r.URL.Path == "/moved" {
			http.Redirect(rw, r, "http://other.example/", http.StatusFound)
		}
	}
	w.site("x.example", "93.184.216.34", false, h)
	w.site("other.example", "93.184.216.36", false, h)
	w.site2("two.example", "93.184.216.35", h)
	w.grants["p"] = []string{"x.example", "two.example", "other.example"}
	const own = "rumi.pack_id=p rumi.egress.result="
	for _, c := range []struct {
		method, url string
		attributes  string
		status      codes.Code
	}{
		{"GET", "http://x.example/a?token=b", own + "allowed http.request.method=GET url.scheme=http server.address=x.example server.port=80 http.response.status_code=200 network.protocol.version=1.1", codes.Unset},
		{"GET", "https://two.example/", own + "allowed http.request.method=GET url.scheme=https server.address=two.example server.port=443 http.response.status_code=200 network.protocol.version=2", codes.Unset},
		{"HEAD", "http://x.example/moved", own + "allowed http.request.resend_count=1 http.request.method=HEAD url.scheme=http server.address=other.example server.port=80 http.response.status_code=200 network.protocol.version=1.1", codes.Unset},
		{"GET", "http://x.example/nosuch", own + "allowed http.request.method=GET url.scheme=http server.address=x.example server.port=80 http.response.status_code=404 network.protocol.version=1.1 error.type=404", codes.Error},
		{"GET", "http://y.example/", own + "denied rumi.egress.reason=grant_denied http.request.method=GET url.scheme=http server.address=y.example server.port=80 error.type=grant_denied", codes.Error},
		{"GET", "http://x.example:81/", own + "failed rumi.egress.reason=connection_refused http.request.method=GET url.scheme=http server.address=x.example server.port=81 error.type=connection_refused", codes.Error},
		{"TRACE", "http://x.example/", own + "failed rumi.egress.reason=validation_error error.type=validation_error", codes.Error},
	} {
		w.ask(c.method, c.url)
		s := w.spansNow(1)[0]
		if s.Name() != "egress.request" || s.SpanKind() != trace.SpanKindClient || s.Status().Code != c.status || s.Parent().IsValid() {
			t.Errorf("%s: the span is %s %v %v, its parent %v; want an egress.request of a client with status %v and no parent", c.url, s.Name(), s.SpanKind(), s.Status(), s.Parent(), c.status)
		}
		if got := attributes(s); got != c.attributes {
			t.Errorf("%s:\n%s, want\n%s", c.url, got, c.attributes)
		}
		if seen.Get("Traceparent") != "" {
			t.Errorf("%s: the server learns of %s", c.url, seen.Get("Traceparent"))
		}
		for _, id := range w.traces {
			if id != s.SpanContext().TraceID().String() {
				t.Errorf("%s: an entry is in trace %s", c.url, id)
			}
		}
		w.traces = nil
	}
	if logs := w.logs.String(); !strings.Contains(logs, "egress") {
		t.Error("no log lines")
	}
}

// A span is in the pack's own trace, under the id that it has in Rumi, and the server gets what the pack says, no more.
func TestSpansContinueThePacksTrace(t *testing.T) {
	w := newWorld(t)
	var seen http.Header
	h := func(_ http.ResponseWriter, r *http.Request) { seen = r.Header }
	w.site("x.example", "93.184.216.34", false, h)
	w.site2("two.example", "93.184.216.35", h)
	w.grants["p"] = []string{"x.example", "two.example"}
	path := w.socket()
	for about, c := range map[string]struct {
		name, parent string
		continues    bool
	}{
		"well":          {"traceparent", packParent, true},
		"in capitals":   {"TraceParent", packParent, true},
		"not sampled":   {"traceparent", "00-" + packTrace + "-" + packSpan + "-00", true},
		"a later kind":  {"traceparent", "01-" + packTrace + "-" + packSpan + "-01-more", true},
		"too long":      {"traceparent", packParent + "-more", false},
		"capital hex":   {"traceparent", strings.ToUpper(packParent), false},
		"zero":          {"traceparent", "00-" + strings.Repeat("0", 32) + "-" + packSpan + "-01", false},
		"version ff":    {"traceparent", "ff-" + packTrace + "-" + packSpan + "-01", false},
		"nonsense":      {"traceparent", "x", false},
		"not even ASCI": {"traceparent", "00-ü", false},
		"empty":         {"traceparent", "", false},
	} {
		for _, host := range []string{"http://x.example/", "https://two.example/", "http://denied.example/"} {
			seen = nil
			w.ask("GET", host, "headers", map[string]string{c.name: c.parent, "tracestate": "a=b"})
			w.continues(about, c.continues)
			if seen != nil && (seen.Get("Traceparent") != c.parent || seen.Get("Tracestate") != "a=b") {
				t.Errorf("%s: the server got %v, want the traceparent %q and the tracestate", about, seen, c.parent)
			}
			conn := dialSocket(t, path)
			fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\n%s: %s\r\n\r\n", host, strings.Split(host, "/")[2], c.name, c.parent)
			r, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, r.Body)
			conn.Close()
			w.recorded(map[bool]int{true: 4, false: 2}[strings.Contains(host, "denied")])
			w.continues(about+", as HTTP", c.continues)
		}
	}
	// Given twice, it is none.
	conn := dialSocket(t, path)
	fmt.Fprintf(conn, "GET http://x.example/ HTTP/1.1\r\nHost: x.example\r\ntraceparent: %s\r\ntraceparent: %s\r\n\r\n", packParent, packParent)
	if _, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil {
		t.Fatal(err)
	}
	w.recorded(1)
	w.continues("twice", false)
	// A tunnel's span is that of its CONNECT request.
	conn = dialSocket(t, path)
	fmt.Fprintf(conn, "CONNECT denied.example:443 HTTP/1.1\r\nHost: denied.example:443\r\ntraceparent: %s\r\n\r\n", packParent)
	if _, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil {
		t.Fatal(err)
	}
	w.recorded(2)
	w.continues("a tunnel", true)
}

func (w *world) continues(about string, want bool) {
	w.t.Helper()
	own, err := trace.TraceIDFromHex(packTrace)
	if err != nil {
		w.t.Fatal(err)
	}
	mapped := w.border.Key.Map("p", own)
	s := w.spansNow(1)[0]
	got := s.Parent().IsRemote() && s.SpanContext().TraceID() == mapped && s.Parent().SpanID().String() == packSpan
	if got != want || !want && s.Parent().IsValid() {
		w.t.Errorf("%s: the span is in %s below %s; want %s below %s: %v", about, s.SpanContext().TraceID(), s.Parent().SpanID(), mapped, packSpan, want)
	}
}

// A request is a part of the trace that Rumi handed to its pack, and of no other's. Only then does the server learn of the request's span; it never
// learns the proof. Baggage goes nowhere.
func TestSpansOfRumisTraces(t *testing.T) {
	w := newWorld(t)
	var seen http.Header
	h := func(_ http.ResponseWriter, r *http.Request) { seen = r.Header }
	w.site("x.example", "93.184.216.34", false, h)
	w.site2("two.example", "93.184.216.35", h)
	w.grants["p"] = []string{"x.example", "two.example"}
	path := w.socket()
	handed := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled})
	own, others := w.border.Key.Mint("p", handed), w.border.Key.Mint("q", handed)
	quiet := w.border.Key.Mint("p", handed.WithTraceFlags(0))
	for _, c := range []struct {
		what, parent, state string
		joins               bool
		spans               int
		server              string // the tracestate that the server gets
	}{
		{"handed to the pack", own.TraceParent, "a=b," + own.TraceState, true, 1, "a=b"},
		{"handed, with nothing else in the tracestate", own.TraceParent, own.TraceState, true, 1, ""},
		{"handed to another pack", others.TraceParent, others.TraceState + ",a=b", false, 1, "a=b"},
		{"handed unsampled, sent as sampled", strings.TrimSuffix(quiet.TraceParent, "00") + "01", quiet.TraceState, true, 0, ""},
	} {
		for _, url := range []string{"http://x.example/", "https://two.example/", "http"} {
			seen = nil
			if url == "http" {
				conn := dialSocket(t, path)
				fmt.Fprintf(conn, "GET http://x.example/ HTTP/1.1\r\nHost: x.example\r\ntraceparent: %s\r\ntracestate: %s\r\nbaggage: a=b\r\n\r\n", c.parent, c.state)
				r, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil {
					t.Fatal(err)
				}
				io.Copy(io.Discard, r.Body)
				conn.Close()
				w.recorded(3)
			} else {
				w.ask("GET", url, "headers", map[string]string{"traceparent": c.parent, "tracestate": c.state, "baggage": "a=b"})
			}
			want := c.parent
			for _, s := range w.spansNow(c.spans) {
				if joined := s.SpanContext().TraceID() == handed.TraceID(); joined != c.joins || s.Parent().SpanID() != handed.SpanID() {
					t.Errorf("%s, %s: the span is in %s below %s, want it in the trace handed: %v", c.what, url, s.SpanContext().TraceID(), s.Parent().SpanID(), c.joins)
				}
				if c.joins {
					want = packtrace.Parent(s.SpanContext())
				}
			}
			if seen.Get("Traceparent") != want || seen.Get("Tracestate") != c.server || seen.Get("Baggage") != "" {
				t.Errorf("%s, %s: the server got %v; want the traceparent %s, the tracestate %q and no baggage", c.what, url, seen, want, c.server)
			}
			w.traces = nil
		}
	}
}
