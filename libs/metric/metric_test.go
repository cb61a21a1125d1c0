package metric_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.opentelemetry.io/otel/trace"

	"github.com/rumi-ai/rumi/libs/metric"
)

func opts() prometheus.HistogramOpts {
	return prometheus.HistogramOpts{Name: "test_duration_seconds", Help: "Time.", Buckets: []float64{.01, .1, 1}}
}

func span(id byte, flags trace.TraceFlags) trace.SpanContext {
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{15: id}, SpanID: trace.SpanID{7: id}, TraceFlags: flags})
}

// buckets gathers the only histogram, with a bucket for +Inf where that has an exemplar.
func buckets(t *testing.T, registry *prometheus.Registry) []*dto.Bucket {
	t.Helper()
	families, err := registry.Gather()
	if err != nil || len(families) != 1 {
		t.Fatalf("gathered %d families, %v; want one", len(families), err)
	}
	return families[0].Metric[0].Histogram.Bucket
}

func traceOf(b *dto.Bucket) string {
	if b.Exemplar == nil {
		return ""
	}
	return b.Exemplar.Label[0].GetValue()
}

// A slow request's exemplar is there although many fast ones came before, and each bucket makes one a second at most.
func TestExemplars(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		d := metric.NewDurations(registry, opts())
		for i := range byte(10) {
			d.Observe(span(i+1, trace.FlagsSampled), time.Millisecond)
		}
		d.Observe(span(20, trace.FlagsSampled), time.Second)
		d.Observe(span(21, 0), 50*time.Millisecond)
		got := buckets(t, registry)
		for i, want := range []string{span(1, 0).TraceID().String(), "", span(20, 0).TraceID().String()} {
			if traceOf(got[i]) != want {
				t.Errorf("bucket %d has the trace %q, want %q", i, traceOf(got[i]), want)
			}
		}
		if got[2].GetCumulativeCount() != 12 {
			t.Errorf("counted %d, want 12", got[2].GetCumulativeCount())
		}
		time.Sleep(time.Second)
		d.Observe(span(30, trace.FlagsSampled), time.Millisecond)
		if got, want := traceOf(buckets(t, registry)[0]), span(30, 0).TraceID().String(); got != want {
			t.Errorf("a second later the bucket has the trace %q, want the newer %q", got, want)
		}
	})
}

func TestObserveMakesNoGarbage(t *testing.T) {
	d := metric.NewDurationsVec(prometheus.NewRegistry(), opts(), "result").With("ok")
	d.Observe(span(1, trace.FlagsSampled), time.Millisecond) // the exemplar of this second
	for name, s := range map[string]trace.SpanContext{"unsampled": span(1, 0), "sampled": span(1, trace.FlagsSampled)} {
		if n := testing.AllocsPerRun(100, func() { d.Observe(s, time.Millisecond) }); n > 0.5 {
			t.Errorf("%s: %v allocations, want none", name, n)
		}
	}
}

func BenchmarkObserve(b *testing.B) {
	d := metric.NewDurations(prometheus.NewRegistry(), opts())
	s := span(1, trace.FlagsSampled)
	for b.Loop() {
		d.Observe(s, time.Millisecond)
	}
}

// A part that is opened twice, because it failed at first, counts to the same histogram.
func TestRegisteredTwiceIsShared(t *testing.T) {
	registry := prometheus.NewRegistry()
	for range 2 {
		metric.NewDurations(registry, opts()).Observe(trace.SpanContext{}, time.Millisecond)
	}
	if got := buckets(t, registry)[0].GetCumulativeCount(); got != 2 {
		t.Errorf("counted %d, want 2", got)
	}
}
