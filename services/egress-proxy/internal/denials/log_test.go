package denials

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

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/flush"
)

// memory is a Store whose database is out of reach at will.
type memory struct {
	mu      sync.Mutex
	down    error
	during  func() // happens while AddDenials runs
	writes  int
	denials map[string]map[Key]Denial
}

func newMemory() *memory { return &memory{denials: map[string]map[Key]Denial{}} }

func (m *memory) AddDenials(_ context.Context, denials []Denial) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.during != nil {
		m.during()
	}
	if m.down != nil {
		return m.down
	}
	m.writes++
	for _, d := range denials {
		if m.denials[d.PackID] == nil {
			m.denials[d.PackID] = map[Key]Denial{}
		}
		if old, ok := m.denials[d.PackID][d.Key]; ok {
			d.Count, d.FirstSeen = d.Count+old.Count, old.FirstSeen
		}
		m.denials[d.PackID][d.Key] = d
	}
	return nil
}

func (m *memory) Denials(_ context.Context, packID string) (list []Denial, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range m.denials[packID] {
		list = append(list, d)
	}
	return list, m.down
}

func (m *memory) ForgetDenials(_ context.Context, packID string) error {
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
		l := New(store, slog.New(slog.NewTextHandler(logs, nil)))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go l.Run(ctx)
		pass := func(d time.Duration) { time.Sleep(d); synctest.Wait() }

		// However many there are, the store hears of them once a second.
		began := time.Now()
		for range 1000 {
			l.Add("p", host(1))
		}
		pass(flush.Interval / 2)
		l.Add("p", host(1))
		if store.written() != 0 {
			t.Errorf("got %d writes before the interval has passed, want none", store.written())
		}
		pass(flush.Interval)
		if d := store.denial("p", host(1)); store.written() != 1 || d.Count != 1001 || !d.FirstSeen.Equal(began) || !d.LastSeen.Equal(began.Add(flush.Interval/2)) {
			t.Errorf("got %+v after %d writes, want 1001 refusals in one write", d, store.written())
		}
		pass(time.Hour)
		if store.written() != 1 {
			t.Errorf("got %d writes after an hour without refusals, want the 1 of before", store.written())
		}

		// A store that is away loses nothing, and is logged once.
		store.set(errors.New("away"))
		l.Add("p", host(1))
		pass(3 * flush.Interval)
		store.mu.Lock()
		store.during = func() { l.Add("p", host(1)); l.Add("p", host(2)); l.Add("q", host(1)) }
		store.mu.Unlock()
		pass(flush.Interval)
		store.mu.Lock()
		store.during, store.down = nil, nil
		store.mu.Unlock()
		list, err := l.List(ctx, "p")
		if err != nil || len(list) != 2 || store.denial("p", host(1)).Count != 1003 || store.denial("p", host(2)).Count != 1 || store.denial("q", host(1)).Count != 1 {
			t.Errorf("got %+v, %v, want what was added before, during and after the failure, once", list, err)
		}
		if n := strings.Count(logs.String(), "away"); n != 1 {
			t.Errorf("the log names the failing store %d times, want once", n)
		}

		// Memory is bounded; the least recent give way.
		for i := range 3 * MaxDenials {
			l.Add("p", host(0)) // stays, since it is seen again and again
			l.Add("p", host(10+i))
		}
		if err := store.ForgetDenials(ctx, "p"); err != nil {
			t.Fatal(err)
		}
		if err := l.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		kept, _ := store.Denials(ctx, "p")
		often, last, first := store.denial("p", host(0)), store.denial("p", host(10+3*MaxDenials-1)), store.denial("p", host(10))
		if len(kept) != MaxDenials || often.Count != 3*MaxDenials || last.Count != 1 || first.Count != 0 {
			t.Errorf("got %d denials, %+v, %+v and %+v, want %d: the most recent", len(kept), often, last, first, MaxDenials)
		}

		l.Add("p", host(1))
		if err := l.Forget(ctx, "p"); err != nil {
			t.Fatal(err)
		}
		if list, err := l.List(ctx, "p"); err != nil || list != nil {
			t.Errorf("got %v, %v of a forgotten pack, want none", list, err)
		}
	})
}

func BenchmarkAdd(b *testing.B) {
	l := New(newMemory(), slog.New(slog.DiscardHandler))
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			l.Add("p", Key{Host: "x.com", Port: uint16(i % 1000), Method: "GET"})
		}
	})
}
