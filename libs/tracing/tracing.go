// Package tracing makes and exports a service's spans (OTLP over HTTP), as long as there is somebody to take them.
//
// Spans are recorded only while the collector can be reached, which is checked in the background. Otherwise they aren't, and cost next to nothing; they
// still have ids, so that log lines and audit entries of one request can be joined. Nothing here ever makes a request wait or fail: the queue is
// bounded, and what is lost is counted.
package tracing

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"
)

const (
	// CheckEvery is how often the collector is tried. So long after it has come back spans are recorded again.
	CheckEvery = 15 * time.Second

	checkTimeout  = 3 * time.Second
	exportTimeout = 10 * time.Second // as OTEL_EXPORTER_OTLP_TIMEOUT by default
	stopTimeout   = 2 * time.Second  // for the spans that are still queued; a collector that hangs must not hold up a stop
	maxQueue      = 2048             // spans, about 4 MB
)

// Config is for whom spans are made.
type Config struct {
	Service, Version string
	Log              *slog.Logger
	Metrics          prometheus.Registerer
}

// Tracing is a service's trace.TracerProvider.
type Tracing struct {
	*sdktrace.TracerProvider
	sampler  sdktrace.Sampler
	exporter *exporter // nil without a collector
}

// New makes the spans of a service. OTEL_EXPORTER_OTLP_ENDPOINT, or its form for traces, names the collector; without one no span is recorded.
// OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG say which are.
func New(ctx context.Context, cfg Config) (*Tracing, error) {
	chosen, err := samplerOf(os.Getenv("OTEL_TRACES_SAMPLER"), os.Getenv("OTEL_TRACES_SAMPLER_ARG"))
	if err != nil {
		return nil, err
	}
	dropped := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "rumi_trace_spans_dropped_total",
		Help: "Spans that were recorded and didn't reach the collector: it was away, or too slow for the queue.",
	})
	cfg.Metrics.MustRegister(dropped)
	if CollectorURL() == "" {
		never := sdktrace.NeverSample()
		return &Tracing{TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSampler(never)), sampler: never}, nil
	}
	about, err := resource.New(ctx, resource.WithFromEnv(), resource.WithHost(), resource.WithAttributes(semconv.ServiceName(cfg.Service),
		semconv.ServiceNamespace("rumi"), semconv.ServiceVersion(cfg.Version), semconv.ServiceInstanceID(uuid.NewString())))
	if err != nil {
		return nil, fmt.Errorf("start tracing: %w", err)
	}
	// An export isn't tried again: the next spans tell sooner whether the collector is back.
	exporter := &exporter{client: otlptracehttp.NewClient(otlptracehttp.WithRetry(otlptracehttp.RetryConfig{})), dropped: dropped, log: cfg.Log}
	if exporter.traces, err = otlptrace.New(ctx, exporter.client); err != nil {
		return nil, fmt.Errorf("start tracing: %w", err)
	}
	t := &Tracing{sampler: gated{chosen, &exporter.here}, exporter: exporter}
	t.TracerProvider = sdktrace.NewTracerProvider(sdktrace.WithSampler(t.sampler), sdktrace.WithSpanProcessor(newQueue(exporter)), sdktrace.WithResource(about))
	return t, nil
}

// CollectorURL is where the collector is, "" for none.
func CollectorURL() string {
	return cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT"))
}

// Run looks for the collector until ctx ends, now and then every CheckEvery.
func (t *Tracing) Run(ctx context.Context) error {
	if t.exporter == nil {
		<-ctx.Done()
		return nil
	}
	return t.exporter.look(ctx)
}

// Samples says whether a new trace of that id would be recorded: what a stranger says about its own trace isn't asked.
func (t *Tracing) Samples(id trace.TraceID) bool {
	decision := t.sampler.ShouldSample(sdktrace.SamplingParameters{ParentContext: context.Background(), TraceID: id})
	return decision.Decision == sdktrace.RecordAndSample
}

// Stop exports what is queued, for two seconds at most.
func (t *Tracing) Stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	_ = t.Shutdown(ctx) // what was lost is counted
	return nil
}

// gated is a sampler that drops all spans while there is nobody to take them.
type gated struct {
	sdktrace.Sampler
	open *atomic.Bool
}

func (g gated) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	if !g.open.Load() {
		return sdktrace.SamplingResult{Decision: sdktrace.Drop, Tracestate: trace.SpanContextFromContext(p.ParentContext).TraceState()}
	}
	return g.Sampler.ShouldSample(p)
}

func (g gated) Description() string { return "WhileCollected{" + g.Sampler.Description() + "}" }
