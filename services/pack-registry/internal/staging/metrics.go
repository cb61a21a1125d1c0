package staging

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rumi-ai/rumi/libs/outcome"
	"github.com/rumi-ai/rumi/libs/statecount"
)

// metrics are those of imports and of what they leave to be applied.
type metrics struct {
	imports *outcome.Operations
	running prometheus.Gauge
}

func newMetrics(a *Area, registry prometheus.Registerer) metrics {
	m := metrics{
		imports: outcome.New(registry, outcome.Config{
			Total: "rumi_imports_total", TotalHelp: "Imports of packs: ok, refused (what was sent can't be packs), cancelled, failed.",
			Duration: "rumi_import_duration_seconds", DurationHelp: "Time of imports that were not refused; of an upload, from its first byte on.",
			Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1200},
			Results: []string{outcome.OK, outcome.Refused, outcome.Canceled, outcome.Failed},
		}),
		running: prometheus.NewGauge(prometheus.GaugeOpts{Name: "rumi_imports_running", Help: "Imports under way."}),
	}
	registry.MustRegister(m.running, statecount.NewTotal("rumi_staged_packs", "Packs that were imported and are not applied yet.", statecount.Cached(a.countStaged)))
	return m
}

func (a *Area) countStaged(ctx context.Context) (statecount.Counts, error) {
	if err := a.ready(); err != nil {
		return nil, err
	}
	all, err := a.store.Stagings(ctx, time.Time{})
	if err != nil {
		return nil, err
	}
	n := 0
	for _, st := range all {
		if !a.expired(st.ID, st.CreatedAt, Lifetime) {
			n += len(st.Packs)
		}
	}
	return statecount.Counts{"": n}, nil
}
