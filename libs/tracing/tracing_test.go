package tracing

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.opentelemetry.io/otel/trace"

	"github.com/rumi-ai/rumi/libs/tracing/tracingtest"
)

// start makes the tracing of a service whose collector is at url, "" for none. It is not looked for yet.
func start(t *testing.T, url string) *Tracing {
	t.Helper()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
	tracing, err := New(t.Context(), Config{Service: "approval", Version: "1.2.3", Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	return tracing
}

// look tries the collector once.
func (t *Tracing) lookOnce() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	t.exporter.note(t.exporter.client.UploadTraces(ctx, nil))
}

func span(t *Tracing, ctx context.Context) trace.Span {
	_, s := t.Tracer("test").Start(ctx, "test")
	s.End()
	return s
}

func TestExported(t *testing.T) {
	collector := tracingtest.New(t)
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=mine,deployment.environment.name=home")
	tracing := start(t, collector.URL)
	if s := span(tracing, t.Context()); s.SpanContext().IsSampled() || !s.SpanContext().IsValid() {
		t.Errorf("before the collector was reached: the span is %+v; want ids, and nothing recorded", s.SpanContext())
	}
	tracing.lookOnce()
	span(tracing, t.Context())
	if err := tracing.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	spans := collector.Spans()
	if len(spans) != 1 {
		t.Fatalf("received %+v, want one span", spans)
	}
	got := spans[0].Resource
	for name, want := range map[string]string{"service.name": "approval", "service.namespace": "rumi", "service.version": "1.2.3", "deployment.environment.name": "home"} {
		if got[name] != want {
			t.Errorf("%s of the resource is %q, want %q", name, got[name], want)
		}
	}
	if got["service.instance.id"] == "" {
		t.Error("the resource has no service.instance.id")
	}
	if n := testutil.ToFloat64(tracing.exporter.dropped); n != 0 {
		t.Errorf("%v spans were dropped, want none", n)
	}
}

// TestAway: what was recorded when the collector went away is counted, and nothing is recorded until it is back.
func TestAway(t *testing.T) {
	here := true
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !here {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	tracing := start(t, server.URL)
	tracing.lookOnce()
	if !span(tracing, t.Context()).SpanContext().IsSampled() {
		t.Fatal("a span isn't recorded while the collector is there")
	}
	here = false
	if err := tracing.ForceFlush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := testutil.ToFloat64(tracing.exporter.dropped); n != 1 {
		t.Errorf("%v spans dropped, want the one that the collector refused", n)
	}
	if span(tracing, t.Context()).SpanContext().IsSampled() || tracing.Samples(trace.TraceID{1}) {
		t.Error("spans are recorded after an export has failed, want none until the collector is back")
	}
	if here = true; span(tracing, t.Context()).SpanContext().IsSampled() {
		t.Error("spans are recorded before the collector was looked for again")
	}
	tracing.lookOnce()
	if !span(tracing, t.Context()).SpanContext().IsSampled() {
		t.Error("nothing is recorded although the collector is back")
	}
}

// TestUnreachable: a name that nobody knows, and a port at which nobody listens, are collectors that are away.
func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := "http://" + l.Addr().String()
	l.Close()
	for _, url := range []string{closed, "http://otel-collector.invalid:4318"} {
		tracing := start(t, url)
		tracing.lookOnce()
		if span(tracing, t.Context()).SpanContext().IsSampled() {
			t.Errorf("%s: spans are recorded, want none", url)
		}
	}
}

// TestHanging: a collector that answers nothing costs a bounded queue and a bounded stop.
func TestHanging(t *testing.T) {
	hang, hanging := make(chan struct{}), false
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		if hanging {
			<-hang
		}
	}))
	defer server.Close()
	defer close(hang)
	tracing := start(t, server.URL)
	tracing.lookOnce()
	hanging = true
	const all = 2*maxQueue + 100
	for range all {
		span(tracing, t.Context())
	}
	began := time.Now()
	if err := tracing.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > stopTimeout+2*time.Second {
		t.Errorf("the stop took %v, want at most %v", took, stopTimeout)
	}
	if n := testutil.ToFloat64(tracing.exporter.dropped); n != all {
		t.Errorf("%v spans counted as dropped, want all %d", n, all)
	}
}

func TestNoCollector(t *testing.T) {
	tracing := start(t, "")
	if s := span(tracing, t.Context()); s.SpanContext().IsSampled() || !s.SpanContext().IsValid() || tracing.Samples(trace.TraceID{1}) {
		t.Errorf("the span is %+v; want ids, and nothing recorded", s.SpanContext())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := tracing.Run(ctx); err != nil {
		t.Error(err)
	}
}

func TestSampler(t *testing.T) {
	parent := func(flags trace.TraceFlags) context.Context {
		return trace.ContextWithRemoteSpanContext(context.Background(),
			trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}, TraceFlags: flags, Remote: true}))
	}
	collector := tracingtest.New(t)
	for _, c := range []struct {
		name, argument           string
		alone, sampled, quiet    bool // whether a span without a parent, and below one that is sampled or isn't, is recorded
		samplesFew, samplesOther bool // whether new traces of an id with a small and a great ratio are
	}{
		{"", "", true, true, false, true, true},
		{"parentbased_always_on", "", true, true, false, true, true},
		{"parentbased_always_off", "", false, true, false, false, false},
		{"always_on", "", true, true, true, true, true},
		{"always_off", "", false, false, false, false, false},
		{"parentbased_traceidratio", "0", false, true, false, false, false},
		{"parentbased_traceidratio", "", true, true, false, true, true},
		{"parentbased_traceidratio", "1", true, true, false, true, true},
		{"traceidratio", "0", false, false, false, false, false},
	} {
		t.Setenv("OTEL_TRACES_SAMPLER", c.name)
		t.Setenv("OTEL_TRACES_SAMPLER_ARG", c.argument)
		tracing := start(t, collector.URL)
		tracing.lookOnce()
		few, other := tracing.Samples(trace.TraceID{15: 1}), tracing.Samples(trace.TraceID{8: 0xff, 15: 1})
		parents := []context.Context{t.Context(), parent(trace.FlagsSampled), parent(0)}
		for i, want := range []bool{c.alone, c.sampled, c.quiet} {
			if got := span(tracing, parents[i]).SpanContext().IsSampled(); got != want {
				t.Errorf("%s %s: recorded %v, want %v (parent %d)", c.name, c.argument, got, want, i)
			}
		}
		if few != c.samplesFew || other != c.samplesOther {
			t.Errorf("%s %s: samples new traces %v, %v; want %v, %v", c.name, c.argument, few, other, c.samplesFew, c.samplesOther)
		}
	}
	for name, argument := range map[string]string{"always": "", "traceidratio": "1.5", "parentbased_traceidratio": "x", "jaeger_remote": ""} {
		if _, err := samplerOf(name, argument); err == nil || !strings.Contains(err.Error(), "want ") {
			t.Errorf("%s %s: got %v, want an error that says what may be there", name, argument, err)
		}
	}
}
