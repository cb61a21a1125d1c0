package telemetry

import (
	"context"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/text"
)

// TracerName is the instrumentation scope of the spans of calls between services. It stays that of the packages' root: dashboards select by it.
const TracerName = "github.com/rumi-ai/rumi/libs/rpc"

// Propagator carries trace context between services.
var Propagator propagation.TextMapPropagator = propagation.TraceContext{}

// Recorder traces, measures and logs the requests that a service answers. It does what otelhttp does for traces by
// OpenTelemetry's semantic conventions for HTTP; otelhttp itself builds attributes for metrics and wraps bodies even
// if no metrics are collected by it, which took a fifth of the time of a request through the gateway.
type Recorder struct {
	log      *slog.Logger
	tracer   trace.Tracer
	duration *prometheus.HistogramVec
}

// NewRecorder makes the one Recorder of a registry.
func NewRecorder(log *slog.Logger, registry prometheus.Registerer, tracer trace.Tracer) *Recorder {
	duration := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "rumi_http_request_duration_seconds",
		Help:    "Time from a request's header to the end of its answer.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60},
	}, []string{"route", "method", "code"})
	registry.MustRegister(duration)
	return &Recorder{log: log, tracer: tracer, duration: duration}
}

// Begin starts the span of a request, in the trace that its traceparent names or in one of its own.
func (rec *Recorder) Begin(r *http.Request) (context.Context, trace.Span) {
	ctx := Propagator.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
	return rec.tracer.Start(ctx, r.Method, trace.WithSpanKind(trace.SpanKindServer))
}

// End records how a request was answered. ctx has its origin; route is the pattern that it was routed by, "" for none.
func (rec *Recorder) End(ctx context.Context, span trace.Span, r *http.Request, route string, code int, took time.Duration) {
	method := knownMethod(r.Method)
	rec.duration.WithLabelValues(route, method, strconv.Itoa(code)).Observe(took.Seconds())
	if span.IsRecording() {
		if route != "" {
			span.SetName(route)
		}
		span.SetAttributes(attribute.String("http.request.method", method), attribute.String("http.route", route),
			attribute.Int("http.response.status_code", code))
		if code >= 500 {
			span.SetStatus(codes.Error, "")
		}
	}
	span.End()
	level := slog.LevelInfo
	switch {
	case code >= 500 && code != http.StatusServiceUnavailable:
		level = slog.LevelError
	case r.Method == http.MethodGet && code < 400:
		level = slog.LevelDebug
	}
	if rec.log.Enabled(ctx, level) {
		from := origin.Of(ctx)
		where := slog.String("route", route)
		if route == "" { // what was asked for is nowhere else then
			where = slog.String("path", text.Clip(r.URL.EscapedPath(), maxPath))
		}
		rec.log.LogAttrs(ctx, level, "answered", where, slog.String("method", method), slog.Int("status", code),
			slog.Float64("duration_seconds", took.Seconds()), slog.String("caller", from.Caller), slog.String("address", from.Address))
	}
}

// maxPath bounds the logged part of a path without a route, in bytes: clients choose it.
const maxPath = 128

// knownMethod replaces methods that clients invent: each would make a new series of the metrics.
func knownMethod(m string) string {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return m
	}
	return "other"
}
