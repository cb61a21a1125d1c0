package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
)

// Observe adds a value to a histogram. If the span is sampled, its trace becomes the exemplar of the value's bucket, by which a dashboard leads to
// it; a trace that nobody has kept would lead nowhere.
func Observe(h prometheus.Observer, span trace.SpanContext, value float64) {
	exemplars, ok := h.(prometheus.ExemplarObserver)
	if !ok || !span.IsSampled() {
		h.Observe(value)
		return
	}
	exemplars.ObserveWithExemplar(value, prometheus.Labels{"trace_id": span.TraceID().String()})
}
