package snapshot_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rumi-ai/rumi/libs/store/snapshot"
)

const interval = 20 * time.Millisecond

// database has one row and its revision. It may fail, and hang.
type database struct {
	mu       sync.Mutex
	row      string
	revision int64
	failing  bool
	hanging  bool
	slow     time.Duration // between reading and returning
	asked    int
	loads    int
}

func (d *database) write(row string) {
	d.set(func() { d.row = row; d.revision++ })
}

func (d *database) set(change func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change()
}

func (d *database) do(ctx context.Context) error {
	d.mu.Lock()
	failing, hanging := d.failing, d.hanging
	d.mu.Unlock()
	switch {
	case hanging:
		<-ctx.Done()
		return ctx.Err()
	case failing:
		return errors.New("down")
	}
	return nil
}

func (d *database) Revision(ctx context.Context) (int64, error) {
	d.set(func() { d.asked++ })
	err := d.do(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.revision, err
}

func (d *database) Load(ctx context.Context, _ string) (string, int64, error) {
	err := d.do(ctx)
	d.mu.Lock()
	d.loads++
	row, revision, slow := d.row, d.revision, d.slow
	d.slow = 0
	d.mu.Unlock()
	time.Sleep(slow)
	return row, revision, err
}

func (d *database) config() snapshot.Config[string] {
	return snapshot.Config[string]{Name: "things", Interval: interval, Log: slog.New(slog.DiscardHandler), Revision: d.Revision, Load: d.Load}
}

func open(t *testing.T, cfg snapshot.Config[string]) *snapshot.Snapshot[string] {
	t.Helper()
	s, err := snapshot.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// follow follows for so long.
func follow(t *testing.T, s *snapshot.Snapshot[string], d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	if err := s.Follow(ctx); err != nil {
		t.Errorf("Follow = %v, want nil at the end of its context", err)
	}
}

func TestOpenReportsWhyThereIsNoValue(t *testing.T) {
	d := &database{failing: true}
	if s, err := snapshot.Open(t.Context(), d.config()); err == nil || s != nil {
		t.Errorf("Open = %v, %v, want the error of Load", s, err)
	}
}

// Rows are read when the revision says that they have changed, and not otherwise.
func TestFollowTakesOverWhatOthersWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &database{row: "a", revision: 1}
		s := open(t, d.config())
		follow(t, s, 10*interval+time.Millisecond)
		if d.asked != 10 || d.loads != 1 {
			t.Errorf("the revision was read %d times and the rows %d times, want 10 and 1", d.asked, d.loads)
		}
		d.write("b")
		if got := s.Value(); got != "a" {
			t.Errorf("before it follows the value is %q, want %q", got, "a")
		}
		follow(t, s, interval+time.Millisecond)
		if s.Value() != "b" || s.Revision() != 2 || d.loads != 2 {
			t.Errorf("the value is %q of revision %d after %d loads, want %q of 2 after 2", s.Value(), s.Revision(), d.loads, "b")
		}
	})
}

// A reload that read before a write must not publish after one that read behind it: a revoked grant would be back.
func TestTheValueNeverGoesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &database{row: "granted", revision: 1}
		s := open(t, d.config())
		d.set(func() { d.slow = time.Second })
		var reloads sync.WaitGroup
		reloads.Go(func() {
			if err := s.Reload(t.Context()); err != nil {
				t.Errorf("the first Reload = %v, want nil", err)
			}
		})
		synctest.Wait() // it has read
		d.write("revoked")
		reloads.Go(func() {
			if err := s.Reload(t.Context()); err != nil {
				t.Errorf("the second Reload = %v, want nil", err)
			}
			if got := s.Value(); got != "revoked" {
				t.Errorf("after the second Reload the value is %q, want %q", got, "revoked")
			}
		})
		reloads.Wait()
		if got := s.Value(); got != "revoked" {
			t.Errorf("in the end the value is %q, want %q", got, "revoked")
		}
	})
}

func TestAnErrorLeavesTheValue(t *testing.T) {
	d := &database{row: "a", revision: 1}
	s := open(t, d.config())
	d.write("b")
	d.failing = true
	if err := s.Reload(t.Context()); err == nil {
		t.Error("Reload = nil, want the error of Load")
	}
	if got := s.Value(); got != "a" {
		t.Errorf("the value is %q, want %q", got, "a")
	}
}

// The lease counts from the last comparison that worked, counted from its beginning. A database that hangs is given up, and asked again.
func TestLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged bytes.Buffer
		d := &database{row: "a", revision: 1}
		cfg := d.config()
		cfg.Log = slog.New(slog.NewTextHandler(&logged, nil))
		s := open(t, cfg)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Follow(ctx) }()
		fresh := func(what string, after time.Duration, want bool) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			if got := s.Fresh(time.Now()); got != want {
				t.Errorf("%s: fresh is %v, want %v", what, got, want)
			}
		}
		fresh("opened", 0, true)
		fresh("followed for long", 2*snapshot.Lease+time.Millisecond, true)
		d.set(func() { d.failing = true })
		fresh("failing within the lease", snapshot.Lease-time.Second, true)
		fresh("failing beyond the lease", time.Second, false)
		d.set(func() { d.failing = false })
		fresh("working again", interval+time.Millisecond, true)
		d.set(func() { d.hanging = true })
		fresh("hanging beyond the lease", snapshot.Lease+interval+time.Millisecond, false)
		d.set(func() { d.hanging = false })
		fresh("asked again", snapshot.Lease+interval+time.Millisecond, true)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Follow = %v, want nil at the end of its context", err)
		}
		if got := logged.String(); strings.Count(got, "can't follow things") != 2 || strings.Count(got, "things are followed again") != 2 {
			t.Errorf("want each failure, and the end of each, logged once; logged\n%s", got)
		}
	})
}

// Without a write the value is made anew when it has expired, and those who listen are told, after Value has it.
func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &database{row: "a", revision: 1}
		expires := time.Now().Add(3*interval - time.Millisecond)
		cfg := d.config()
		cfg.Expired = func(value string, now time.Time) bool { return value == "a" && !now.Before(expires) }
		cfg.Load = func(ctx context.Context, before string) (string, int64, error) {
			if before == "" {
				return d.Load(ctx, before)
			}
			return before + " expired", 1, nil
		}
		var s *snapshot.Snapshot[string]
		var told []string
		cfg.Published = func(value string) { told = append(told, value+", "+s.Value()) }
		s = open(t, cfg)
		follow(t, s, 2*interval+time.Millisecond)
		if got := s.Value(); got != "a" || told != nil {
			t.Errorf("before the expiry the value is %q and listeners were told %v, want %q and nothing", got, told, "a")
		}
		follow(t, s, 3*interval)
		if want := []string{"a expired, a expired"}; s.Value() != "a expired" || !slices.Equal(told, want) {
			t.Errorf("after it the value is %q and listeners were told %v, want %q and %v", s.Value(), told, "a expired", want)
		}
	})
}

// A change is measured when it is published, whoever made it; what isn't known is left out.
func TestPropagation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		d := &database{row: "a", revision: 1}
		changed := time.Now()
		failing := false
		cfg := d.config()
		cfg.Propagation = snapshot.NewPropagation(registry, "things", func(ctx context.Context) (int64, time.Time, error) {
			if failing {
				return 0, time.Time{}, errors.New("down")
			}
			revision, err := d.Revision(ctx)
			return revision, changed, err
		})
		s := open(t, cfg)
		measured := func(what string, count uint64, sum time.Duration) {
			t.Helper()
			families, err := registry.Gather()
			if err != nil {
				t.Fatal(err)
			}
			h := families[0].Metric[0].Histogram
			if h.GetSampleCount() != count || h.GetSampleSum() != sum.Seconds() {
				t.Errorf("%s: measured %d changes of %vs, want %d of %vs", what, h.GetSampleCount(), h.GetSampleSum(), count, sum.Seconds())
			}
		}
		follow(t, s, 2*interval+time.Millisecond)
		measured("unchanged", 0, 0)
		d.write("b")
		changed = time.Now()
		follow(t, s, interval+time.Millisecond)
		measured("followed", 1, interval)
		d.write("c")
		changed = time.Time{} // by an older version
		follow(t, s, interval+time.Millisecond)
		failing = true
		d.write("d")
		follow(t, s, interval+time.Millisecond)
		if s.Value() != "d" {
			t.Errorf("the value is %q, want d", s.Value())
		}
		measured("unknown", 1, interval)
	})
}
