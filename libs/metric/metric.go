// Package metric measures durations: histograms whose buckets lead to traces. A dashboard shows a slow bucket, and its exemplar names the trace
// of a request that was as slow.
//
// It holds what prometheus/client_golang lacks for paths that are walked ten thousands of times a second: an exemplar costs six allocations, so
// each bucket takes one a second at most.
package metric

import (
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
)

// Latency has the buckets of what takes from half a millisecond to minutes: requests, calls, transactions.
var Latency = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60}

// exemplarInterval is the time between two exemplars of one bucket. Prometheus reads them every 15 s or so.
const exemplarInterval = time.Second

// Durations is a histogram of seconds. It is safe for concurrent use; Observe makes no garbage but for an exemplar.
type Durations struct {
	observer prometheus.Observer
	bounds   []float64      // upper bounds of the buckets, without +Inf
	due      []atomic.Int64 // by bucket: when it takes an exemplar again, in Unix nanoseconds
}

// NewDurations registers a histogram of durations with registry; nil registers it nowhere. The name must end with _seconds. One that is
// registered already is shared: a part of a service may be opened again after it failed.
func NewDurations(registry prometheus.Registerer, opts prometheus.HistogramOpts) *Durations {
	return newDurations(Register(registry, prometheus.NewHistogram(opts)), opts.Buckets)
}

// Register returns c once it is registered, or what was registered in its place before; nil as the registry registers it nowhere. Anything else
// that is wrong with c is a mistake of the programmer.
func Register[C prometheus.Collector](registry prometheus.Registerer, c C) C {
	if registry == nil {
		return c
	}
	err := registry.Register(c)
	if before, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		return before.ExistingCollector.(C)
	}
	if err != nil {
		panic(err)
	}
	return c
}

func newDurations(observer prometheus.Observer, buckets []float64) *Durations {
	return &Durations{observer: observer, bounds: buckets, due: make([]atomic.Int64, len(buckets)+1)}
}

// Observe counts a duration. span is that of the request; one that isn't sampled leaves no exemplar, because nobody could look its trace up.
func (d *Durations) Observe(span trace.SpanContext, took time.Duration) {
	seconds := took.Seconds()
	if span.IsSampled() && d.wantsExemplar(seconds) {
		d.observer.(prometheus.ExemplarObserver).ObserveWithExemplar(seconds, prometheus.Labels{"trace_id": span.TraceID().String()})
		return
	}
	d.observer.Observe(seconds)
}

// wantsExemplar says whether the bucket of a value takes an exemplar now. Of callers at the same time one is told so.
func (d *Durations) wantsExemplar(seconds float64) bool {
	bucket, _ := slices.BinarySearch(d.bounds, seconds)
	now := time.Now().UnixNano()
	due := d.due[bucket].Load()
	return now >= due && d.due[bucket].CompareAndSwap(due, now+int64(exemplarInterval))
}

// DurationsVec is a histogram with labels.
type DurationsVec struct {
	vec     *prometheus.HistogramVec
	buckets []float64
}

// NewDurationsVec is NewDurations with labels. Their values must be of fixed sets: what a stranger can choose would make series without end.
func NewDurationsVec(registry prometheus.Registerer, opts prometheus.HistogramOpts, labels ...string) *DurationsVec {
	return &DurationsVec{Register(registry, prometheus.NewHistogramVec(opts, labels)), opts.Buckets}
}

// With is the histogram of these values of the labels, in their order. It takes a lock and makes garbage: hot paths call it once for each of
// the values, beforehand. That also makes the series there from the beginning, at zero, without which the first event is no increase to
// Prometheus.
func (v *DurationsVec) With(values ...string) *Durations {
	return newDurations(v.vec.WithLabelValues(values...), v.buckets)
}
