package egress

import (
	"context"
	"net/http"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"
)

// traceContext is where a pack says that its request belongs: its traceparent and tracestate fields (W3C Trace Context). They go
// to the server as they came, like any other field, and nothing of the suite's own spans does: which server it is that a
// pack reaches is nobody's to follow from there.
type traceContext struct{ parent, state string }

// Get implements propagation.TextMapCarrier.
func (l traceContext) Get(key string) string {
	switch key {
	case "traceparent":
		return l.parent
	case "tracestate":
		return l.state
	}
	return ""
}

// Set implements propagation.TextMapCarrier; nothing is injected here.
func (traceContext) Set(string, string) {}

// Keys implements propagation.TextMapCarrier.
func (traceContext) Keys() []string { return []string{"traceparent", "tracestate"} }

// traceContextOf reads the fields of a request that came as HTTP. A traceparent given twice is none.
func traceContextOf(h http.Header) (l traceContext) {
	if parents := h["Traceparent"]; len(parents) == 1 {
		l = traceContext{parents[0], strings.Join(h["Tracestate"], ",")}
	}
	return l
}

// traceContext reads the fields of a request that came in a frame, in which no name stands twice.
func (c *call) traceContext() (l traceContext) {
	for _, f := range c.fields {
		switch len(f.Name) {
		case len("traceparent"):
			if strings.EqualFold(f.Name, "traceparent") {
				l.parent = f.Value
			}
		case len("tracestate"):
			if strings.EqualFold(f.Name, "tracestate") {
				l.state = f.Value
			}
		}
	}
	return l
}

var asClient = trace.WithSpanKind(trace.SpanKindClient)

// span begins the span of a request that is over, at the time at which it came, in the trace that the pack named or in one
// of its own. What is malformed names none.
func (k *pack) span(ctx context.Context, r *result) (context.Context, trace.Span) {
	from := r.traceContext
	if !r.overHTTP {
		from = r.call.traceContext()
	}
	if from.parent != "" {
		ctx = propagation.TraceContext{}.Extract(ctx, from)
	}
	return k.proxy.cfg.Tracer.Start(ctx, "egress.request", asClient, trace.WithTimestamp(time.Now().Add(-r.latency)))
}

// end ends a request's span. It says where the request went, but not the path, which may hold what nobody shall see.
func (r *result) end(span trace.Span, pack, outcome, reason string) {
	if span.IsRecording() {
		span.SetAttributes(
			attribute.String("rumi.pack_id", pack), attribute.String("rumi.egress.result", outcome), attribute.String("rumi.egress.reason", reason),
			semconv.HTTPRequestMethodKey.String(r.call.method), semconv.HTTPRequestResendCount(r.hops), semconv.HTTPRequestBodySize(int(r.sent)), semconv.HTTPResponseBodySize(int(r.received)),
		)
		if r.destination.Host.Name != "" {
			span.SetAttributes(semconv.URLScheme(r.destination.Scheme()), semconv.ServerAddress(r.destination.Host.Name), semconv.ServerPort(int(r.destination.Port)))
		}
		if r.response != nil && r.response.HTTP2 {
			span.SetAttributes(semconv.NetworkProtocolVersion("2"))
		}
		if r.status != 0 {
			span.SetAttributes(semconv.HTTPResponseStatusCode(r.status))
		}
		switch {
		case outcome != "allowed":
			span.SetAttributes(semconv.ErrorTypeKey.String(string(r.failure.Kind)))
			span.SetStatus(codes.Error, reason)
		case r.status >= http.StatusBadRequest:
			span.SetStatus(codes.Error, "")
		}
	}
	span.End()
}
