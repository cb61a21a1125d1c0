package telemetry

import (
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// RoundTrip sends r by transport in a span of its own, which ends when the answer begins.
func RoundTrip(tracer trace.Tracer, peer string, transport http.RoundTripper, r *http.Request) (*http.Response, error) {
	ctx, span := tracer.Start(r.Context(), peer+" "+r.Method, trace.WithSpanKind(trace.SpanKindClient))
	defer span.End()
	r = r.WithContext(ctx)
	r.Header = r.Header.Clone()
	Propagator.Inject(ctx, propagation.HeaderCarrier(r.Header))
	response, err := transport.RoundTrip(r)
	if !span.IsRecording() {
		return response, err
	}
	span.SetAttributes(attribute.String("http.request.method", r.Method), attribute.String("server.address", r.URL.Host))
	switch {
	case err != nil:
		span.SetStatus(codes.Error, err.Error())
	default:
		span.SetAttributes(attribute.Int("http.response.status_code", response.StatusCode))
		if response.StatusCode >= 400 {
			span.SetStatus(codes.Error, "")
		}
	}
	return response, err
}
