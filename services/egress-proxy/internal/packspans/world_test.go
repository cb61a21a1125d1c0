package packspans

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.opentelemetry.io/otel/trace"
	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/rumi-ai/rumi/libs/packtrace"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/decision"
)

// world is an intake and the collector behind it.
type world struct {
	*Intake
	t       testing.TB
	key     *packtrace.Key
	metrics *prometheus.Registry
	logs    bytes.Buffer

	mu      sync.Mutex
	away    bool
	broken  bool
	unkept  map[trace.TraceID]bool // new traces that aren't sampled
	uploads [][]*tracepb.ResourceSpans
	closed  *decision.Failure
}

func newWorld(t testing.TB, rate int) *world {
	w := &world{t: t, key: packtrace.Random(), metrics: prometheus.NewRegistry(), unkept: map[trace.TraceID]bool{}}
	w.Intake = New(Config{Key: w.key, Rate: rate, Traces: w, Log: slog.New(slog.NewJSONHandler(&w.logs, nil)), Metrics: w.metrics})
	return w
}

func (w *world) Collected() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.away
}

func (w *world) Samples(id trace.TraceID) bool { return !w.unkept[id] }

func (w *world) Upload(_ context.Context, spans []*tracepb.ResourceSpans) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broken {
		return errors.New("no route to the collector")
	}
	w.uploads = append(w.uploads, spans)
	return nil
}

func (w *world) gate() *decision.Failure { return w.closed }

// post sends a body as a pack.
func (w *world) post(pack, kind string, body []byte, change ...func(*http.Request)) Answer {
	w.t.Helper()
	r := httptest.NewRequest(http.MethodPost, "/v1/traces", bytes.NewReader(body))
	r.Header.Set("Content-Type", kind)
	for _, f := range change {
		f(r)
	}
	return w.Serve(w.t.Context(), pack, w.gate, r)
}

// send sends spans as a pack, and returns how many were rejected.
func (w *world) send(pack string, spans ...*tracepb.Span) int {
	w.t.Helper()
	return w.sendRequest(pack, request(spans...))
}

func (w *world) sendRequest(pack string, m *collectorpb.ExportTraceServiceRequest) int {
	w.t.Helper()
	a := w.post(pack, "application/x-protobuf", marshal(w.t, m))
	if a.Status != http.StatusOK || a.ContentType != "application/x-protobuf" {
		w.t.Fatalf("got %d %s %q, want 200 and protobuf", a.Status, a.ContentType, a.Body)
	}
	var response collectorpb.ExportTraceServiceResponse
	if err := proto.Unmarshal(a.Body, &response); err != nil {
		w.t.Fatal(err)
	}
	return int(response.GetPartialSuccess().GetRejectedSpans())
}

// received sends what waits to the collector, and returns what it has got since the last call.
func (w *world) received() (all []*tracepb.ResourceSpans) {
	w.upload(w.t.Context())
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, u := range w.uploads {
		all = append(all, u...)
	}
	w.uploads = nil
	return all
}

// one is the only span that the collector has got.
func (w *world) one() *tracepb.Span {
	w.t.Helper()
	all := spansOf(w.received())
	if len(all) != 1 {
		w.t.Fatalf("the collector got %d spans, want 1", len(all))
	}
	return all[0]
}

func spansOf(all []*tracepb.ResourceSpans) (spans []*tracepb.Span) {
	for _, resource := range all {
		for _, scope := range resource.ScopeSpans {
			spans = append(spans, scope.Spans...)
		}
	}
	return spans
}

// count is a counter's value.
func (w *world) count(name, result string) int {
	w.t.Helper()
	families, err := w.metrics.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && labelled(m, result) {
				return int(m.GetCounter().GetValue())
			}
		}
	}
	w.t.Fatalf("no counter %s{result=%q}", name, result)
	return 0
}

func labelled(m *dto.Metric, result string) bool {
	return len(m.GetLabel()) == 1 && m.GetLabel()[0].GetName() == "result" && m.GetLabel()[0].GetValue() == result
}

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func zip(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zipped(r *http.Request) { r.Header.Set("Content-Encoding", "gzip") }

func request(spans ...*tracepb.Span) *collectorpb.ExportTraceServiceRequest {
	return &collectorpb.ExportTraceServiceRequest{ResourceSpans: []*tracepb.ResourceSpans{{ScopeSpans: []*tracepb.ScopeSpans{{Spans: spans}}}}}
}

var (
	traceID = trace.TraceID{0x0a, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	aSpanID = trace.SpanID{0x0b, 1, 2, 3, 4, 5, 6, 7}
	aParent = trace.SpanID{0x0c, 1, 2, 3, 4, 5, 6, 7}
)

// span is an ordinary one, changed.
func span(change ...func(*tracepb.Span)) *tracepb.Span {
	now := time.Now()
	s := &tracepb.Span{
		TraceId: traceID[:], SpanId: aSpanID[:], ParentSpanId: aParent[:], Name: "work", Kind: tracepb.Span_SPAN_KIND_CLIENT,
		StartTimeUnixNano: uint64(now.Add(-time.Second).UnixNano()), EndTimeUnixNano: uint64(now.UnixNano()),
	}
	for _, f := range change {
		f(s)
	}
	return s
}

// handed is the tracestate of a trace that Rumi handed to a pack.
func (w *world) handed(pack string, id trace.TraceID, flags trace.TraceFlags) string {
	return w.key.Mint(pack, trace.NewSpanContext(trace.SpanContextConfig{TraceID: id, SpanID: aParent, TraceFlags: flags})).TraceState
}

func attr(key string, value *commonpb.AnyValue) *commonpb.KeyValue {
	return &commonpb.KeyValue{Key: key, Value: value}
}

// listed is a list of attributes for a person.
func listed(attributes []*commonpb.KeyValue) string {
	var all []string
	for _, a := range attributes {
		all = append(all, a.Key+"="+strings.ReplaceAll(a.Value.String(), "  ", " "))
	}
	return strings.Join(all, "\n")
}

func message(t testing.TB, a Answer) *status.Status {
	t.Helper()
	var s status.Status
	if err := proto.Unmarshal(a.Body, &s); err != nil || a.ContentType != "application/x-protobuf" {
		t.Fatalf("got %s %q: %v; want a Status", a.ContentType, a.Body, err)
	}
	return &s
}
