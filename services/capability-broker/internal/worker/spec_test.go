package worker

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/sandbox"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/grant"
)

func ptr[T any](v T) *T { return &v }

func TestSpecsThatShareWorkers(t *testing.T) {
	plain := job("a", "{}").Spec
	with := func(change func(*Spec)) Spec { s := plain; change(&s); return s }
	specs := map[string]Spec{
		"plain": plain, "another principal": job("b", "{}").Spec,
		"granted again":  with(func(s *Spec) { s.Grants = "p 1 1" }),
		"approved again": with(func(s *Spec) { trust := *s.Trust; trust.InstalledAt = time.Unix(1, 0); s.Trust = &trust }),
		"less memory":    with(func(s *Spec) { s.Limits.MemoryMB = ptr[int64](64) }),
		"less CPU":       with(func(s *Spec) { s.Limits.CPUs = ptr(0.5) }),
		"fewer":          with(func(s *Spec) { s.Limits.PIDs = ptr[int64](64) }),
		"a mount":        with(func(s *Spec) { s.Mounts = []grant.Mount{{Source: "a"}} }),
		"elsewhere":      with(func(s *Spec) { s.Mounts = []grant.Mount{{Source: "a", Target: "/data"}} }),
		"writable":       with(func(s *Spec) { s.Mounts = []grant.Mount{{Source: "a", ReadOnly: ptr(false)}} }),
		"two mounts":     with(func(s *Spec) { s.Mounts = []grant.Mount{{Source: "a"}, {Source: "b"}} }),
		"odd names":      with(func(s *Spec) { s.Mounts = []grant.Mount{{Source: `a" "/mnt/a" false "b`}} }),
	}
	for one, a := range specs {
		for other, b := range specs {
			if a.SharesWorkers(b) != (one == other) {
				t.Errorf("%s and %s share workers: %t, want %t", one, other, a.SharesWorkers(b), one == other)
			}
		}
	}
	for what, same := range map[string]Spec{
		"the same in other words": with(func(s *Spec) { s.Mounts = []grant.Mount{{Source: "a", Target: "/mnt/a", ReadOnly: ptr(true)}} }),
	} {
		if !same.SharesWorkers(specs["a mount"]) {
			t.Error(what + ": shares no workers, want the same worker for the same mounts")
		}
	}
	if !with(func(s *Spec) { s.Limits.TimeoutSeconds = ptr(1.0) }).SharesWorkers(plain) {
		t.Error("a time-out needs a container of its own")
	}
}

func TestCeiling(t *testing.T) {
	c := Ceiling{Limits: sandbox.Limits{Memory: 256 << 20, CPUs: 2, PIDs: 64}, Timeout: time.Minute}
	for _, x := range []struct {
		asked   grant.Limits
		given   sandbox.Limits
		timeout time.Duration
		ok      bool
	}{
		{grant.Limits{}, sandbox.Limits{Memory: 256 << 20, CPUs: 1, PIDs: 64}, time.Minute, true},
		{grant.Limits{MemoryMB: ptr[int64](64), CPUs: ptr(2.0), PIDs: ptr[int64](10), TimeoutSeconds: ptr(0.5)},
			sandbox.Limits{Memory: 64 << 20, CPUs: 2, PIDs: 10}, 500 * time.Millisecond, true},
		{grant.Limits{MemoryMB: ptr[int64](257)}, sandbox.Limits{Memory: 256 << 20, CPUs: 1, PIDs: 64}, time.Minute, false},
		{grant.Limits{MemoryMB: ptr[int64](1 << 62)}, sandbox.Limits{Memory: 256 << 20, CPUs: 1, PIDs: 64}, time.Minute, false},
		{grant.Limits{CPUs: ptr(2.1)}, sandbox.Limits{Memory: 256 << 20, CPUs: 2, PIDs: 64}, time.Minute, false},
		{grant.Limits{PIDs: ptr[int64](65)}, sandbox.Limits{Memory: 256 << 20, CPUs: 1, PIDs: 64}, time.Minute, false},
		{grant.Limits{TimeoutSeconds: ptr(60.1)}, sandbox.Limits{Memory: 256 << 20, CPUs: 1, PIDs: 64}, time.Minute, false},
		{grant.Limits{TimeoutSeconds: ptr(1e300)}, sandbox.Limits{Memory: 256 << 20, CPUs: 1, PIDs: 64}, time.Minute, false},
	} {
		err := c.CheckGrant(t.Context(), &grant.Grant{Terms: grant.Terms{Limits: &x.asked}})
		if (err == nil) != x.ok || err != nil && !fault.Is(err, fault.KindInvalid) {
			t.Errorf("%+v: got %v, want allowed=%v", x.asked, err, x.ok)
		}
		if given := c.of(x.asked); given != x.given || c.timeout(x.asked) != x.timeout {
			t.Errorf("%+v: got %+v for %v, want %+v for %v", x.asked, given, c.timeout(x.asked), x.given, x.timeout)
		}
	}
}

func TestReviewEndsWhatStandsNoMore(t *testing.T) {
	m := &machine{behave: func(id string, args []jsontext.Value) ([]string, bool) {
		if string(args[1]) == `{"wait":true}` {
			time.Sleep(time.Hour)
		}
		return polite(id, args)
	}}
	inPool(t, m, ample, func(t *testing.T, p *Pool) {
		for _, principal := range []string{"a", "b"} {
			if _, err := within(time.Minute, p, job(principal, "{}")); err != nil {
				t.Fatal(err)
			}
		}
		p.EndInvalid(func(Spec) bool { return true })
		synctest.Wait()
		if n := m.running.Load(); n != 2 {
			t.Fatalf("%d workers, want 2", n)
		}
		result := make(chan error)
		go func() { _, err := within(time.Minute, p, job("a", `{"wait":true}`)); result <- err }()
		synctest.Wait()
		p.EndInvalid(func(s Spec) bool { return s.Principal != "a" })
		if err := <-result; !lost(err) {
			t.Errorf("the call under way: got %v, want a lost worker", err)
		}
		synctest.Wait()
		if n := m.running.Load(); n != 1 {
			t.Errorf("%d workers, want 1", n)
		}
	})
}

// A worker that asks to be replaced is, and the next call doesn't wait for its successor's start.
func TestWornWorkersAreReplaced(t *testing.T) {
	m := &machine{starts: time.Second, behave: func(id string, args []jsontext.Value) ([]string, bool) {
		return []string{fmt.Sprintf(`{"id":%q,"ok":true,"retire":true,"output":1}`, id)}, true
	}}
	inPool(t, m, ample, func(t *testing.T, p *Pool) {
		for i := range 3 {
			began := time.Now()
			got, err := within(time.Minute, p, job("a", "{}"))
			if took := time.Since(began); err != nil || got != "1" || i > 0 && took > 0 {
				t.Errorf("call %d: got %q, %v after %v; want 1, at once from the second on", i, got, err, took)
			}
			time.Sleep(2 * time.Second)
		}
		if n := m.running.Load(); n != 1 || m.launched.Load() != 4 {
			t.Errorf("%d workers of %d launched, want 1 of 4", n, m.launched.Load())
		}
	})
}

func TestWarmTakesHalfOfAllAtMost(t *testing.T) {
	m := &machine{behave: polite, starts: time.Second}
	inPool(t, m, Limits{PerHandler: 2, Total: 4, Queue: 4, Idle: time.Minute}, func(t *testing.T, p *Pool) {
		for i := range 6 {
			p.Warm(job(fmt.Sprint(i), "{}").Spec)
			p.Warm(job("0", "{}").Spec)
		}
		time.Sleep(2 * time.Second)
		if n := m.running.Load(); n != 3 {
			t.Errorf("%d workers, want 3", n)
		}
		began := time.Now()
		if _, err := within(time.Minute, p, job("0", "{}")); err != nil || time.Since(began) > 0 {
			t.Errorf("got %v after %v, want an answer at once", err, time.Since(began))
		}
		time.Sleep(2 * time.Minute)
		if n := m.running.Load(); n != 0 {
			t.Errorf("%d workers are kept that nobody called", n)
		}
	})
}

// A call that comes while a worker starts for it waits for that one.
func TestCallMeetsAWorkerThatStarts(t *testing.T) {
	m := &machine{behave: polite, starts: 2 * time.Second}
	inPool(t, m, ample, func(t *testing.T, p *Pool) {
		p.Warm(job("a", "{}").Spec)
		time.Sleep(time.Second)
		began := time.Now()
		if _, err := within(time.Minute, p, job("a", "{}")); err != nil || time.Since(began) != time.Second || m.launched.Load() != 1 {
			t.Errorf("got %v after %v, of %d workers; want an answer after a second, of one", err, time.Since(began), m.launched.Load())
		}
	})
}

// The time that a grant gives is the handler's: waiting for a worker doesn't use it up.
func TestTimeOfTheGrant(t *testing.T) {
	m := &machine{starts: 10 * time.Second, behave: func(id string, args []jsontext.Value) ([]string, bool) {
		if string(args[1]) == `{"wait":true}` {
			time.Sleep(time.Hour)
		}
		return polite(id, args)
	}}
	inPool(t, m, ample, func(t *testing.T, p *Pool) {
		j := job("a", "{}")
		j.Limits.TimeoutSeconds = ptr(2.0)
		if _, err := within(time.Minute, p, j); err != nil {
			t.Error(err)
		}
		j.Args = jsontext.Value(`{"wait":true}`)
		began := time.Now()
		if _, err := within(time.Minute, p, j); errors.Is(err, ErrBusy) || err == nil || time.Since(began) != 2*time.Second {
			t.Errorf("got %v after %v, want an error after two seconds", err, time.Since(began))
		}
	})
}
