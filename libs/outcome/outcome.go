// Package outcome counts operations that a service carries out, by what became of them, and measures how long they took.
//
// An alert must tell what the operator's own requests were refused for from what is broken: the first happens each day, the second wants somebody.
package outcome

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/rpc/telemetry"
)

// The results, as a label.
const (
	OK       = "ok"
	Waiting  = "waiting"   // for a second person
	Refused  = "refused"   // the request is wrong, or the state forbids it
	Canceled = "cancelled" // the caller left
	Failed   = "failed"    // something that is needed is broken or away
)

// Of is the result of an operation by its error.
func Of(err error) string {
	switch {
	case err == nil:
		return OK
	case errors.Is(err, context.Canceled):
		return Canceled
	}
	switch fault.Of(err).Kind {
	case fault.KindInternal, fault.KindUnavailable:
		return Failed
	}
	return Refused
}

// Counter counts operations by result.
type Counter map[string]prometheus.Counter

// NewCounter makes a counter of all results that are named, which a scrape shows from the start.
func NewCounter(registry prometheus.Registerer, name, help string, results ...string) Counter {
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"result"})
	registry.MustRegister(vec)
	c := make(Counter, len(results))
	for _, result := range results {
		c[result] = vec.WithLabelValues(result)
	}
	return c
}

// Count counts an operation. A result that wasn't named is a bug, and panics.
func (c Counter) Count(result string) { c[result].Inc() }

// Counted is f with its calls counted.
func Counted[Q, R any](c Counter, f func(context.Context, Q) (R, error)) func(context.Context, Q) (R, error) {
	return func(ctx context.Context, request Q) (R, error) {
		response, err := f(ctx, request)
		c.Count(Of(err))
		return response, err
	}
}

// Operations counts operations of one kind, and measures them.
type Operations struct {
	total    Counter
	duration prometheus.Histogram
}

// Config names the metrics of Operations.
type Config struct {
	Total, TotalHelp       string
	Duration, DurationHelp string
	Buckets                []float64
	Results                []string
}

// New makes Operations, and registers their metrics.
func New(registry prometheus.Registerer, cfg Config) *Operations {
	o := &Operations{
		total:    NewCounter(registry, cfg.Total, cfg.TotalHelp, cfg.Results...),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{Name: cfg.Duration, Help: cfg.DurationHelp, Buckets: cfg.Buckets}),
	}
	registry.MustRegister(o.duration)
	return o
}

// Done counts an operation that began at a time, and measures it unless it was refused. ctx has its trace.
func (o *Operations) Done(ctx context.Context, began time.Time, result string) {
	o.total.Count(result)
	if result != Refused {
		telemetry.Observe(o.duration, trace.SpanContextFromContext(ctx), time.Since(began).Seconds())
	}
}
