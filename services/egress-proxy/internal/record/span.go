package record

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/rumi-ai/rumi/libs/packtrace"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/upstream"
)

// TraceOfHeader takes the trace to which a pack says that its request belongs out of the fields of a request that came as HTTP (W3C Trace Context). A
// traceparent that stands twice is ignored. The proof of Rumi's own traces isn't left in the header: it is nobody's business but the pack's.
func TraceOfHeader(h http.Header) (t packtrace.Context) {
	if states := h["Tracestate"]; states != nil {
		t.TraceState = strings.Join(states, ",")
		setHeader(h, "Tracestate", packtrace.Strip(t.TraceState))
	}
	if parents := h["Traceparent"]; len(parents) == 1 {
		t.TraceParent = parents[0]
	}
	return t
}

func setHeader(h http.Header, name, value string) {
	if value == "" {
		delete(h, name)
		return
	}
	h[name] = []string{value}
}

// TraceOfFields is TraceOfHeader for a request that came in a frame, in which no name stands twice. left are the fields without the proof.
func TraceOfFields(fields []upstream.Field) (t packtrace.Context, left []upstream.Field) {
	for i := 0; i < len(fields); i++ {
		switch f := fields[i]; len(f.Name) {
		case len("traceparent"):
			if strings.EqualFold(f.Name, "traceparent") {
				t.TraceParent = f.Value
			}
		case len("tracestate"):
			if strings.EqualFold(f.Name, "tracestate") {
				t.TraceState, fields[i].Value = f.Value, packtrace.Strip(f.Value)
				if fields[i].Value == "" {
					fields = slices.Delete(fields, i, i+1)
					i--
				}
			}
		}
	}
	return t, fields
}

// opened is the span of a request that is under way. Its zero value is of one that has none yet.
type opened struct {
	span      trace.Span
	continues bool // it is below a span of the pack's, in a trace that Rumi handed to the pack
}

// Open begins the span of a request that may take long, at the time at which it came, in the trace that the pack named if it may, or else in one of its
// own. Without it, Record makes the span. It returns ctx with the span where that is recorded, for what is done below it.
func (c *Recorder) Open(ctx context.Context, packID string, r *Result, began time.Time) context.Context {
	r.open = c.start(packID, r.Trace, began)
	if !r.open.span.IsRecording() {
		return ctx
	}
	return trace.ContextWithSpan(ctx, r.open.span)
}

func (c *Recorder) start(packID string, sent packtrace.Context, began time.Time) (o opened) {
	ctx := context.Background()
	if sent.TraceParent != "" {
		ctx, o.continues = c.cfg.Border.Join(ctx, packID, sent)
	}
	_, o.span = c.cfg.Tracer.Start(ctx, "egress.request", asClient, trace.WithTimestamp(began))
	return o
}

// Upstream is the traceparent that the server gets in place of the pack's, "" for the pack's as it came. In a trace that Rumi handed to the pack it is
// below this request's span, so that the server's part of the trace has its place. Whatever else a pack sends is between itself
// and the server; and a server of a pack that sends none must not learn that two requests belong together.
func (r *Result) Upstream() string {
	if r.open.span == nil || !r.open.continues || !r.open.span.IsRecording() {
		return ""
	}
	return packtrace.Parent(r.open.span.SpanContext())
}

// Redirected notes in the span that the request goes on to r.Destination.
func (r *Result) Redirected() {
	if r.open.span != nil && r.open.span.IsRecording() {
		r.open.span.AddEvent("redirect", trace.WithAttributes(semconv.URLScheme(r.Destination.Scheme()), semconv.ServerAddress(r.Destination.Host.Name),
			semconv.ServerPort(int(r.Destination.Port))))
	}
}

var asClient = trace.WithSpanKind(trace.SpanKindClient)

// endSpan ends a request's span. The span says where the request went, but not the path, which may contain credentials.
func (r *Result) endSpan(span trace.Span, packID, requestID string, o outcome) {
	if span.IsRecording() {
		span.SetAttributes(r.describe(packID, requestID, o)...)
		switch {
		case o.result != resultAllowed:
			span.SetStatus(codes.Error, o.reason)
		case r.Status >= http.StatusBadRequest:
			span.SetStatus(codes.Error, "")
		}
	}
	span.End()
}

// describe leaves out what goes without saying: encoding an attribute costs as much as a tenth of the span.
func (r *Result) describe(packID, requestID string, o outcome) []attribute.KeyValue {
	all := append(make([]attribute.KeyValue, 0, 16),
		attribute.String("rumi.pack_id", packID), attribute.String("rumi.egress.result", o.result), attribute.String("rumi.request_id", requestID))
	if o.result != resultAllowed {
		all = append(all, attribute.String("rumi.egress.reason", o.reason))
	}
	if r.Hops > 0 {
		all = append(all, semconv.HTTPRequestResendCount(r.Hops))
	}
	if r.Sent > 0 {
		all = append(all, semconv.HTTPRequestBodySize(int(r.Sent)))
	}
	if r.Received > 0 {
		all = append(all, semconv.HTTPResponseBodySize(int(r.Received)))
	}
	if r.Method != "" {
		all = append(all, semconv.HTTPRequestMethodKey.String(r.Method))
	}
	if r.Destination.Host.Name != "" {
		all = append(all, semconv.URLScheme(r.Destination.Scheme()), semconv.ServerAddress(r.Destination.Host.Name), semconv.ServerPort(int(r.Destination.Port)))
	}
	if r.Status != 0 {
		version := "1.1"
		if r.HTTP2 {
			version = "2"
		}
		all = append(all, semconv.HTTPResponseStatusCode(r.Status), semconv.NetworkProtocolVersion(version))
	}
	switch {
	case o.result != resultAllowed:
		all = append(all, semconv.ErrorTypeKey.String(string(r.Failure.Kind)))
	case r.Status >= http.StatusBadRequest:
		all = append(all, semconv.ErrorTypeKey.String(strconv.Itoa(r.Status)))
	}
	return all
}
