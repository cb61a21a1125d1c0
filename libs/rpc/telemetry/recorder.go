package telemetry

import (
	"context"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/rumi-ai/rumi/libs/metric"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/text"
)

// TracerName is the instrumentation scope of the spans of calls between services. It stays that of the packages' root: dashboards select by it.
const TracerName = "github.com/rumi-ai/rumi/libs/rpc"

// Propagator carries trace context between services.
var Propagator propagation.TextMapPropagator = propagation.TraceContext{}

// Recorder traces, measures and logs the requests that a service answers. It does what otelhttp does by OpenTelemetry's semantic
// conventions for HTTP; otelhttp itself builds sets of attributes and wraps bodies for each request, which took a fifth of the time of a
// request through the gateway.
type Recorder struct {
	log      *slog.Logger
	reads    slog.Level
	tracer   trace.Tracer
	active   map[string]prometheus.Gauge // by known method
	duration *metric.DurationsVec

	mu     sync.Mutex // serialises additions to series
	series atomic.Pointer[map[series]*metric.Durations]
}

// series identifies a series of the durations. Looking one up by it makes no garbage, as looking it up by its labels does.
type series struct {
	method, route string
	code          int
}

// NewRecorder makes the one Recorder of a registry. reads is the level at which it logs reads that were answered: a request through the gateway is
// logged there, so that services needn't log it a second time.
func NewRecorder(log *slog.Logger, registry prometheus.Registerer, tracer trace.Tracer, reads slog.Level) *Recorder {
	active := promauto.With(registry).NewGaugeVec(prometheus.GaugeOpts{
		Name: "http_server_active_requests", Help: "Requests that are being answered, streams among them, by method.",
	}, []string{"http_request_method"})
	rec := &Recorder{log: log, reads: reads, tracer: tracer, active: map[string]prometheus.Gauge{}, duration: metric.NewDurationsVec(registry, prometheus.HistogramOpts{
		Name: "http_server_request_duration_seconds",
		Help: "Time from a request's header to the end of its answer, by method, route and status. The route is empty for a path that is none.", Buckets: metric.Latency,
	}, "http_request_method", "http_route", "http_response_status_code")}
	for _, method := range append([]string{otherMethod}, methods...) {
		rec.active[method] = active.WithLabelValues(method)
	}
	rec.series.Store(&map[series]*metric.Durations{})
	return rec
}

// Begin starts the span of a request, in the trace that its traceparent names or in one of its own. End must follow.
func (rec *Recorder) Begin(r *http.Request) (context.Context, trace.Span) {
	rec.active[knownMethod(r.Method)].Inc()
	ctx := Propagator.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
	return rec.tracer.Start(ctx, r.Method, trace.WithSpanKind(trace.SpanKindServer))
}

// End records how a request was answered. ctx has its origin; route is the pattern that it was routed by, with its method, "" for none.
func (rec *Recorder) End(ctx context.Context, span trace.Span, r *http.Request, route string, code int, took time.Duration) {
	method := knownMethod(r.Method)
	rec.active[method].Dec()
	rec.durations(series{method, route, code}).Observe(span.SpanContext(), took)
	if span.IsRecording() {
		describeServed(ctx, span, r, route, code)
	}
	span.End()
	rec.line(ctx, r, route, code, took)
}

// durations finds the histogram of a series. It takes a lock for a series' first request only. There are as many series as routes, their
// methods and the codes that they answer.
func (rec *Recorder) durations(s series) *metric.Durations {
	if found, ok := (*rec.series.Load())[s]; ok {
		return found
	}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	added := rec.duration.With(s.method, pathOf(s.route), strconv.Itoa(s.code))
	next := maps.Clone(*rec.series.Load())
	next[s] = added
	rec.series.Store(&next)
	return added
}

// pathOf is the route as OpenTelemetry has it: a pattern without its method.
func pathOf(route string) string {
	if _, path, ok := strings.Cut(route, " "); ok {
		return path
	}
	return route
}

// line writes the canonical line of a request. The path is without the query, where clients put what nobody must log.
func (rec *Recorder) line(ctx context.Context, r *http.Request, route string, code int, took time.Duration) {
	level := slog.LevelInfo
	switch {
	case code >= 500 && code != http.StatusServiceUnavailable:
		level = slog.LevelError
	case r.Method == http.MethodGet && code < 400:
		level = rec.reads
	}
	if rec.log.Enabled(ctx, level) {
		from := origin.Of(ctx)
		rec.log.LogAttrs(ctx, level, "request", slog.String("route", route), slog.String("path", text.Clip(r.URL.EscapedPath(), maxPath)), slog.String("method", knownMethod(r.Method)), slog.Int("status", code),
			slog.Float64("duration_seconds", took.Seconds()), slog.String("caller", from.Caller), slog.String("actor", from.Actor), slog.String("address", from.Address))
	}
}

// maxPath bounds the logged part of a path, in bytes: clients choose it.
const maxPath = 128

// methods are those of labels. OpenTelemetry's word for all others is _OTHER.
var methods = []string{
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions, http.MethodConnect, http.MethodTrace,
}

const otherMethod = "_OTHER"

// knownMethod replaces methods that clients invent: each would make a new series of the metrics.
func knownMethod(m string) string {
	if slices.Contains(methods, m) {
		return m
	}
	return otherMethod
}
