package telemetry_test

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/rumi-ai/rumi/libs/rpc/telemetry"
)

// TestObserve: a value has the trace of a sampled span as its exemplar, and none otherwise; it is counted either way.
func TestObserve(t *testing.T) {
	for name, sampler := range map[string]sdktrace.Sampler{"sampled": sdktrace.AlwaysSample(), "not sampled": sdktrace.NeverSample()} {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "h", Buckets: []float64{1}})
		_, span := sdktrace.NewTracerProvider(sdktrace.WithSampler(sampler)).Tracer("").Start(t.Context(), "")
		telemetry.Observe(h, span.SpanContext(), 0.5)
		var got dto.Metric
		if err := h.Write(&got); err != nil {
			t.Fatal(err)
		}
		if n := got.Histogram.GetSampleCount(); n != 1 {
			t.Errorf("%s: %d values, want 1", name, n)
		}
		exemplar, want := "", ""
		if e := got.Histogram.Bucket[0].Exemplar; e != nil {
			exemplar = e.Label[0].GetName() + "=" + e.Label[0].GetValue()
		}
		if name == "sampled" {
			want = "trace_id=" + span.SpanContext().TraceID().String()
		}
		if exemplar != want {
			t.Errorf("%s: the exemplar is %q, want %q", name, exemplar, want)
		}
	}
}
