package worker

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rumi-ai/rumi/libs/statecount"
)

// The states of workers, as a label.
const (
	stateStarting = "starting"
	stateIdle     = "idle"
	stateBusy     = "busy"
)

// metrics are those of a pool. What it has at the moment is counted when it is scraped.
type metrics struct {
	ok, failed prometheus.Counter // starts
	start      prometheus.Histogram
	queue      prometheus.Histogram
}

func newMetrics(p *Pool, registry prometheus.Registerer) metrics {
	starts := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rumi_capability_worker_starts_total", Help: "Starts of handler containers, by result: ok, failed.",
	}, []string{"result"})
	m := metrics{
		ok: starts.WithLabelValues("ok"), failed: starts.WithLabelValues("failed"),
		start: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "rumi_capability_worker_start_duration_seconds", Help: "Time of starts of handler containers, failed ones included.",
			Buckets: []float64{.05, .1, .25, .5, .75, 1, 1.5, 2.5, 5, 10, 30},
		}),
		queue: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "rumi_capability_queue_duration_seconds",
			Help:    "Time that calls waited for a worker, of those that had to, until they had one or gave up.",
			Buckets: []float64{.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 120},
		}),
	}
	limit := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "rumi_capability_workers_limit", Help: "Handler containers that may run or start (RUMI_CAPABILITY_WORKERS).",
	})
	limit.Set(float64(p.limits.Total))
	registry.MustRegister(starts, m.start, m.queue, limit,
		statecount.New("rumi_capability_workers", "Handler containers by state: starting, idle, or busy with a call.", "state",
			[]string{stateStarting, stateIdle, stateBusy}, statecount.Memory(p.countWorkers)),
		statecount.NewTotal("rumi_capability_queue_length", "Calls that wait for a worker.", statecount.Memory(p.countWaiters)),
		statecount.NewTotal("rumi_capability_handlers_paused",
			"Handlers, each for one principal, of which no worker is started for now because they ended too often.", statecount.Memory(p.countPaused)))
	return m
}

func (m *metrics) started(began time.Time, err error) {
	m.start.Observe(time.Since(began).Seconds())
	if err != nil {
		m.failed.Inc()
		return
	}
	m.ok.Inc()
}

func (m *metrics) waited(since time.Time) { m.queue.Observe(time.Since(since).Seconds()) }

func (p *Pool) countWorkers() statecount.Counts {
	p.mu.Lock()
	defer p.mu.Unlock()
	starting, idle := 0, 0
	for _, g := range p.groups {
		starting += g.starting
		idle += len(g.idle)
	}
	return statecount.Counts{stateStarting: starting, stateIdle: idle, stateBusy: p.total - starting - idle}
}

func (p *Pool) countWaiters() statecount.Counts {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, g := range p.groups {
		n += len(g.waiters)
	}
	return statecount.Counts{"": n}
}

func (p *Pool) countPaused() statecount.Counts {
	p.mu.Lock()
	defer p.mu.Unlock()
	n, now := 0, time.Now()
	for _, b := range p.backoffs {
		if !b.due(now) {
			n++
		}
	}
	return statecount.Counts{"": n}
}
