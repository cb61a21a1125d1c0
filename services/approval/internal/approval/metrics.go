package approval

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rumi-ai/rumi/libs/outcome"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/statecount"
)

// The decisions of persons, as a label.
const (
	decisionApprove = "approve"
	decisionReject  = "reject"
)

// statusRetired is the status of a retired pack as a label: the status of its record is pack.StatusError.
const statusRetired = "retired"

// metrics are those of packs. No pack is a label.
type metrics struct {
	decisions     map[string]outcome.Counter // by decision
	scan          prometheus.Histogram
	modifications prometheus.Counter
	verified      prometheus.Gauge
}

func newMetrics(s *Service, registry prometheus.Registerer) metrics {
	decisions := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rumi_approval_decisions_total",
		Help: "Decisions of persons about packs: ok, waiting (a second person has to confirm), refused (the state forbids it), cancelled, failed.",
	}, []string{"decision", "result"})
	m := metrics{
		decisions: make(map[string]outcome.Counter),
		scan: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "rumi_pack_scan_duration_seconds", Help: "Time to compare a pack's folder with its record; its files are read only where they may have changed.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60},
		}),
		modifications: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rumi_pack_modifications_total", Help: "How often a pack that may run was found to differ from what was approved.",
		}),
		verified: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "rumi_packs_verified_timestamp_seconds", Help: "When all packs that may run were last compared with what was approved; 0 for not yet.",
		}),
	}
	for _, decision := range []string{decisionApprove, decisionReject} {
		m.decisions[decision] = make(outcome.Counter)
		for _, result := range []string{outcome.OK, outcome.Waiting, outcome.Refused, outcome.Canceled, outcome.Failed} {
			m.decisions[decision][result] = decisions.WithLabelValues(decision, result)
		}
	}
	registry.MustRegister(decisions, m.scan, m.modifications, m.verified,
		statecount.New("rumi_packs", "Packs by status; retired is one whose uninstall has begun and not ended.", "status", []string{
			string(pack.StatusPending), string(pack.StatusApproved), string(pack.StatusRunning), string(pack.StatusModified), string(pack.StatusBlocked),
			string(pack.StatusError), statusRetired,
		}, statecount.Memory(s.gates.countStatuses)),
		statecount.NewTotal("rumi_packs_held_closed",
			"Packs whose gate is held closed because a change of them could not be recorded; the log says why.", statecount.Memory(s.gates.countHeld)),
		statecount.NewTotal("rumi_approval_requests", "Approvals that wait for a second person.", statecount.Memory(s.gates.countRequests)),
		statecount.NewTotal("rumi_gate_followers", "Streams of gates that services follow.", statecount.Memory(func() statecount.Counts {
			return statecount.Counts{"": s.gates.publisher.Followers()}
		})))
	return m
}

func (m *metrics) scanned(began time.Time) { m.scan.Observe(time.Since(began).Seconds()) }

func (g *gates) countStatuses() statecount.Counts {
	g.mu.Lock()
	defer g.mu.Unlock()
	counts := make(statecount.Counts)
	for _, r := range g.records {
		if r.Retired {
			counts[statusRetired]++
		} else {
			counts[string(r.Status)]++
		}
	}
	return counts
}

func (g *gates) countHeld() statecount.Counts {
	g.mu.Lock()
	defer g.mu.Unlock()
	return statecount.Counts{"": len(g.held) + len(g.unpinned)}
}

func (g *gates) countRequests() statecount.Counts {
	g.mu.Lock()
	defer g.mu.Unlock()
	n, now := 0, time.Now()
	for _, r := range g.records {
		if r.Request.Open(now) {
			n++
		}
	}
	return statecount.Counts{"": n}
}
