// Package keylock has a mutex for each key, such as a pack's id, in one process. Keys come from requests, so a map of
// mutexes that only grows would be memory for a stranger to take: an entry exists only while somebody holds its lock or
// waits for it.
package keylock

import (
	"context"
	"fmt"
	"sync"
)

// Locks is a mutex for each key. Its zero value is ready to use. It must not be copied.
type Locks struct {
	mu      sync.Mutex
	entries map[string]*entry
}

// entry is the lock of one key.
type entry struct {
	held  chan struct{} // of capacity 1; full while the lock is held
	users int           // holders and waiters; guarded by Locks.mu
}

// Lock waits for the lock of key until ctx ends, and then returns ctx's error, wrapped. Waiters get it in the order in which
// they came. unlock must be called exactly once. A lock that is free is taken even if ctx has ended already, so that
// work that must run to its end, such as cleaning up, can share the lock.
func (l *Locks) Lock(ctx context.Context, key string) (unlock func(), err error) {
	e := l.enter(key)
	select {
	case e.held <- struct{}{}:
		return func() { <-e.held; l.leave(key, e) }, nil
	default:
	}
	select {
	case e.held <- struct{}{}:
		return func() { <-e.held; l.leave(key, e) }, nil
	case <-ctx.Done():
		l.leave(key, e)
		return nil, fmt.Errorf("wait for the lock of %q: %w", key, ctx.Err())
	}
}

// enter makes the entry of key, or joins it. Until the matching leave the entry can't be dropped, so that all waiters wait for the same lock.
func (l *Locks) enter(key string) *entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entries[key]
	if e == nil {
		if l.entries == nil {
			l.entries = make(map[string]*entry)
		}
		e = &entry{held: make(chan struct{}, 1)}
		l.entries[key] = e
	}
	e.users++
	return e
}

func (l *Locks) leave(key string, e *entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.users--; e.users == 0 {
		delete(l.entries, key)
	}
}
