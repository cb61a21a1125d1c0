package egress

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"
	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/packspans"
)

// collector is what packs' own spans are sent to.
type collector struct {
	mu    sync.Mutex
	spans []*tracepb.Span
}

func (c *collector) Collected() bool            { return true }
func (c *collector) Samples(trace.TraceID) bool { return true }

func (c *collector) Upload(_ context.Context, all []*tracepb.ResourceSpans) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range all {
		for _, scope := range resource.ScopeSpans {
			c.spans = append(c.spans, scope.Spans...)
		}
	}
	return nil
}

// collected sends on what waits, and returns how many spans that was.
func (w *world) collected() int {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = w.proxy.spans.(*packspans.Intake).Run(ctx) // what is left at its end
	w.packs.mu.Lock()
	defer w.packs.mu.Unlock()
	n := len(w.packs.spans)
	w.packs.spans = nil
	return n
}

// ownSpan is a request of OTLP with one span.
func ownSpan(t testing.TB) []byte {
	t.Helper()
	body, err := proto.Marshal(&collectorpb.ExportTraceServiceRequest{ResourceSpans: []*tracepb.ResourceSpans{{ScopeSpans: []*tracepb.ScopeSpans{{
		Spans: []*tracepb.Span{{TraceId: bytes.Repeat([]byte{1}, 16), SpanId: bytes.Repeat([]byte{2}, 8), Name: "own"}},
	}}}}})
	if err != nil {
		t.Fatal(err)
	}
	return body
}

const spansHead = "POST /v1/traces HTTP/1.1\r\nHost: 127.0.0.1:4318\r\nContent-Type: application/x-protobuf\r\n"

// exchange sends a request, and reads the answer with its body.
func exchange(t testing.TB, conn net.Conn, request string) (*http.Response, string) {
	t.Helper()
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	r, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r, string(body)
}

// A pack's spans need no grant, and are no requests: no audit entry, no count, no span of ours. The connection goes on, also to servers.
func TestPackSpans(t *testing.T) {
	w := newWorld(t)
	w.grants["p"] = nil
	body := string(ownSpan(t))
	sized := spansHead + fmt.Sprintf("Content-Length: %d\r\n", len(body))
	conn := dialSocket(t, w.socket())
	for about, request := range map[string]string{
		"with a length": sized + "\r\n" + body,
		"in chunks":     spansHead + fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body), body),
		"localhost":     strings.Replace(sized, "127.0.0.1", "localhost", 1) + "\r\n" + body,
		"with baggage":  sized + "Baggage: secret=x\r\nTraceparent: " + packParent + "\r\n\r\n" + body,
	} {
		r, answer := exchange(t, conn, request)
		if r.StatusCode != 200 || r.Header.Get("Content-Type") != "application/x-protobuf" || answer != "" || r.Close {
			t.Errorf("%s: got %d %v %q, want 200, all taken, and that the connection goes on", about, r.StatusCode, r.Header, answer)
		}
		if n := w.collected(); n != 1 {
			t.Errorf("%s: the collector got %d spans, want 1", about, n)
		}
	}
	if r, _ := exchange(t, conn, "POST /v1/metrics HTTP/1.1\r\nHost: 127.0.0.1:4318\r\nContent-Length: 2\r\n\r\nhi"); r.StatusCode != 404 || r.Close {
		t.Errorf("metrics: got %d, want 404 and that the connection goes on", r.StatusCode)
	}
	if resolved, dialled := w.contacts(); len(resolved)+len(dialled)+len(w.audited())+len(w.recordedEarly())+len(w.counts())+len(w.spans.Ended()) != 0 {
		t.Errorf("spans left requests behind: %v, %v, %v, want none", resolved, dialled, w.counts())
	}
	if r, _ := exchange(t, conn, "GET http://x.example/ HTTP/1.1\r\nHost: x.example\r\n\r\n"); r.StatusCode != 403 || len(w.recorded(2)) != 2 {
		t.Errorf("a request to a server on the same connection: got %d, want 403", r.StatusCode)
	}
}

// What isn't a request to the proxy itself is a request to a server, whatever it looks like, and is decided on as ever.
func TestNoPackSpans(t *testing.T) {
	w := newWorld(t)
	w.grants["p"] = []string{"x.example"}
	var seen []string
	w.site("x.example", "93.184.216.34", false, func(_ http.ResponseWriter, r *http.Request) { seen = append(seen, r.Method+" "+r.Host+r.URL.Path) })
	body := string(ownSpan(t))
	rest := fmt.Sprintf("Content-Type: application/x-protobuf\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	path := w.socket()
	for about, c := range map[string]struct {
		head   string
		status int
	}{
		"to loopback, by proxying": {"POST http://127.0.0.1:4318/v1/traces HTTP/1.1\r\nHost: 127.0.0.1:4318\r\n", 403},
		"to a server":              {"POST http://x.example/v1/traces HTTP/1.1\r\nHost: x.example\r\n", 200},
		"of another host":          {"POST /v1/traces HTTP/1.1\r\nHost: x.example\r\n", 400},
		"without a host":           {"POST /v1/traces HTTP/1.0\r\n", 400},
		"another path":             {"POST /v1/tracesx HTTP/1.1\r\nHost: 127.0.0.1:4318\r\n", 400},
		"with a query":             {"POST /v1/traces?x HTTP/1.1\r\nHost: 127.0.0.1:4318\r\n", 400},
		"another method":           {"PUT /v1/traces HTTP/1.1\r\nHost: 127.0.0.1:4318\r\n", 400},
	} {
		r, _ := exchange(t, dialSocket(t, path), c.head+rest)
		if r.StatusCode != c.status {
			t.Errorf("%s: got %d, want %d", about, r.StatusCode, c.status)
		}
		if n := w.collected(); n != 0 {
			t.Errorf("%s: the collector got %d spans, want none", about, n)
		}
	}
	conn := dialSocket(t, path) // in a tunnel, a target without a host is the tunnel's server's
	const established = "HTTP/1.1 200 Connection established\r\n\r\n"
	io.WriteString(conn, "CONNECT x.example:80 HTTP/1.1\r\nHost: x.example:80\r\n\r\n")
	if head := make([]byte, len(established)); !reads(conn, head, established) {
		t.Fatalf("the tunnel: got %q, want %q", head, established)
	}
	exchange(t, conn, "POST /v1/traces HTTP/1.1\r\nHost: x.example\r\n"+rest)
	if n := w.collected(); n != 0 || len(seen) != 2 {
		t.Errorf("in a tunnel: the collector got %d spans, the server %v; want that the server got it", n, seen)
	}
}

func reads(conn net.Conn, into []byte, want string) bool {
	_, err := io.ReadFull(conn, into)
	return err == nil && string(into) == want
}

// A modified pack keeps its socket, but sends no spans.
func TestPackSpansAtAClosedGate(t *testing.T) {
	w := newWorld(t)
	w.gates["p"] = gate.State{PackID: "p", Status: "modified"}
	r, _ := exchange(t, dialSocket(t, w.socket()), spansHead+fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(ownSpan(t)), ownSpan(t)))
	if r.StatusCode != 403 || w.collected() != 0 {
		t.Errorf("got %d, want 403 and no spans", r.StatusCode)
	}
}

// Bodies that are cut short, never come, or aren't wanted don't leave the connection in a state in which the next request is misread.
func TestPackSpansBodies(t *testing.T) {
	w := newWorld(t)
	path := w.socket()
	conn := dialSocket(t, path)
	io.WriteString(conn, spansHead+"Content-Length: 10\r\nExpect: 100-continue\r\n\r\n")
	in := bufio.NewReader(conn)
	if line, err := in.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Errorf("got %q, %v; want 100 (Continue)", line, err)
	}
	conn.Close()

	conn = dialSocket(t, path) // refused before its body is read, which looks like another request
	hidden := "GET http://x.example/ HTTP/1.1\r\nHost: x.example\r\n\r\n"
	r, _ := exchange(t, conn, strings.Replace(spansHead, "x-protobuf", "xml", 1)+fmt.Sprintf("Content-Length: %d\r\n\r\n", len(hidden))+hidden)
	if r.StatusCode != 415 || r.Close {
		t.Errorf("got %d, want 415 and that the connection goes on", r.StatusCode)
	}
	r, _ = exchange(t, conn, strings.Replace(spansHead, "x-protobuf", "xml", 1)+"Content-Length: 16777216\r\n\r\n"+hidden)
	if r.StatusCode != 415 || !r.Close {
		t.Errorf("got %d, want 415 and that the connection ends", r.StatusCode)
	}
	conn.Close()

	conn = dialSocket(t, path)
	r, _ = exchange(t, conn, spansHead+"Transfer-Encoding: chunked\r\n\r\nzz\r\n")
	if r.StatusCode != 400 || !r.Close {
		t.Errorf("chunks that are none: got %d, want 400 and that the connection ends", r.StatusCode)
	}
	time.Sleep(10 * time.Millisecond)
	if entries := w.audited(); len(entries) != 0 {
		t.Errorf("bodies were taken for requests: %+v", entries)
	}
}
