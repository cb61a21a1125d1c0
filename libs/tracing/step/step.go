// Package step makes the spans of steps within a request: what a service does, or asks another program to do. It needs no exporter, so that
// programs without one may use packages that call it.
package step

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"
)

// Scope is the instrumentation scope of a service's own spans.
const Scope = "github.com/rumi-ai/rumi"

// Kinds of steps.
var (
	Internal = trace.WithSpanKind(trace.SpanKindInternal) // within the service
	Client   = trace.WithSpanKind(trace.SpanKindClient)   // asks another program, such as the container engine or the database
	Consumer = trace.WithSpanKind(trace.SpanKindConsumer) // takes a message
)

func ignore(error) {}

// Begin starts a span below that of ctx if that one is recorded; otherwise it costs nothing and returns ctx. end must be called, with the error of the
// step. The error's text isn't recorded, since it may have what a pack sent in it; where it is wanted, it is in the log.
func Begin(ctx context.Context, name string, kind trace.SpanStartOption, attributes ...attribute.KeyValue) (_ context.Context, end func(error)) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, ignore
	}
	ctx, span := parent.TracerProvider().Tracer(Scope).Start(ctx, name, kind, trace.WithAttributes(attributes...))
	return ctx, func(err error) {
		if err != nil {
			span.SetStatus(codes.Error, "")
			span.SetAttributes(semconv.ErrorTypeKey.String("_OTHER"))
		}
		span.End()
	}
}
