package call_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/rumi-ai/rumi/libs/uds"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/call"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/handler"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/worker"
)

// counters are a metric's values by that of its label, without zeros.
func (r *replica) counters(name string) map[string]float64 {
	r.t.Helper()
	families, err := r.meters.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	got := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if n := m.GetCounter().GetValue(); f.GetName() == name && n != 0 {
				got[m.GetLabel()[0].GetValue()] = n
			}
		}
	}
	return got
}

// wantNoOther fails for a result or a denial that isn't in the lists of the metrics.
func (r *replica) wantNoOther() {
	for _, name := range []string{"rumi_capability_calls_total", "rumi_capability_denials_total"} {
		if n := r.counters(name)["other"]; n != 0 {
			r.t.Errorf("%s: %v are counted as other, want none: one is missing in the lists of metrics.go", name, n)
		}
	}
}

// TestDenialsByReason: each refusal is counted under the reason that the audit log tells at length.
func TestDenialsByReason(t *testing.T) {
	r := newReplica(t, sqlite(t))
	before := make(map[string]float64)
	check := func(reason string) {
		t.Helper()
		now := r.counters("rumi_capability_denials_total")
		got := ""
		for label, n := range now {
			if n != before[label] {
				got += fmt.Sprint(label, "+", n-before[label])
			}
		}
		if got != reason+"+1" {
			t.Errorf("counted %q, want %s+1 (the audit log says %q)", got, reason, r.reason())
		}
		before = now
	}
	r.ask("unknown", "fs.read", `{}`)
	check("gate_closed")
	r.ask("p", "fs.read", `{}`)
	check("no_grant")
	r.grant("p", "fs.read", `{}`)
	r.ask("p", "fs.read", `{}`)
	check("no_handler")
	r.ask("p__c", "fs.read", `{}`)
	check("no_grant")
	r.grant("p__c", "fs.read", `{"config": {"a": 1}}`)
	r.ask("p__c", "fs.read", `{}`)
	check("parent_restricts")
	r.install("x", "")
	r.closed["x"] = true
	r.ask("p", "fs.read", `{}`)
	check("handler_gate_closed")
	r.closed["x"] = false
	r.busy = true
	r.ask("p", "fs.read", `{}`)
	check("workers_busy")
	r.busy, r.failing = false, worker.ErrPaused
	r.ask("p", "fs.read", `{}`)
	check("workers_paused")
	r.failing = handler.ErrUntrusted
	r.ask("p", "fs.read", `{}`)
	check("handler_changed")
	r.failing = nil
	r.grant("p", "fs.read", `{"args_schema": {"maxProperties": 0}}`)
	r.ask("p", "fs.read", `{"a": 1}`)
	check("args_refused")
	r.grant("p", "fs.read", `{"max_uses": 1}`)
	r.ask("p", "fs.read", `{}`)
	r.ask("p", "fs.read", `{}`)
	check("grant_used_up")
	r.grant("p", "fs.read", `{"rate_limit": 1}`)
	r.ask("p", "fs.read", `{}`)
	r.ask("p", "fs.read", `{}`)
	check("rate_exceeded")
	r.grant("p", "fs.read", `{}`)
	r.install("y", "")
	r.ask("p", "fs.read", `{}`)
	check("handler_not_trusted")
	r.grant("p", "secrets.get", `{"config": {"allowed_keys": ["A"]}}`)
	r.ask("p", "secrets.get", `{"key": "B"}`)
	check("not_in_config")
}

// TestCallDurations: a call has a duration and one decision, which lead to its trace.
func TestCallDurations(t *testing.T) {
	r := newReplica(t, sqlite(t))
	spans := tracetest.NewSpanRecorder()
	registry := prometheus.NewRegistry()
	calls := call.New(call.Config{Gates: r, Grants: r.grants, Handlers: r.trust, Runner: r, Audit: r, Log: discard,
		Tracer: sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer(""), Metrics: registry})
	r.install("x", "")
	r.grant("p", "fs.read", `{}`)
	r.waiting = func() { time.Sleep(300 * time.Millisecond) }
	calls.Socket("p").Answer(t.Context(), []byte(`{"permission_id": "fs.read"}`), nil)
	trace := spans.Ended()[0].SpanContext().TraceID().String()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sums := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			h := m.GetHistogram()
			if h == nil {
				continue
			}
			sums[f.GetName()] = h.GetSampleSum()
			exemplar := ""
			for _, b := range h.GetBucket() {
				if e := b.GetExemplar(); e != nil {
					exemplar = e.GetLabel()[0].GetValue()
				}
			}
			if h.GetSampleCount() != 1 || exemplar != trace {
				t.Errorf("%s has %d values, the exemplar %q; want 1 of trace %s", f.GetName(), h.GetSampleCount(), exemplar, trace)
			}
		}
	}
	if d := sums["rumi_capability_call_duration_seconds"]; d < 0.3 {
		t.Errorf("the call took %v s, want 0.3 at least", d)
	}
	if d := sums["rumi_capability_decision_duration_seconds"]; d <= 0 || d > 0.2 {
		t.Errorf("the decision took %v s, want less than the 0.3 s that the worker took", d)
	}
}

// TestHostilePackMakesNoSeries: whatever a pack makes up, it makes no time series of it.
func TestHostilePackMakesNoSeries(t *testing.T) {
	r := newReplica(t, sqlite(t))
	r.install("x", "")
	r.grant("p", "fs.read", `{}`)
	r.grant("p", "secrets.get", `{"config": {"allowed_keys": ["A"]}}`)
	count := func() int {
		n, err := testutil.GatherAndCount(r.meters)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := count()
	socket := r.calls.Socket("p")
	for i := range 2000 {
		r.ask("p", fmt.Sprintf("made.up_%d", i), `{}`)
		r.ask("p", "secrets.get", fmt.Sprintf(`{"key": "KEY_%d"}`, i))
		r.ask("p", "fs.read", fmt.Sprintf(`{"arg_%d": 1}`, i))
		socket.Answer(context.Background(), fmt.Appendf(nil, `{"permission_id": "fs.read", "principal_id": "claim-%d", "request_id": "id-%d", "timeout_seconds": "%d"}`, i, i, i), nil)
		socket.Answer(context.Background(), fmt.Appendf(nil, `{"field_%d`, i), nil)
		socket.Refuse(fmt.Errorf("made up %d: %w", i, uds.ErrEmpty), nil)
	}
	if after := count(); after != before {
		t.Errorf("%d series, want %d as before", after, before)
	}
}
