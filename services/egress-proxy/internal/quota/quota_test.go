package quota

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// memory is a Store whose database is out of reach at will.
type memory struct {
	mu     sync.Mutex
	down   error
	during func() // happens while AddUsage runs
	usage  map[packDay]int64
}

func (m *memory) AddUsage(_ context.Context, usage []Usage, day int64) (map[string]int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.during != nil {
		m.during()
	}
	if m.down != nil {
		return nil, m.down
	}
	for _, u := range usage {
		m.usage[packDay{u.PackID, u.Day}] += u.Bytes
	}
	totals := map[string]int64{}
	for key, n := range m.usage {
		if key.day == day {
			totals[key.packID] = n
		}
	}
	return totals, nil
}

func (m *memory) set(down error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.down = down
}

func TestQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // begins at midnight UTC
		ctx, store := t.Context(), &memory{usage: map[packDay]int64{}}
		discard := slog.New(slog.DiscardHandler)
		open := func() *Quota {
			q := New(store, 1000, discard)
			if err := q.Flush(ctx); err != nil {
				t.Fatal(err)
			}
			return q
		}
		q := open()
		spend := func(q *Quota, packID string, n int, want bool) {
			t.Helper()
			if q.Spend(packID, n) != want {
				t.Errorf("Spend(%q, %d) = %v, want %v", packID, n, !want, want)
			}
		}
		spend(q, "p", 1001, false)
		spend(q, "p", 600, true)
		spend(q, "p", 401, false) // and takes nothing
		spend(q, "p", 0, true)
		spend(q, "q", 1000, true)
		store.during = func() { spend(q, "p", 100, true); spend(q, "p", 301, false) } // what is being stored counts
		if err := q.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		store.during = nil
		spend(q, "p", 301, false)

		// A store that is away counts nothing twice.
		store.set(errors.New("away"))
		for range 3 {
			if q.Flush(ctx) == nil {
				t.Fatal("Flush succeeded with a store that is away")
			}
		}
		spend(q, "p", 301, false)
		store.set(nil)
		if err := q.Flush(ctx); err != nil {
			t.Fatal(err)
		}

		// Another replica sees it, and this one sees what is spent there.
		other := open()
		spend(other, "p", 301, false)
		spend(other, "p", 200, true)
		for _, x := range []*Quota{other, q} {
			if err := x.Flush(ctx); err != nil {
				t.Fatal(err)
			}
		}
		spend(q, "p", 101, false)
		spend(q, "p", 100, true)
		spend(q, "p", 1, false)
		spend(q, "p", 0, true)

		time.Sleep(24*time.Hour - time.Nanosecond)
		spend(q, "p", 1, false)
		time.Sleep(time.Nanosecond)
		spend(q, "p", 1000, true) // before the old day's last bytes are stored
		spend(q, "p", 1, false)
		if err := q.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		day := today()
		if old, now := store.usage[packDay{"p", day - 1}], store.usage[packDay{"p", day}]; old != 1000 || now != 1000 {
			t.Errorf("stored %d of the old day and %d of the new", old, now)
		}
		spend(q, "p", 1, false)
		if len(q.budget.unstored) != 0 {
			t.Errorf("left in memory: %v, want nothing", q.budget.unstored)
		}

		lowered := New(store, 10, discard)
		if err := lowered.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		spend(lowered, "p", 0, true)
		spend(lowered, "p", 1, false)
		off := New(store, 0, discard)
		spend(off, "p", 1<<30, true)
	})
}
