package record

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

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/upstream"
)

// TraceContext is the trace to which a pack says that its request belongs: its traceparent and tracestate fields (W3C Trace Context). They go to
// the server as they came, like any other field, and nothing of our own spans does: a server must not learn from them which other servers the
// pack talks to.
type TraceContext struct{ parent, state string }

// Get implements propagation.TextMapCarrier.
func (t TraceContext) Get(key string) string {
	switch key {
	case "traceparent":
		return t.parent
	case "tracestate":
		return t.state
	}
	return ""
}

// Set implements propagation.TextMapCarrier; nothing is injected here.
func (TraceContext) Set(string, string) {}

// Keys implements propagation.TextMapCarrier.
func (TraceContext) Keys() []string { return []string{"traceparent", "tracestate"} }

// TraceOfHeader reads the fields of a request that came as HTTP. A traceparent that stands twice is ignored.
func TraceOfHeader(h http.Header) (t TraceContext) {
	if parents := h["Traceparent"]; len(parents) == 1 {
		t = TraceContext{parents[0], strings.Join(h["Tracestate"], ",")}
	}
	return t
}

// TraceOfFields reads the fields of a request that came in a frame, in which no name stands twice.
func TraceOfFields(fields []upstream.Field) (t TraceContext) {
	for _, f := range fields {
		switch len(f.Name) {
		case len("traceparent"):
			if strings.EqualFold(f.Name, "traceparent") {
				t.parent = f.Value
			}
		case len("tracestate"):
			if strings.EqualFold(f.Name, "tracestate") {
				t.state = f.Value
			}
		}
	}
	return t
}

var asClient = trace.WithSpanKind(trace.SpanKindClient)

// span begins the span of a request that is over, at the time at which it came, in the trace that the pack named, or in one of its own if it named
// none or the fields are malformed.
func (c *Recorder) span(ctx context.Context, r *Result) (context.Context, trace.Span) {
	if r.Trace.parent != "" {
		ctx = propagation.TraceContext{}.Extract(ctx, r.Trace)
	}
	return c.cfg.Tracer.Start(ctx, "egress.request", asClient, trace.WithTimestamp(time.Now().Add(-r.Latency)))
}

// endSpan ends a request's span. The span says where the request went, but not the path, which may contain credentials.
func (r *Result) endSpan(span trace.Span, packID string, o outcome) {
	if span.IsRecording() {
		span.SetAttributes(
			attribute.String("rumi.pack_id", packID), attribute.String("rumi.egress.result", o.result), attribute.String("rumi.egress.reason", o.reason),
			semconv.HTTPRequestMethodKey.String(r.Method), semconv.HTTPRequestResendCount(r.Hops), semconv.HTTPRequestBodySize(int(r.Sent)), semconv.HTTPResponseBodySize(int(r.Received)),
		)
		if r.Destination.Host.Name != "" {
			span.SetAttributes(semconv.URLScheme(r.Destination.Scheme()), semconv.ServerAddress(r.Destination.Host.Name), semconv.ServerPort(int(r.Destination.Port)))
		}
		if r.HTTP2 {
			span.SetAttributes(semconv.NetworkProtocolVersion("2"))
		}
		if r.Status != 0 {
			span.SetAttributes(semconv.HTTPResponseStatusCode(r.Status))
		}
		switch {
		case o.result != resultAllowed:
			span.SetAttributes(semconv.ErrorTypeKey.String(string(r.Failure.Kind)))
			span.SetStatus(codes.Error, o.reason)
		case r.Status >= http.StatusBadRequest:
			span.SetStatus(codes.Error, "")
		}
	}
	span.End()
}
