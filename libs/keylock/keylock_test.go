package keylock

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func (l *Locks) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.entries)
}

func lock(t *testing.T, l *Locks, key string) func() {
	t.Helper()
	unlock, err := l.Lock(t.Context(), key)
	if err != nil {
		t.Fatalf("Lock(%q) = %v, want no error", key, err)
	}
	return unlock
}

func TestOneHolderAKeyAndNothingKept(t *testing.T) {
	var l Locks
	var counts [3]int // each guarded by the lock of its key; the race detector sees it if not
	var all sync.WaitGroup
	for i := range 300 {
		all.Go(func() {
			defer lock(t, &l, strconv.Itoa(i%3))()
			counts[i%3]++
		})
	}
	all.Wait()
	if counts != [3]int{100, 100, 100} {
		t.Errorf("counts %v, want 100 each", counts)
	}
	if n := l.size(); n != 0 {
		t.Errorf("%d entries when all are unlocked, want 0", n)
	}
}

func TestKeysDoNotWaitForEachOther(t *testing.T) {
	var l Locks
	defer lock(t, &l, "a")()
	lock(t, &l, "b")()
	if n := l.size(); n != 1 {
		t.Errorf("%d entries while one key is locked, want 1", n)
	}
}

func TestWaitingEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l Locks
		unlock := lock(t, &l, "a")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := l.Lock(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Lock of a held key = %v, want DeadlineExceeded", err)
		}
		unlock()
		again, err := l.Lock(ctx, "a")
		if err != nil {
			t.Fatalf("Lock of a free key with a context that has ended = %v, want no error", err)
		}
		again()
		if n := l.size(); n != 0 {
			t.Errorf("%d entries after a waiter gave up, want 0", n)
		}
	})
}
