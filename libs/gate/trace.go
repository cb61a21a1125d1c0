package gate

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/rumi-ai/rumi/libs/origin"
)

// changed is a message about a change that was made in ctx.
func changed(ctx context.Context) message {
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return message{Changed: time.Now(), TraceParent: carrier["traceparent"], RequestID: origin.Of(ctx).RequestID}
}

// Trace has each change that approval made in a recorded trace applied in a span of that trace. Call it before Follow.
func (v *View) Trace(tracer trace.Tracer) { v.tracer = tracer }

// begin starts the span in which a message is applied; end ends it.
func (v *View) begin(m message) (end func()) {
	if v.tracer == nil || m.TraceParent == "" {
		return func() {}
	}
	ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": m.TraceParent})
	if !trace.SpanContextFromContext(ctx).IsSampled() {
		return func() {}
	}
	_, span := v.tracer.Start(ctx, "gate.apply", trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(
		attribute.Int("rumi.gates", len(m.States)+len(m.Removed)), attribute.String("rumi.request_id", m.RequestID)))
	if len(m.States) == 1 {
		span.SetAttributes(attribute.String("rumi.pack_id", m.States[0].PackID), attribute.Bool("rumi.gate_open", m.States[0].Open))
	}
	return func() { span.End() }
}
