package snapshot

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rumi-ai/rumi/libs/metric"
)

// Propagation measures how long it takes from a change of the rows to the moment when this replica decides by it.
type Propagation struct {
	took    prometheus.Histogram
	changed func(ctx context.Context) (revision int64, at time.Time, err error)
}

// NewPropagation registers the measure. name is of a fixed set: "network_grants". changed reads the newest revision and when the transaction
// that raised it wrote that, a moment before its commit. A database's own time of a commit isn't to be had: SQLite has none, and PostgreSQL only with a setting
// of the server.
func NewPropagation(registry prometheus.Registerer, name string, changed func(context.Context) (int64, time.Time, error)) *Propagation {
	took := metric.Register(registry, prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:        "rumi_snapshot_propagation_seconds",
		Help:        "Time from a change of what a replica decides by, its commit included, to the moment when this replica decides by it; by what was changed.",
		Buckets:     []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		ConstLabels: prometheus.Labels{"snapshot": name},
	}))
	return &Propagation{took: took, changed: changed}
}

// observe measures the change that made a revision, which was published at a time. It is of the newest change only: when two came at once, the
// first is not measured. What can't be measured is left out; the snapshot itself doesn't depend on it. p may be nil.
func (p *Propagation) observe(ctx context.Context, revision int64, published time.Time) {
	if p == nil {
		return
	}
	newest, at, err := p.changed(ctx)
	if err != nil || newest != revision || at.IsZero() {
		return
	}
	p.took.Observe(max(0, published.Sub(at).Seconds())) // the clocks of two hosts may differ
}
