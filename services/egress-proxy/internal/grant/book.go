package grant

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/hostname"
)

// followEvery is how often the store is asked whether another replica changed something.
const followEvery = 20 * time.Millisecond

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
	store    Store
	follower store.Follower
	snap     atomic.Pointer[snapshot]

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
func NewBook(ctx context.Context, from Store, log *slog.Logger) (*Book, error) {
	b := &Book{store: from, shrunk: func(string) {}}
	b.follower.What, b.follower.Every, b.follower.Look, b.follower.Log = "network grants", followEvery, b.look, log
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
	if !b.follower.Fresh(now) {
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
			if err != nil { // written by another version
				b.follower.Log.ErrorContext(ctx, "a network grant can't be read and allows nothing; grant it again", "pack_id", g.PackID, "error", err)
				g.Enabled = false
				r = &rule{grant: g}
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
	b.follower.Heard(began)
	for _, id := range shrunk {
		b.shrunk(id)
	}
	return nil
}

// Follow keeps the snapshot up to what other replicas change, until ctx ends. While the store can't be asked the
// snapshot holds for store.Lease, then everything is denied.
func (b *Book) Follow(ctx context.Context) error { return b.follower.Follow(ctx) }

func (b *Book) look(ctx context.Context) error {
	now := time.Now()
	revision, err := b.store.Revision(ctx)
	if err != nil {
		return err
	}
	snap := b.snap.Load()
	if revision != snap.revision || (!snap.expires.IsZero() && !now.Before(snap.expires)) {
		return b.Refresh(ctx)
	}
	return nil
}
