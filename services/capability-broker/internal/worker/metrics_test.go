package worker

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/rumi-ai/rumi/libs/packtrace"
)

// metered is a pool with its metrics, in a bubble of virtual time.
type metered struct {
	*Pool
	registry *prometheus.Registry
}

func measure(t *testing.T, m *machine, limits Limits, test func(t *testing.T, p metered)) {
	synctest.Test(t, func(t *testing.T) {
		limits.Ceiling.Timeout = 2 * time.Hour
		registry := prometheus.NewRegistry()
		p := NewPool(m, limits, packtrace.Border{}, slog.New(slog.DiscardHandler), registry)
		test(t, metered{p, registry})
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
		time.Sleep(2 * time.Hour) // what sleeps in the fakes wakes up
	})
}

// want checks a metric: its values by its label ("" for none); of a histogram the number and the sum.
func (p metered) want(t *testing.T, what, name string, want map[string]float64) {
	t.Helper()
	synctest.Wait()
	families, err := p.registry.Gather()
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
			if h := m.GetHistogram(); h != nil {
				got["count"], got["sum"] = float64(h.GetSampleCount()), h.GetSampleSum()
				continue
			}
			got[label] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: %s is %v, want %v", what, name, got, want)
	}
}

type values = map[string]float64

// TestWorkersByState: a worker starts, is busy and then idle; calls that have to wait are counted while they do, and measured.
func TestWorkersByState(t *testing.T) {
	m := &machine{starts: 3 * time.Second}
	measure(t, m, Limits{PerHandler: 1, Total: 4, Queue: 16, Idle: time.Minute}, func(t *testing.T, p metered) {
		end := make(chan struct{})
		m.behave = func(id string, args []jsontext.Value) ([]string, bool) {
			<-end
			return polite(id, args)
		}
		p.want(t, "at first", "rumi_capability_workers", values{"starting": 0, "idle": 0, "busy": 0})
		p.want(t, "at first", "rumi_capability_workers_limit", values{"": 4})
		var calls sync.WaitGroup
		for range 2 {
			calls.Go(func() {
				if _, err := p.Run(t.Context(), job("p", `1`)); err != nil {
					t.Error(err)
				}
			})
		}
		p.want(t, "while it starts", "rumi_capability_workers", values{"starting": 1, "idle": 0, "busy": 0})
		p.want(t, "while it starts", "rumi_capability_queue_length", values{"": 2})
		time.Sleep(3 * time.Second)
		p.want(t, "while one calls", "rumi_capability_workers", values{"starting": 0, "idle": 0, "busy": 1})
		p.want(t, "while one calls", "rumi_capability_queue_length", values{"": 1})
		time.Sleep(4 * time.Second)
		close(end)
		calls.Wait()
		p.want(t, "afterwards", "rumi_capability_workers", values{"starting": 0, "idle": 1, "busy": 0})
		p.want(t, "afterwards", "rumi_capability_queue_length", values{"": 0})
		p.want(t, "afterwards", "rumi_capability_queue_duration_seconds", values{"count": 2, "sum": 3 + 7})
		p.want(t, "afterwards", "rumi_capability_worker_start_duration_seconds", values{"count": 1, "sum": 3})
		if _, err := p.Run(t.Context(), job("p", `1`)); err != nil {
			t.Error(err)
		}
		p.want(t, "a call that finds a worker waits for none", "rumi_capability_queue_duration_seconds", values{"count": 2, "sum": 3 + 7})
	})
}

// TestStartsByResult: starts that fail are counted as that, and a call that gives up has waited, too.
func TestStartsByResult(t *testing.T) {
	m := &machine{behave: polite}
	measure(t, m, ample, func(t *testing.T, p metered) {
		p.want(t, "at first", "rumi_capability_worker_starts_total", values{"ok": 0, "failed": 0})
		m.failing = errors.New("no image")
		if _, err := p.Run(t.Context(), job("p", `1`)); err == nil {
			t.Error("a call without a worker succeeds, want an error")
		}
		m.failing = nil
		if _, err := p.Run(t.Context(), job("p", `1`)); err != nil {
			t.Error(err)
		}
		p.want(t, "one of each", "rumi_capability_worker_starts_total", values{"ok": 1, "failed": 1})
		m.starts = time.Minute
		if _, err := within(5*time.Second, p.Pool, job("q", `1`)); err == nil {
			t.Error("a call succeeds before its worker runs, want an error")
		}
		p.want(t, "one gave up", "rumi_capability_queue_duration_seconds", values{"count": 3, "sum": 5})
	})
}

// TestPausedHandlers: a handler whose workers die too often is shown until one may be started again; and no series comes of what they die of.
func TestPausedHandlers(t *testing.T) {
	m := &machine{behave: func(string, []jsontext.Value) ([]string, bool) { return nil, false }}
	measure(t, m, ample, func(t *testing.T, p metered) {
		families, err := p.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		before := fmt.Sprint(len(families))
		p.want(t, "at first", "rumi_capability_handlers_paused", values{"": 0})
		for i := range burst + 1 {
			_, _ = p.Run(t.Context(), job("p", fmt.Sprint(i)))
		}
		p.want(t, "after some deaths", "rumi_capability_handlers_paused", values{"": 1})
		time.Sleep(longestPause)
		p.want(t, "after a minute", "rumi_capability_handlers_paused", values{"": 0})
		for i := range 100 {
			_, _ = p.Run(t.Context(), job(fmt.Sprint("principal", i), `1`))
		}
		if families, err = p.registry.Gather(); err != nil || fmt.Sprint(len(families)) != before {
			t.Errorf("%d families, %v; want %s as before", len(families), err, before)
		}
		p.want(t, "many principals", "rumi_capability_workers", values{"starting": 0, "idle": 0, "busy": 0})
	})
}
