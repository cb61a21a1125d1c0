package audit_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/origin"
)

// disk is an audit log whose writes take a millisecond of virtual time.
type disk struct {
	mu      sync.Mutex
	full    error
	entries []audit.Entry
	actors  []string
}

func (d *disk) Submit(ctx context.Context, entries ...audit.Entry) func() error {
	return func() error {
		time.Sleep(time.Millisecond)
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.full == nil {
			d.entries = append(d.entries, entries...)
			d.actors = append(d.actors, origin.Of(ctx).Actor)
		}
		return d.full
	}
}

func (d *disk) set(full error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.full = full
}

func (d *disk) taken() []audit.Entry {
	d.mu.Lock()
	defer d.mu.Unlock()
	entries := d.entries
	d.entries = nil
	return entries
}

// accounted is how many refusals entries stand for.
func accounted(entries []audit.Entry) (n int64) {
	for _, e := range entries {
		if c, ok := e.Details["count"].(int64); ok {
			n += c
		} else {
			n++
		}
	}
	return n
}

func TestRefusalsWithoutEndAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &disk{}
		r := audit.NewRefusals(d, 24*60, slog.New(slog.DiscardHandler)) // one a minute
		ctx, cancel := context.WithCancel(t.Context())
		go r.Run(ctx)
		time.Sleep(time.Second / 2)
		refuse := func(pack, reason string) (func() error, bool) {
			ctx := origin.With(ctx, origin.Origin{Actor: "pack:" + pack, RequestID: "r"})
			return r.Submit(ctx, pack, reason, audit.Entry{Category: audit.Security, Action: "network_denied", OwnerPack: pack})
		}
		must := func(pack, reason string, wantAlone bool) {
			t.Helper()
			wait, single := refuse(pack, reason)
			if err := wait(); err != nil || single != wantAlone {
				t.Fatalf("single %v, want %v; %v", single, wantAlone, err)
			}
		}
		next := func() { time.Sleep(time.Second); synctest.Wait() }

		for range 24 * 60 { // as many as it has, at once
			refuse("p", "x")
		}
		must("p", "x", true) // the first of those that are counted
		began := time.Now()
		for i := range 10_000 {
			reason := "a"
			if i%10 == 0 {
				reason = "b"
			}
			must("p", reason, false)
		}
		if time.Since(began) > 2*time.Millisecond {
			t.Errorf("what is counted waits for the disk: %v, want 2 ms at most", time.Since(began))
		}
		must("q", "x", true) // nobody pays for another
		before := accounted(d.taken())
		next()
		summary := d.taken()
		if before != 2 || len(summary) != 1 || d.actors[len(d.actors)-1] != "pack:p" {
			t.Fatalf("%d refusals before, then %+v by %v; want 2, and one summary by pack:p", before, summary, d.actors)
		}
		if e := summary[0]; e.Action != "network_denied" || e.Category != audit.Security || e.Success || e.OwnerPack != "p" || e.Details["count"] != int64(10_000) ||
			fmt.Sprint(e.Details["by_reason"]) != "map[a:9000 b:1000]" || e.Details["first_ts"] == "" {
			t.Errorf("summary is %+v, want the count of 10,000 refusals of p, by reason", e)
		}

		// However long it goes on: three entries a second at most.
		n, seconds := 0, 100
		for range seconds * 100 {
			refuse("p", "x")
			n++
			time.Sleep(10 * time.Millisecond)
		}
		next()
		entries := d.taken()
		if len(entries) > 3*seconds {
			t.Errorf("%d entries in %d seconds, want at most three a second", len(entries), seconds)
		}
		// Those that were written single were handed to a disk that this loop did not wait for.
		if got := accounted(entries); got < int64(n)-3 || got > int64(n) {
			t.Errorf("%d refusals, of which the entries account for %d; want all but three at most", n, got)
		}

		// A disk that is full fails every refusal, counted or not, and what is unwritten is written when it can be.
		must("p", "x", true)
		must("p", "x", false)
		d.taken()
		d.set(errors.New("full"))
		next()
		for range 3 {
			if wait, _ := refuse("p", "x"); wait() == nil {
				t.Error("a refusal was answered without an entry")
			}
		}
		next()
		d.set(nil)
		next()
		if got := accounted(d.taken()); got < 2 || got > 4 { // those that failed may be told of, too
			t.Errorf("%d accounted for after the disk was full", got)
		}

		// A day later it has all of its entries again.
		time.Sleep(25 * time.Hour)
		must("p", "x", true)
		must("p", "x", true)
		must("p", "x", true)
		cancel()
		synctest.Wait()
		if err := r.Flush(t.Context()); err != nil {
			t.Errorf("got %v, want no error", err)
		}
	})
}

func TestRefusalsWithoutBound(t *testing.T) {
	d := &disk{}
	r := audit.NewRefusals(d, 0, slog.New(slog.DiscardHandler))
	for range 100 {
		wait, single := r.Submit(t.Context(), "p", "x", audit.Entry{Category: audit.Security, Action: "x"})
		if err := wait(); err != nil || !single {
			t.Fatalf("the refusal is written as an entry of its own: %t, %v; want true", single, err)
		}
	}
	if n := len(d.taken()); n != 100 {
		t.Errorf("%d entries, want 100", n)
	}
}
