package call_test

import (
	"fmt"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/rumi-ai/rumi/libs/candidate"
	"github.com/rumi-ai/rumi/libs/packtrace"
	dbstore "github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/call"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/store"
)

// TestTrace: a call is in the trace that was handed to its pack, and in no other's, whatever its frame says.
func TestTrace(t *testing.T) {
	db, err := dbstore.Open(t.Context(), dbstore.Config{Dir: t.TempDir(), Service: "capability-broker"}, candidate.Migrations(store.Migrations()))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	r := newReplica(t, db)
	spans := tracetest.NewSpanRecorder()
	key := packtrace.Random()
	calls := call.New(call.Config{Gates: r, Grants: r.grants, Handlers: r.trust, Runner: r, Audit: r, Log: discard, Metrics: prometheus.NewRegistry(),
		Tracer: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer(""),
		Border: packtrace.Border{Key: key, Samples: func(trace.TraceID) bool { return true }}})
	handed := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled})
	own, others := key.Mint("a", handed), key.Mint("b", handed)
	for _, c := range []struct {
		what, parent, state string
		want                trace.TraceID // of the call's span; zero for a new one
	}{
		{"handed to the pack", own.TraceParent, own.TraceState, handed.TraceID()},
		{"stolen of another pack", others.TraceParent, others.TraceState, key.Map("a", handed.TraceID())},
		{"without proof", own.TraceParent, "", key.Map("a", handed.TraceID())},
		{"malformed", "00-1", own.TraceState, trace.TraceID{}},
		{"none", "", "", trace.TraceID{}},
	} {
		frame := fmt.Appendf(nil, `{"permission_id":"fs.read","request_id":"r1","traceparent":%q,"tracestate":%q}`, c.parent, c.state)
		calls.Socket("a").Answer(t.Context(), frame, nil)
		ended := spans.Ended()
		got := ended[len(ended)-1]
		id := got.SpanContext().TraceID()
		if c.want.IsValid() && (id != c.want || got.Parent().SpanID() != handed.SpanID()) || !c.want.IsValid() && (id == handed.TraceID() || got.Parent().IsValid()) {
			t.Errorf("%s: the span is in trace %s below %s; want %s below %s, or a new one for zeros", c.what, id, got.Parent().SpanID(), c.want, handed.SpanID())
		}
		if got.SpanKind() != trace.SpanKindServer {
			t.Errorf("%s: the span is a %s, want a server's", c.what, got.SpanKind())
		}
	}
	calls.Socket("a").Answer(t.Context(), []byte(`{"permission_id":"fs.read","traceparent":7,"tracestate":{}}`), nil)
	if got := spans.Ended()[len(spans.Ended())-1]; got.Parent().IsValid() {
		t.Errorf("a traceparent that is no string: the parent is %v, want none", got.Parent())
	}
}
