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
	// Grants reads all grants and the revision they belong to.
	Grants(ctx context.Context) ([]Grant, int64, error)
	// Apply changes a pack's grant in one transaction: change gets the record, nil for none, and returns the one that
	// takes its place, nil for none. Revision is set by the store. An error of change is returned as it is, and nothing
	// is changed. change may run several times.
	Apply(ctx context.Context, packID string, change func(old *Grant) (*Grant, error)) error
}

// Cache is what this replica knows of all grants. Deciding takes no lock and never waits. Use Open.
type Cache struct {
	store    Store
	follower store.Follower
	snap     atomic.Pointer[snapshot]

	mu       sync.Mutex // serialises changes of the snapshot
	narrowed func(packID string)
}

// snapshot is never changed.
type snapshot struct {
	revision int64
	grants   map[string]*compiledGrant
	expires  time.Time // the next expiry that nobody was told of; zero for none
}

// Open reads all grants.
func Open(ctx context.Context, from Store, log *slog.Logger) (*Cache, error) {
	c := &Cache{store: from, narrowed: func(string) {}}
	c.follower.What, c.follower.Every, c.follower.Look, c.follower.Log = "network grants", followEvery, c.look, log
	c.snap.Store(&snapshot{revision: -1})
	if err := c.Refresh(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// OnNarrow has f called for every pack whose grant allows less than before, went or expired, after decisions have begun
// to follow the change. f must not block. Call it before Follow.
func (c *Cache) OnNarrow(f func(packID string)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.narrowed = f
}

// Check decides whether the pack's grant covers the host and port. shown is how the host is named in the reason.
func (c *Cache) Check(packID string, host hostname.Host, shown string, port uint16) Decision {
	now := time.Now()
	if !c.follower.Fresh(now) {
		return Decision{Reason: ReasonUnknown}
	}
	r := c.snap.Load().grants[packID]
	if r == nil {
		return Decision{Reason: ReasonNone}
	}
	return r.check(host, shown, port, now)
}

// Get is a pack's record.
func (c *Cache) Get(packID string) (Grant, bool) {
	if r := c.snap.Load().grants[packID]; r != nil {
		return r.grant, true
	}
	return Grant{}, false
}

// List gives all records, revoked ones included.
func (c *Cache) List() []Grant {
	rules := c.snap.Load().grants
	all := make([]Grant, 0, len(rules))
	for _, r := range rules {
		all = append(all, r.grant)
	}
	return all
}

// Refresh brings the snapshot up to the store.
func (c *Cache) Refresh(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	began := time.Now()
	grants, revision, err := c.store.Grants(ctx)
	if err != nil {
		return fmt.Errorf("read network grants: %w", err)
	}
	old := c.snap.Load()
	next := &snapshot{revision: revision, grants: make(map[string]*compiledGrant, len(grants))}
	var narrowed []string
	for _, g := range grants {
		before := old.grants[g.PackID]
		if before != nil && before.grant.Revision == g.Revision {
			next.grants[g.PackID] = before
		} else {
			r, err := compile(g)
			if err != nil { // written by another version
				c.follower.Log.ErrorContext(ctx, "a network grant can't be read and allows nothing; grant it again", "pack_id", g.PackID, "error", err)
				g.Enabled = false
				r = &compiledGrant{grant: g}
			}
			next.grants[g.PackID] = r
			if before != nil && g.narrows(&before.grant, began) {
				narrowed = append(narrowed, g.PackID)
			}
		}
		switch expires := g.ExpiresAt; {
		case !g.Enabled || expires.IsZero():
		case expires.After(began):
			if next.expires.IsZero() || expires.Before(next.expires) {
				next.expires = expires
			}
		case before != nil && !old.expires.IsZero() && !expires.Before(old.expires):
			narrowed = append(narrowed, g.PackID)
		}
	}
	for id := range old.grants {
		if next.grants[id] == nil {
			narrowed = append(narrowed, id)
		}
	}
	c.snap.Store(next)
	c.follower.Heard(began)
	for _, id := range narrowed {
		c.narrowed(id)
	}
	return nil
}

// Follow keeps the snapshot up to what other replicas change, until ctx ends. While the store can't be asked the
// snapshot holds for store.Lease, then everything is denied.
func (c *Cache) Follow(ctx context.Context) error { return c.follower.Follow(ctx) }

func (c *Cache) look(ctx context.Context) error {
	now := time.Now()
	revision, err := c.store.Revision(ctx)
	if err != nil {
		return err
	}
	snap := c.snap.Load()
	if revision != snap.revision || (!snap.expires.IsZero() && !now.Before(snap.expires)) {
		return c.Refresh(ctx)
	}
	return nil
}
