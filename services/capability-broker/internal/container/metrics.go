package container

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/rpc/telemetry"
	"github.com/rumi-ai/rumi/libs/statecount"
)

// The states of packs' containers, as a label.
const (
	stateRunning    = "running"
	stateRestarting = "restarting"
	stateStopped    = "stopped"
)

// loopAfter is after how many short runs in a row a pack counts as one that restarts in a loop.
const loopAfter = 3

// ending is how a container's run ended, as a label.
type ending string

// The endings.
const (
	endCompleted   ending = "completed"
	endFailed      ending = "failed"
	endOutOfMemory ending = "out_of_memory"
	endWithEngine  ending = "engine"
	endStopped     ending = "stopped"
)

// metrics are those of packs' containers. No pack is a label: packs are as many as operators install, and GET /api/containers has each.
type metrics struct {
	ok, denied, failed prometheus.Counter // starts
	start              prometheus.Histogram
	restarts           prometheus.Counter
	ends               map[ending]prometheus.Counter
}

func newMetrics(m *Manager, registry prometheus.Registerer) metrics {
	starts := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rumi_container_starts_total", Help: "Starts of packs' containers, by operators and after their end, by result: ok, denied, failed.",
	}, []string{"result"})
	ends := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rumi_container_ends_total",
		Help: "Ends of packs' containers: completed (exit code 0), failed, out_of_memory, engine (it ended with Docker), stopped (by an operator or a closed gate).",
	}, []string{"reason"})
	all := metrics{
		ok: starts.WithLabelValues("ok"), denied: starts.WithLabelValues("denied"), failed: starts.WithLabelValues("failed"),
		start: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "rumi_container_start_duration_seconds", Help: "Time of starts of packs' containers that were not denied.",
			Buckets: []float64{.05, .1, .25, .5, .75, 1, 1.5, 2.5, 5, 10, 30, 60},
		}),
		restarts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rumi_container_restarts_total", Help: "Starts of packs' containers after an end that no operator asked for.",
		}),
		ends: make(map[ending]prometheus.Counter),
	}
	for _, e := range []ending{endCompleted, endFailed, endOutOfMemory, endWithEngine, endStopped} {
		all.ends[e] = ends.WithLabelValues(string(e))
	}
	registry.MustRegister(starts, ends, all.start, all.restarts,
		statecount.New("rumi_containers", "Containers of packs by state: running, restarting (a start is due), stopped.", "state",
			[]string{stateRunning, stateRestarting, stateStopped}, statecount.Memory(m.countStates)),
		statecount.NewTotal("rumi_containers_backing_off",
			"Packs whose container ended soon after its start three times in a row or more, and is started again ever later. GET /api/containers says which.",
			statecount.Memory(m.countLoops)),
		statecount.NewTotal("rumi_containers_unreconciled",
			"Packs whose container could not be brought into the state that it should have; the log says why, and it is tried again.",
			statecount.Memory(m.queue.countFailures)))
	return all
}

// started counts a start, of which err is the outcome.
func (m *metrics) started(ctx context.Context, began time.Time, err error) {
	if fault.Is(err, fault.KindDenied) {
		m.denied.Inc()
		return
	}
	telemetry.Observe(m.start, trace.SpanContextFromContext(ctx), time.Since(began).Seconds())
	if err != nil {
		m.failed.Inc()
		return
	}
	m.ok.Inc()
}

// ended counts an end by itself, as its record has it.
func (m *metrics) ended(r *Record) {
	end := endCompleted
	switch {
	case r.Reason == reasonWithEngine:
		end = endWithEngine
	case r.Reason == reasonOutOfMemory:
		end = endOutOfMemory
	case r.Exit.Code != 0:
		end = endFailed
	}
	m.ends[end].Inc()
}

func (m *Manager) countStates() statecount.Counts {
	counts := make(statecount.Counts)
	for _, r := range m.records.all() {
		switch {
		case r.Running:
			counts[stateRunning]++
		case r.Wanted && !r.RestartAt.IsZero():
			counts[stateRestarting]++
		default:
			counts[stateStopped]++
		}
	}
	return counts
}

func (m *Manager) countLoops() statecount.Counts {
	n, now := 0, time.Now()
	for _, r := range m.records.all() {
		if r.loops(now) {
			n++
		}
	}
	return statecount.Counts{"": n}
}

// loops says whether a container restarts in a loop: also in the moments in which it runs, or an alert would come and go with each restart.
func (r *Record) loops(now time.Time) bool {
	return r.Wanted && r.Failures >= loopAfter && (!r.Running || now.Sub(r.StartedAt) < steadyAfter)
}

// countFailures counts the packs of which the last reconciliation failed.
func (q *reconcileQueue) countFailures() statecount.Counts {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for _, p := range q.packs {
		if p.failure != "" {
			n++
		}
	}
	return statecount.Counts{"": n}
}
