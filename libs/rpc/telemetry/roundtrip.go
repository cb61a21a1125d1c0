package telemetry

import (
	"maps"
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// RoundTrip has send send a copy of r in a span of its own, which ends when the answer begins. send may change the copy, but not the values
// of its headers, which it shares with r.
func RoundTrip(tracer trace.Tracer, peer string, r *http.Request, send func(*http.Request) (*http.Response, error)) (*http.Response, error) {
	ctx, span := tracer.Start(r.Context(), peer+" "+r.Method, trace.WithSpanKind(trace.SpanKindClient))
	defer span.End()
	header := make(http.Header, len(r.Header)+2) // with the trace
	maps.Copy(header, r.Header)
	r = r.WithContext(ctx)
	r.Header = header
	Propagator.Inject(ctx, propagation.HeaderCarrier(r.Header))
	response, err := send(r)
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
