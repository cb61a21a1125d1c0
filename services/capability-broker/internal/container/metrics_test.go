package container

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/sandbox"
)

// metric is what a scrape shows of a metric: a histogram's number of values, or the value, by the value of the only label ("" for none).
func (r *rig) metric(t *testing.T, name string) map[string]float64 {
	t.Helper()
	synctest.Wait()
	families, err := r.config.Metrics.(*prometheus.Registry).Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]float64)
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			label := ""
			for _, l := range m.GetLabel() {
				label = l.GetValue()
			}
			got[label] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return got
}

func (r *rig) wantMetric(t *testing.T, what, name string, want map[string]float64) {
	t.Helper()
	if got := r.metric(t, name); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: %s is %v, want %v", what, name, got, want)
	}
}

type values = map[string]float64

// TestContainersByState: a container is counted by what its record says at the time of the scrape.
func TestContainersByState(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.describe(t, describing("always"))
		r.wantMetric(t, "at first", "rumi_containers", values{"running": 0, "restarting": 0, "stopped": 0})
		r.started(t, "p", "d1")
		r.started(t, "q", "d1")
		r.wantMetric(t, "started", "rumi_containers", values{"running": 2, "restarting": 0, "stopped": 0})
		r.docker.exits("p", sandbox.Exit{Code: 1})
		r.wantMetric(t, "one has ended", "rumi_containers", values{"running": 1, "restarting": 1, "stopped": 0})
		time.Sleep(firstPause + requeueInterval)
		r.wantMetric(t, "it runs again", "rumi_containers", values{"running": 2, "restarting": 0, "stopped": 0})
		if _, err := r.Stop(t.Context(), "q"); err != nil {
			t.Fatal(err)
		}
		r.wantMetric(t, "the other was stopped", "rumi_containers", values{"running": 1, "restarting": 0, "stopped": 1})
		if _, _, err := r.Delete(t.Context(), "q"); err != nil {
			t.Fatal(err)
		}
		r.wantMetric(t, "and deleted", "rumi_containers", values{"running": 1, "restarting": 0, "stopped": 0})
	})
}

// TestStartsAndEnds: each start, each restart and each end is counted once, by what came of it.
func TestStartsAndEnds(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.describe(t, describing("always"))
		r.started(t, "p", "d1")
		r.wantMetric(t, "started", "rumi_container_starts_total", values{"ok": 1, "denied": 0, "failed": 0})
		r.GateChanged(r.gates.set("q", "modified", "d1"))
		if _, err := r.Start(t.Context(), "q"); !fault.Is(err, fault.KindDenied) {
			t.Fatalf("got %v, want that the start is denied", err)
		}
		for _, exit := range []sandbox.Exit{{}, {Code: 3}, {Code: 137, OOMKilled: true}} {
			r.docker.exits("p", exit)
			synctest.Wait()
			time.Sleep(longestPause + requeueInterval)
		}
		r.wantMetric(t, "after three ends", "rumi_container_restarts_total", values{"": 3})
		r.docker.refuseCreate(true)
		r.GateChanged(r.gates.set("q", "approved", "d1"))
		if _, err := r.Start(t.Context(), "q"); err == nil {
			t.Fatal("got no error of a start without an image, want one")
		}
		r.wantMetric(t, "all", "rumi_container_starts_total", values{"ok": 4, "denied": 1, "failed": 1})
		r.wantMetric(t, "all", "rumi_container_start_duration_seconds", values{"": 5})
		if _, err := r.Stop(t.Context(), "p"); err != nil {
			t.Fatal(err)
		}
		r.wantMetric(t, "all", "rumi_container_ends_total", values{"completed": 1, "failed": 1, "out_of_memory": 1, "engine": 0, "stopped": 1})
	})
}

// TestRestartLoop: a pack in a loop stays counted while it runs for a moment, and is no longer once it has run for a while.
func TestRestartLoop(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.describe(t, describing("always"))
		r.started(t, "p", "d1")
		r.wantMetric(t, "at first", "rumi_containers_backing_off", values{"": 0})
		for i, pause := range []time.Duration{1, 2, 4} {
			r.wantMetric(t, fmt.Sprint(i, " short runs"), "rumi_containers_backing_off", values{"": 0})
			r.docker.exits("p", sandbox.Exit{Code: 7})
			synctest.Wait()
			if i == 2 {
				r.wantMetric(t, "while it waits", "rumi_containers_backing_off", values{"": 1})
			}
			time.Sleep(pause*time.Second + requeueInterval)
		}
		r.wantMetric(t, "while it runs for a moment", "rumi_containers_backing_off", values{"": 1})
		time.Sleep(steadyAfter)
		r.wantMetric(t, "after a minute", "rumi_containers_backing_off", values{"": 0})
	})
}

// TestUnreconciled: a container that can't be removed is counted until it can be.
func TestUnreconciled(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		r.docker.stuck = map[string]error{"foreign": fault.Unavailable("stuck")}
		r.docker.stranger(sandbox.Container{ID: "foreign", PackID: "p", Status: "running"})
		r.wantMetric(t, "stuck", "rumi_containers_unreconciled", values{"": 1})
		r.docker.mu.Lock()
		r.docker.stuck = nil
		r.docker.mu.Unlock()
		time.Sleep(scanInterval + requeueInterval)
		r.wantMetric(t, "removed", "rumi_containers_unreconciled", values{"": 0})
	})
}

// TestHostilePacksMakeNoSeries: whatever packs die of, and whatever they are called, no time series comes of it.
func TestHostilePacksMakeNoSeries(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		count := func() int {
			n, err := testutil.GatherAndCount(r.config.Metrics.(*prometheus.Registry))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		before := count()
		r.describe(t, describing("always"))
		r.started(t, "p", "d1")
		for i := range 300 {
			r.docker.exits("p", sandbox.Exit{Code: i - 20})
			synctest.Wait()
			time.Sleep(longestPause + requeueInterval)
			_, _ = r.Start(t.Context(), fmt.Sprintf("made_up_%d", i))
		}
		if after := count(); after != before {
			t.Errorf("%d series, want %d as before", after, before)
		}
	})
}
