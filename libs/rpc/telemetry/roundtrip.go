package telemetry

import (
	"net/http"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// RoundTrip has send send r in a span of its own, which ends when the answer begins. It sets the headers of the trace in r. In a trace that
// isn't sampled there is no such span, since it would cost and nobody would see it: the request then belongs to the span of r's context.
func RoundTrip(tracer trace.Tracer, peer string, r *http.Request, send func(*http.Request) (*http.Response, error)) (*http.Response, error) {
	if parent := trace.SpanContextFromContext(r.Context()); parent.IsValid() && !parent.IsSampled() {
		Propagator.Inject(r.Context(), propagation.HeaderCarrier(r.Header))
		return send(r)
	}
	ctx, span := tracer.Start(r.Context(), peer+" "+r.Method, trace.WithSpanKind(trace.SpanKindClient))
	defer span.End()
	Propagator.Inject(ctx, propagation.HeaderCarrier(r.Header))
	response, err := send(r)
	if span.IsRecording() {
		describeCalled(span, r, response, err)
	}
	return response, err
}

// Pass has send send r, which the caller was itself asked and only passes on. It sets the headers of the trace in r. The caller's own span and that of the
// service say all about such a request, so there is none between them: it would be a third of what a read through the gateway costs in a trace.
// Where no answer comes, there is one that says why.
func Pass(tracer trace.Tracer, peer string, r *http.Request, send func(*http.Request) (*http.Response, error)) (*http.Response, error) {
	ctx, began := r.Context(), time.Now()
	Propagator.Inject(ctx, propagation.HeaderCarrier(r.Header))
	response, err := send(r)
	if err != nil && trace.SpanContextFromContext(ctx).IsSampled() {
		_, span := tracer.Start(ctx, peer+" "+r.Method, trace.WithSpanKind(trace.SpanKindClient), trace.WithTimestamp(began))
		describeCalled(span, r, nil, err)
		span.End()
	}
	return response, err
}
