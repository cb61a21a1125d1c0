package worker

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

func raises(id string) string {
	return fmt.Sprintf(`{"id":%q,"ok":false,"kind":"exception","error":"OSError"}`, id)
}

// However a pack has its workers end, and whatever calls succeed in between, containers are started at a bounded rate; and a
// handler that is well again is served at once.
func TestStartsOfWorkersThatEndAreBounded(t *testing.T) {
	for name, c := range map[string]struct {
		misbehave behaviour
		timeout   time.Duration
	}{
		"dies":          {func(string, []jsontext.Value) ([]string, bool) { return nil, false }, 10 * time.Second},
		"never answers": {func(string, []jsontext.Value) ([]string, bool) { time.Sleep(time.Hour); return nil, false }, 2 * time.Millisecond},
		"dies idle": {func(id string, args []jsontext.Value) ([]string, bool) {
			return []string{answers(id, "1"), "noise"}, true
		}, 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			var turn atomic.Int32
			m := &machine{behave: func(id string, args []jsontext.Value) ([]string, bool) {
				if turn.Add(1)%2 == 0 && string(args[1]) == `"attack"` {
					return c.misbehave(id, args)
				}
				return polite(id, args)
			}}
			inPool(t, m, ample, func(t *testing.T, p *Pool) {
				paused := 0
				for range 6000 { // ten minutes
					_, err := within(c.timeout, p, job("attacker", `"attack"`))
					if errors.Is(err, ErrPaused) {
						paused++
					}
					time.Sleep(100 * time.Millisecond)
				}
				if n := m.launched.Load(); n < burst || n > 35 || paused == 0 {
					t.Errorf("%d starts in ten minutes, %d calls refused for it; want %d to 35, and some", n, paused, burst)
				}
				before := m.launched.Load()
				if _, err := within(time.Second, p, job("other", `1`)); err != nil || m.launched.Load() != before+1 {
					t.Errorf("another principal of the handler: %v, %d launches; want one more", err, m.launched.Load()-before)
				}
				time.Sleep(10 * time.Minute)
				if _, err := within(time.Second, p, job("attacker", `1`)); err != nil {
					t.Errorf("after ten minutes without a call: %v", err)
				}
			})
		})
	}
}

// A worker that answers, and whose calls fail one after the other, is replaced: that mends what an earlier call has done to it.
func TestAWorkerWhoseCallsAllFailIsReplaced(t *testing.T) {
	m := &machine{}
	m.behave = func(id string, args []jsontext.Value) ([]string, bool) {
		if m.launched.Load() == 1 {
			return []string{raises(id)}, true
		}
		return polite(id, args)
	}
	inPool(t, m, ample, func(t *testing.T, p *Pool) {
		for i := range 2 * suspectAfter {
			_, err := within(time.Second, p, job("a", `1`))
			if failed := err != nil; failed != (i < suspectAfter) {
				t.Errorf("call %d: %v; want a failure: %v", i, err, i < suspectAfter)
			}
			synctest.Wait()
		}
		if n := m.launched.Load(); n != 2 {
			t.Errorf("%d workers, want 2", n)
		}
	})
}

// One failure in between others is no reason, and calls that fail whatever the worker get their answers all the same: never is
// one refused because its worker was replaced, and the replacing is bounded.
func TestCallsThatFailWhateverTheWorker(t *testing.T) {
	var failing atomic.Bool
	var turn atomic.Int32
	m := &machine{behave: func(id string, args []jsontext.Value) ([]string, bool) {
		if turn.Add(1)%suspectAfter != 0 || failing.Load() {
			return []string{raises(id)}, true
		}
		return polite(id, args)
	}}
	inPool(t, m, ample, func(t *testing.T, p *Pool) {
		for range 200 {
			_, _ = within(time.Second, p, job("a", `1`))
			time.Sleep(100 * time.Millisecond)
		}
		if n := m.launched.Load(); n != 1 {
			t.Errorf("%d workers though each fifth call succeeded, want 1", n)
		}
		failing.Store(true)
		for range 6000 {
			if _, err := within(time.Second, p, job("a", `1`)); Reason(err) != "The handler failed (exception: OSError)" {
				t.Fatalf("got %v, want that the handler failed with OSError", err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n := m.launched.Load(); n < 3 || n > 35 {
			t.Errorf("%d workers in ten minutes, want 3 to 35", n)
		}
	})
}

// A worker that asks to be replaced after each call is, at a bounded rate; beyond that it goes on serving.
func TestRecyclingIsBounded(t *testing.T) {
	m := &machine{behave: func(id string, args []jsontext.Value) ([]string, bool) {
		return []string{fmt.Sprintf(`{"id":%q,"ok":true,"retire":true,"output":1}`, id)}, true
	}}
	inPool(t, m, ample, func(t *testing.T, p *Pool) {
		for range 6000 { // ten minutes
			if _, err := within(time.Second, p, job("a", `1`)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n := m.launched.Load(); n < 50 || n > 350 {
			t.Errorf("%d workers in ten minutes, want 50 to 350", n)
		}
	})
}

// A call whose time is over when a worker is ready leaves the worker alone, and uses nothing up.
func TestCallsWithoutTimeCostNoWorker(t *testing.T) {
	m := &machine{behave: polite}
	inPool(t, m, ample, func(t *testing.T, p *Pool) {
		if _, err := within(time.Second, p, job("a", `1`)); err != nil {
			t.Fatal(err)
		}
		for range 100 {
			j := job("a", `1`)
			j.Begin = func(context.Context) error { t.Error("a call without time began"); return nil }
			if _, err := within(time.Microsecond, p, j); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("got %v, want a deadline", err)
			}
			j.Begin = func(context.Context) error { time.Sleep(time.Second); return nil }
			if _, err := within(time.Second, p, j); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("got %v, want a deadline", err)
			}
		}
		if n := m.launched.Load(); n != 1 {
			t.Errorf("%d workers, want 1", n)
		}
	})
}
