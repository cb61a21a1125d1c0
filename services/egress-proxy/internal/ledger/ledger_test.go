package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// memory is a Store whose database is out of reach at will.
type memory struct {
	mu      sync.Mutex
	down    error
	during  func() // happens while Record runs
	writes  int
	denials map[string]map[Key]Denial
	usage   map[spender]int64
}

func newMemory() *memory {
	return &memory{denials: map[string]map[Key]Denial{}, usage: map[spender]int64{}}
}

func (m *memory) Record(_ context.Context, denials []Denial, usage []Usage, day int64) (map[string]int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.during != nil {
		m.during()
	}
	if m.down != nil {
		return nil, m.down
	}
	if len(denials)+len(usage) > 0 {
		m.writes++
	}
	for _, d := range denials {
		if m.denials[d.PackID] == nil {
			m.denials[d.PackID] = map[Key]Denial{}
		}
		if old, ok := m.denials[d.PackID][d.Key]; ok {
			d.Count, d.FirstSeen = d.Count+old.Count, old.FirstSeen
		}
		m.denials[d.PackID][d.Key] = d
	}
	for _, u := range usage {
		m.usage[spender{u.PackID, u.Day}] += u.Bytes
	}
	totals := map[string]int64{}
	for who, n := range m.usage {
		if who.day == day {
			totals[who.packID] = n
		}
	}
	return totals, nil
}

func (m *memory) Denials(_ context.Context, packID string) (list []Denial, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range m.denials[packID] {
		list = append(list, d)
	}
	return list, m.down
}

func (m *memory) Forget(_ context.Context, packID string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.denials, packID)
	return m.down
}

func (m *memory) set(down error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.down = down
}

func host(i int) Key {
	return Key{Host: fmt.Sprintf("h%d.com", i), Port: 443, Method: "GET", Reason: "grant_denied"}
}

func (m *memory) denial(packID string, key Key) Denial {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.denials[packID][key]
}

func (m *memory) written() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.writes
}

func TestDenials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, logs := newMemory(), &strings.Builder{}
		l := New(store, 0, slog.New(slog.NewTextHandler(logs, nil)))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go l.Follow(ctx)
		pass := func(d time.Duration) { time.Sleep(d); synctest.Wait() }

		// However many there are, the store hears of them once a second.
		began := time.Now()
		for range 1000 {
			l.Note("p", host(1))
		}
		pass(flushEvery / 2)
		l.Note("p", host(1))
		if store.written() != 0 {
			t.Errorf("%d writes", store.written())
		}
		pass(flushEvery)
		if d := store.denial("p", host(1)); store.written() != 1 || d.Count != 1001 || !d.FirstSeen.Equal(began) || !d.LastSeen.Equal(began.Add(flushEvery/2)) {
			t.Errorf("after %d writes %+v", store.written(), d)
		}
		pass(time.Hour)
		if store.written() != 1 {
			t.Errorf("%d writes while nothing happened", store.written())
		}

		// A store that is away loses nothing, and is complained of once.
		store.set(errors.New("away"))
		l.Note("p", host(1))
		pass(3 * flushEvery)
		store.mu.Lock()
		store.during = func() { l.Note("p", host(1)); l.Note("p", host(2)); l.Note("q", host(1)) }
		store.mu.Unlock()
		pass(flushEvery)
		store.mu.Lock()
		store.during, store.down = nil, nil
		store.mu.Unlock()
		list, err := l.Denials(ctx, "p")
		if err != nil || len(list) != 2 || store.denial("p", host(1)).Count != 1003 || store.denial("p", host(2)).Count != 1 || store.denial("q", host(1)).Count != 1 {
			t.Errorf("%v: %+v", err, list)
		}
		if n := strings.Count(logs.String(), "away"); n != 1 {
			t.Errorf("%d complaints", n)
		}

		// Memory is bounded; the least recent give way.
		for i := range 3 * MaxDenials {
			l.Note("p", host(0)) // stays, since it is seen again and again
			l.Note("p", host(10+i))
		}
		if err := store.Forget(ctx, "p"); err != nil {
			t.Fatal(err)
		}
		if err := l.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		kept, _ := store.Denials(ctx, "p")
		often, last, first := store.denial("p", host(0)), store.denial("p", host(10+3*MaxDenials-1)), store.denial("p", host(10))
		if len(kept) != MaxDenials || often.Count != 3*MaxDenials || last.Count != 1 || first.Count != 0 {
			t.Errorf("%d kept, %+v", len(kept), often)
		}

		l.Note("p", host(1))
		if err := l.Forget(ctx, "p"); err != nil {
			t.Fatal(err)
		}
		if list, err := l.Denials(ctx, "p"); err != nil || list != nil {
			t.Errorf("forgotten: %v, %v", list, err)
		}
	})
}

func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // begins at midnight UTC
		ctx, store := t.Context(), newMemory()
		discard := slog.New(slog.DiscardHandler)
		open := func() *Ledger {
			l := New(store, 1000, discard)
			if err := l.Flush(ctx); err != nil {
				t.Fatal(err)
			}
			return l
		}
		l := open()
		spend := func(l *Ledger, packID string, n int, want bool) {
			t.Helper()
			if l.Spend(packID, n) != want {
				t.Errorf("%s spends %d: %v", packID, n, !want)
			}
		}
		spend(l, "p", 1001, false)
		spend(l, "p", 600, true)
		spend(l, "p", 401, false) // and takes nothing
		spend(l, "p", 0, true)
		spend(l, "q", 1000, true)
		store.during = func() { spend(l, "p", 100, true); spend(l, "p", 301, false) } // what is being stored counts
		if err := l.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		store.during = nil
		spend(l, "p", 301, false)

		// A store that is away counts nothing twice.
		store.set(errors.New("away"))
		for range 3 {
			if l.Flush(ctx) == nil {
				t.Fatal("no error")
			}
		}
		spend(l, "p", 301, false)
		store.set(nil)
		if err := l.Flush(ctx); err != nil {
			t.Fatal(err)
		}

		// Another process knows of it, and this one of what happens there.
		other := open()
		spend(other, "p", 301, false)
		spend(other, "p", 200, true)
		for _, x := range []*Ledger{other, l} {
			if err := x.Flush(ctx); err != nil {
				t.Fatal(err)
			}
		}
		spend(l, "p", 101, false)
		spend(l, "p", 100, true)
		spend(l, "p", 1, false)
		spend(l, "p", 0, true)

		time.Sleep(24*time.Hour - time.Nanosecond)
		spend(l, "p", 1, false)
		time.Sleep(time.Nanosecond)
		spend(l, "p", 1000, true) // before the old day's last bytes are stored
		spend(l, "p", 1, false)
		if err := l.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		day := today()
		if old, now := store.usage[spender{"p", day - 1}], store.usage[spender{"p", day}]; old != 1000 || now != 1000 {
			t.Errorf("stored %d of the old day and %d of the new", old, now)
		}
		spend(l, "p", 1, false)
		if len(l.budget.unstored) != 0 {
			t.Errorf("left in memory: %v", l.budget.unstored)
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

func BenchmarkNote(b *testing.B) {
	l := New(newMemory(), 0, slog.New(slog.DiscardHandler))
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			l.Note("p", Key{Host: "x.com", Port: uint16(i % 1000), Method: "GET"})
		}
	})
}
