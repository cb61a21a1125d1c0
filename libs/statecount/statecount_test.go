package statecount_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rumi-ai/rumi/libs/statecount"
)

// want checks what a scrape shows of a gauge: its lines, joined by "; ".
func want(t *testing.T, g prometheus.Collector, lines string) {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(g)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, family := range families {
		for _, m := range family.Metric {
			labels := ""
			for _, l := range m.Label {
				labels += fmt.Sprintf("{%s=%q}", l.GetName(), l.GetValue())
			}
			got = append(got, fmt.Sprintf("%s%s %v", family.GetName(), labels, m.Gauge.GetValue()))
		}
	}
	if all := strings.Join(got, "; "); all != lines {
		t.Errorf("got %q, want %q", all, lines)
	}
}

// TestMemory: every state of the set is there, no other one, and a change is seen by the next scrape.
func TestMemory(t *testing.T) {
	counts := statecount.Counts{"open": 2, "unknown to this version": 1}
	g := statecount.New("rumi_things", "Things.", "state", []string{"open", "closed"}, statecount.Memory(func() statecount.Counts { return counts }))
	want(t, g, `rumi_things{state="closed"} 0; rumi_things{state="open"} 2`)
	counts = statecount.Counts{"closed": 7}
	want(t, g, `rumi_things{state="closed"} 7; rumi_things{state="open"} 0`)
	want(t, statecount.NewTotal("rumi_things", "Things.", statecount.Memory(func() statecount.Counts { return statecount.Counts{"": 3} })), `rumi_things 3`)
}

// TestCached: a query is asked once in five seconds, however often is scraped.
func TestCached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		g := statecount.NewTotal("rumi_things", "Things.", statecount.Cached(func(context.Context) (statecount.Counts, error) {
			asked++
			return statecount.Counts{"": asked}, nil
		}))
		for range 100 {
			want(t, g, `rumi_things 1`)
			time.Sleep(40 * time.Millisecond)
		}
		time.Sleep(2 * time.Second)
		want(t, g, `rumi_things 2`)
		if asked != 2 {
			t.Errorf("the query was asked %d times, want 2", asked)
		}
	})
}

// TestCachedFails: while the query fails the last counts stand for a minute, and then none.
func TestCachedFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var away atomic.Bool
		g := statecount.NewTotal("rumi_things", "Things.", statecount.Cached(func(context.Context) (statecount.Counts, error) {
			if away.Load() {
				return nil, errors.New("the database is away")
			}
			return statecount.Counts{"": 1}, nil
		}))
		want(t, g, `rumi_things 1`)
		away.Store(true)
		time.Sleep(50 * time.Second)
		want(t, g, `rumi_things 1`)
		time.Sleep(20 * time.Second)
		want(t, g, ``)
		away.Store(false)
		want(t, g, `rumi_things 1`)
	})
}

// TestCachedHangs: a scrape waits a second for a query that hangs, and no scrape starts a second one.
func TestCachedHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var under atomic.Int32
		g := statecount.NewTotal("rumi_things", "Things.", statecount.Cached(func(ctx context.Context) (statecount.Counts, error) {
			under.Add(1)
			<-ctx.Done()
			return nil, ctx.Err()
		}))
		for range 3 {
			began := time.Now()
			want(t, g, ``)
			if took := time.Since(began); took != time.Second {
				t.Errorf("a scrape took %v, want 1s", took)
			}
		}
		if n := under.Load(); n != 1 {
			t.Errorf("%d queries were begun, want 1", n)
		}
		time.Sleep(time.Minute) // ends the query
	})
}
