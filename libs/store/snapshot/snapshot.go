// Package snapshot keeps in memory a copy of rows of a database, and has it follow what other replicas write.
//
// A service that decides about each request of a pack can't ask its database each time. It decides by a snapshot: a value that is never
// changed once it is published, so that reading it takes no lock, and that is replaced as a whole when the rows have changed. The store
// counts changes: it raises a revision in the same transaction as each write, and reading one number tells whether anything is new.
//
// That has two dangers, and this package answers both.
//
// A snapshot must never go back. Two reloads may overtake each other: one reads before a revoke, the other reads after it, and the first
// publishes last. So reloads of one process run one at a time, and each reads rows and revision in one transaction.
//
// A snapshot must not be believed forever. A replica that has lost its connection to the database would go on allowing what another
// replica has revoked. So a snapshot has a lease: if it couldn't be compared with the database for Lease, Fresh is false, and the decisions that
// depend on it must allow nothing.
package snapshot

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/rumi-ai/rumi/libs/periodic"
)

// Lease is how long a snapshot is fresh after it was last compared with the database. It is also how long one comparison may take.
const Lease = 5 * time.Second

// Config says what a snapshot is of. T is best a pointer to a struct, or a map; nobody may change what it leads to.
type Config[T any] struct {
	Name     string        // of the rows, for the log, in the plural: "network grants"
	Interval time.Duration // between two comparisons with the database
	Log      *slog.Logger

	// Revision is the revision of the last write. It is called each Interval, so it should be cheap; see store.Changes.
	Revision func(ctx context.Context) (int64, error)
	// Load reads the rows and the revision that they are of, in one transaction, and makes the value of them. before is the value in use, the
	// zero value at first; what is the same in both may be shared. Calls don't overlap.
	Load func(ctx context.Context, before T) (value T, revision int64, err error)

	// Expired, if not nil, says whether the value must be made anew although nothing was written, because time has passed.
	Expired func(value T, now time.Time) bool
	// Published, if not nil, is called with each new value but the first, once Value returns it. It must not block: no other value is
	// published meanwhile.
	Published func(value T)

	Propagation *Propagation // measures changes; nil where nobody does
}

// Snapshot is a value that follows a database. It is safe for concurrent use. Use Open.
type Snapshot[T any] struct {
	cfg       Config[T]
	current   atomic.Pointer[version[T]]
	confirmed atomic.Pointer[time.Time] // when the database last had what current has; the monotonic reading counts
	reloading chan struct{}             // holds a token while a reload runs: an older version never replaces a newer one
}

type version[T any] struct {
	value    T
	revision int64
}

// Open makes the first value. An error is Load's.
func Open[T any](ctx context.Context, cfg Config[T]) (*Snapshot[T], error) {
	s := &Snapshot[T]{cfg: cfg, reloading: make(chan struct{}, 1)}
	if err := s.Reload(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// Value is the newest value. It takes no lock. Whoever must not act on a stale one asks Fresh, too.
func (s *Snapshot[T]) Value() T { return s.current.Load().value }

// Revision is that of Value. A value of another revision may say something else.
func (s *Snapshot[T]) Revision() int64 { return s.current.Load().revision }

// Fresh says whether the value may be relied on at a time: it was the database's less than Lease before. It takes no lock.
func (s *Snapshot[T]) Fresh(now time.Time) bool {
	confirmed := s.confirmed.Load()
	return confirmed != nil && now.Sub(*confirmed) < Lease
}

// Reload makes the value anew. A process calls it after its own writes, so that their effect is there when the caller is answered. An error
// is Load's, or ctx's while another reload runs, and leaves the value as it was.
func (s *Snapshot[T]) Reload(ctx context.Context) error {
	select {
	case s.reloading <- struct{}{}:
		defer func() { <-s.reloading }()
	case <-ctx.Done():
		return fmt.Errorf("reload %s: %w", s.cfg.Name, ctx.Err())
	}
	began := time.Now() // the lease counts from before the rows were read: what was written since isn't among them
	var before T
	var last int64
	first := s.current.Load() == nil
	if !first {
		before, last = s.Value(), s.Revision()
	}
	value, revision, err := s.cfg.Load(ctx, before)
	if err != nil {
		return err
	}
	s.current.Store(&version[T]{value, revision})
	s.confirmed.Store(&began)
	if s.cfg.Published != nil && !first {
		s.cfg.Published(value)
	}
	if !first && revision != last {
		s.cfg.Propagation.observe(ctx, revision, time.Now())
	}
	return nil
}

// Follow compares the snapshot with the database each Interval, until ctx ends. That it can't, and that it can again, is logged once.
func (s *Snapshot[T]) Follow(ctx context.Context) error {
	failing := false
	return periodic.Run(ctx, s.cfg.Interval, func(ctx context.Context) {
		err := s.Compare(ctx)
		if ctx.Err() != nil {
			return
		}
		switch {
		case err != nil && !failing:
			s.cfg.Log.ErrorContext(ctx, "can't follow "+s.cfg.Name+"; when the lease runs out nothing is allowed by them", "error", err, "lease_seconds", Lease.Seconds())
		case err == nil && failing:
			s.cfg.Log.InfoContext(ctx, s.cfg.Name+" are followed again")
		}
		failing = err != nil
	})
}

// Compare compares the snapshot with the database once, as Follow does each Interval: it reloads the value where that is needed, and renews
// the lease.
func (s *Snapshot[T]) Compare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, Lease)
	defer cancel()
	began := time.Now()
	revision, err := s.cfg.Revision(ctx)
	if err != nil {
		return err
	}
	now := s.current.Load()
	if revision != now.revision || s.cfg.Expired != nil && s.cfg.Expired(now.value, began) {
		return s.Reload(ctx)
	}
	s.confirmed.Store(&began)
	return nil
}
