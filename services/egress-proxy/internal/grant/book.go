package grant

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/hostname"
)

const (
	// Lease is how long a snapshot holds that could not be compared with the store.
	Lease = 5 * time.Second
	// followEvery is how often the store is asked whether another replica changed something.
	followEvery = 20 * time.Millisecond
)

// Store keeps grants; all replicas share one.
type Store interface {
	// Revision grows with every change of any grant.
	Revision(ctx context.Context) (int64, error)
	// Load reads all grants and the revision they belong to.
	Load(ctx context.Context) ([]Grant, int64, error)
	// Update changes a pack's grant in one transaction: change gets the record, nil for none, and returns the one that
	// takes its place, nil for none. Revision is set by the store. An error of change is returned as it is, and nothing
	// is changed. change may run several times.
	Update(ctx context.Context, packID string, change func(old *Grant) (*Grant, error)) error
}

// Book is what this replica knows of all grants. Deciding takes no lock and never waits. Use NewBook.
type Book struct {
	store Store
	log   *slog.Logger
	snap  atomic.Pointer[snapshot]
	heard atomic.Pointer[time.Time] // when the snapshot was last known to be the store's; its monotonic reading counts

	mu     sync.Mutex // serialises changes of the snapshot
	shrunk func(packID string)
}

// snapshot is never changed.
type snapshot struct {
	revision int64
	rules    map[string]*rule
	expires  time.Time // the next expiry that nobody was told of; zero for none
}

// NewBook reads all grants.
func NewBook(ctx context.Context, store Store, log *slog.Logger) (*Book, error) {
	b := &Book{store: store, log: log, shrunk: func(string) {}}
	b.snap.Store(&snapshot{revision: -1})
	if err := b.Refresh(ctx); err != nil {
		return nil, err
	}
	return b, nil
}

// OnShrink has f called for every pack whose grant allows less than before, went or expired, after decisions have begun
// to follow the change. f must not block. Call it before Follow.
func (b *Book) OnShrink(f func(packID string)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.shrunk = f
}

// Check decides whether the pack's grant covers the host and port. shown is how the host is named in the reason.
func (b *Book) Check(packID string, host hostname.Host, shown string, port uint16) Decision {
	now := time.Now()
	if heard := b.heard.Load(); heard == nil || now.Sub(*heard) >= Lease {
		return Decision{Reason: ReasonUnknown}
	}
	r := b.snap.Load().rules[packID]
	if r == nil {
		return Decision{Reason: ReasonNone}
	}
	return r.check(host, shown, port, now)
}

// Get is a pack's record.
func (b *Book) Get(packID string) (Grant, bool) {
	if r := b.snap.Load().rules[packID]; r != nil {
		return r.grant, true
	}
	return Grant{}, false
}

// All are all records, revoked ones included.
func (b *Book) All() []Grant {
	rules := b.snap.Load().rules
	all := make([]Grant, 0, len(rules))
	for _, r := range rules {
		all = append(all, r.grant)
	}
	return all
}

// Refresh brings the snapshot up to the store.
func (b *Book) Refresh(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	began := time.Now()
	grants, revision, err := b.store.Load(ctx)
	if err != nil {
		return fmt.Errorf("read network grants: %w", err)
	}
	old := b.snap.Load()
	next := &snapshot{revision: revision, rules: make(map[string]*rule, len(grants))}
	var shrunk []string
	for _, g := range grants {
		before := old.rules[g.PackID]
		if before != nil && before.grant.Revision == g.Revision {
			next.rules[g.PackID] = before
		} else {
			r, err := compile(g)
			if err != nil {
				return err
			}
			next.rules[g.PackID] = r
			if before != nil && g.narrows(&before.grant, began) {
				shrunk = append(shrunk, g.PackID)
			}
		}
		switch expires := g.ExpiresAt; {
		case !g.Enabled || expires.IsZero():
		case expires.After(began):
			if next.expires.IsZero() || expires.Before(next.expires) {
				next.expires = expires
			}
		case before != nil && !old.expires.IsZero() && !expires.Before(old.expires):
			shrunk = append(shrunk, g.PackID)
		}
	}
	for id := range old.rules {
		if next.rules[id] == nil {
			shrunk = append(shrunk, id)
		}
	}
	b.snap.Store(next)
	b.heard.Store(&began)
	for _, id := range shrunk {
		b.shrunk(id)
	}
	return nil
}

// Follow keeps the snapshot up to what other replicas change, until ctx ends. While the store can't be asked the
// snapshot holds for Lease, then everything is denied.
func (b *Book) Follow(ctx context.Context) error {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		err := b.follow(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil && !failing {
			b.log.ErrorContext(ctx, "can't read network grants; everything is denied when the lease runs out", "error", err, "lease", Lease)
		}
		failing = err != nil
	}
}

func (b *Book) follow(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, Lease)
	defer cancel()
	began := time.Now()
	revision, err := b.store.Revision(ctx)
	if err != nil {
		return err
	}
	snap := b.snap.Load()
	if revision != snap.revision || (!snap.expires.IsZero() && !began.Before(snap.expires)) {
		return b.Refresh(ctx)
	}
	b.heard.Store(&began)
	return nil
}
