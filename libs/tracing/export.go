package tracing

import (
	"context"
	"log/slog"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/rumi-ai/rumi/libs/periodic"
)

// exporter sends spans to the collector, and knows whether there is one.
type exporter struct {
	client  otlptrace.Client
	traces  sdktrace.SpanExporter // over client
	here    atomic.Bool           // the collector took what was sent last
	waiting atomic.Int64          // spans that have ended and were neither exported nor dropped
	dropped prometheus.Counter
	log     *slog.Logger
}

// look tries the collector by an export of nothing, which is an export by every other measure: the name is resolved, the certificate checked, the
// path and the credentials judged.
func (e *exporter) look(ctx context.Context) error {
	return periodic.Run(ctx, CheckEvery, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, checkTimeout)
		defer cancel()
		e.note(e.client.UploadTraces(ctx, nil))
	}, periodic.Immediately)
}

// note brings here up to the outcome of an export. Changes are logged, the state isn't: a suite without a collector is as it should be.
func (e *exporter) note(err error) {
	switch here := err == nil; {
	case e.here.Swap(here) == here:
	case here:
		e.log.Info("the collector takes spans")
	default:
		e.log.Warn("the collector takes no spans; none are recorded until it does", "error", err.Error())
	}
}

// ExportSpans implements sdktrace.SpanExporter. It never fails: the SDK would only print the error.
func (e *exporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	defer e.waiting.Add(-int64(len(spans)))
	if !e.here.Load() { // they would wait for a time-out, batch after batch
		e.dropped.Add(float64(len(spans)))
		return nil
	}
	err := e.traces.ExportSpans(ctx, spans)
	if err != nil {
		e.dropped.Add(float64(len(spans)))
	}
	e.note(err)
	return nil
}

// Shutdown implements sdktrace.SpanExporter.
func (e *exporter) Shutdown(ctx context.Context) error { return e.traces.Shutdown(ctx) }

// queue is the SDK's batching queue, with a bound of its own in front: the SDK tells nobody what it drops when its queue is full. Its own is
// larger, so it never is.
type queue struct {
	sdktrace.SpanProcessor
	exporter *exporter
}

func newQueue(e *exporter) queue {
	return queue{sdktrace.NewBatchSpanProcessor(e, sdktrace.WithMaxQueueSize(maxQueue+1), sdktrace.WithExportTimeout(exportTimeout)), e}
}

// OnEnd implements sdktrace.SpanProcessor.
func (q queue) OnEnd(span sdktrace.ReadOnlySpan) {
	if !span.SpanContext().IsSampled() {
		return
	}
	if q.exporter.waiting.Add(1) > maxQueue {
		q.exporter.waiting.Add(-1)
		q.exporter.dropped.Inc()
		return
	}
	q.SpanProcessor.OnEnd(span)
}

// Shutdown implements sdktrace.SpanProcessor. What is not exported by then is lost.
func (q queue) Shutdown(ctx context.Context) error {
	err := q.SpanProcessor.Shutdown(ctx)
	if left := q.exporter.waiting.Swap(0); left > 0 {
		q.exporter.dropped.Add(float64(left))
	}
	return err
}
