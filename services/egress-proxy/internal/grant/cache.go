package grant

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/rumi-ai/rumi/libs/hostname"
	"github.com/rumi-ai/rumi/libs/policy"
	"github.com/rumi-ai/rumi/libs/store/snapshot"
)

// followInterval is how often the store is asked whether another replica changed something. A grant that is revoked at one replica
// must be closed at every other within 100 ms.
const followInterval = 20 * time.Millisecond

// Store keeps grants; all replicas share one.
type Store interface {
	// Revision is the store's revision, which every change of any grant raises. It must be cheap: it is asked 50 times a
	// second.
	Revision(ctx context.Context) (int64, error)
	// Grants reads all grants and the revision they belong to.
	Grants(ctx context.Context) ([]Grant, int64, error)
	// Apply changes a pack's grant in one transaction: change gets the record, nil for none, and returns the one that
	// replaces it, nil for none. Revision is set by the store. An error of change is returned as it is, and nothing
	// is changed. change may run several times: a transaction that conflicts with another one is tried again.
	Apply(ctx context.Context, packID string, change func(old *Grant) (*Grant, error)) error
}

// Cache is this replica's copy of all grants. Get, List and Check read an immutable snapshot: they take no lock and never wait,
// so that a request of a pack costs no query. It is safe for concurrent use. Use Open.
type Cache struct {
	store    Store
	policy   policy.Source
	log      *slog.Logger
	snapshot *snapshot.Snapshot[*grants]

	mu       sync.Mutex
	narrowed func(packID string)
}

// grants are all grants. They are never changed once they are the snapshot's value.
type grants struct {
	byPack   map[string]*compiledGrant
	expires  time.Time      // the next expiry for which OnNarrow's function is still to be called; zero for none
	narrowed []string       // packs whose grant allows less than in the value before, was removed or has expired since
	policy   *policy.Policy // by which all of them are judged
}

// Open makes a cache and reads all grants from the store. A grant that the policy in force doesn't cover is suspended: it allows nothing. When
// the policy changes, Follow judges all grants anew. propagation may be nil.
func Open(ctx context.Context, from Store, ceiling policy.Source, log *slog.Logger, propagation *snapshot.Propagation) (*Cache, error) {
	c := &Cache{store: from, policy: ceiling, log: log, narrowed: func(string) {}}
	var err error
	c.snapshot, err = snapshot.Open(ctx, snapshot.Config[*grants]{
		Name: "network grants", Interval: followInterval, Log: log, Revision: from.Revision, Load: c.load, Published: c.published, Propagation: propagation,
		Expired: func(all *grants, now time.Time) bool {
			return !all.expires.IsZero() && !now.Before(all.expires) || all.policy != ceiling.Current()
		},
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// OnNarrow has f called for every pack whose grant allows less than before, was removed or has expired. f is called after the new
// snapshot is published: a request that begins after that is decided by the new grant, so that f needs to end only what
// began before. f must not block, nor call OnNarrow or Refresh. Call OnNarrow before Follow.
func (c *Cache) OnNarrow(f func(packID string)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.narrowed = f
}

// published announces which grants allow less.
func (c *Cache) published(all *grants) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range all.narrowed {
		c.narrowed(id)
	}
}

// Check decides whether the pack's grant covers the host and port. shown is how the host is named in the reason. When the store
// has not answered for snapshot.Lease, every pack is denied: the store may hold a revocation that this replica has not read.
func (c *Cache) Check(packID string, host hostname.Host, shown string, port uint16) Decision {
	now := time.Now()
	if !c.snapshot.Fresh(now) {
		return Decision{Reason: ReasonUnknown}
	}
	r := c.snapshot.Value().byPack[packID]
	if r == nil {
		return Decision{Reason: ReasonNone}
	}
	return r.check(host, shown, port, now)
}

// Get gives a pack's record, also a revoked or expired one. ok is false for a pack without one.
func (c *Cache) Get(packID string) (g Grant, ok bool) {
	if r := c.snapshot.Value().byPack[packID]; r != nil {
		return r.grant, true
	}
	return Grant{}, false
}

// List gives all records, revoked and expired ones included, in no particular order.
func (c *Cache) List() []Grant {
	byPack := c.snapshot.Value().byPack
	all := make([]Grant, 0, len(byPack))
	for _, r := range byPack {
		all = append(all, r.grant)
	}
	return all
}

// Counts counts the grants in force, and those that would be if the policy didn't suspend them.
func (c *Cache) Counts(now time.Time) (active, suspended int) {
	for _, r := range c.snapshot.Value().byPack {
		switch {
		case !r.grant.InForce(now):
		case r.suspended != nil:
			suspended++
		default:
			active++
		}
	}
	return active, suspended
}

// errUnchanged is what a change of Apply returns to leave a record as it is.
var errUnchanged = errors.New("unchanged")

// Apply changes a pack's grant in the store (see Store.Apply) and brings the snapshot up to it: when it has returned nil, Check
// follows the change. change may return errUnchanged, which is not an error of Apply.
func (c *Cache) Apply(ctx context.Context, packID string, change func(old *Grant) (*Grant, error)) error {
	switch err := c.store.Apply(ctx, packID, change); {
	case errors.Is(err, errUnchanged):
		return nil
	case err != nil:
		return err
	}
	// The change is committed. This replica must follow it even if the caller has disconnected meanwhile.
	return c.Refresh(context.WithoutCancel(ctx))
}

// Refresh brings the snapshot up to the store. Refreshes run one after the other: see package snapshot.
func (c *Cache) Refresh(ctx context.Context) error { return c.snapshot.Reload(ctx) }

// load reads all grants, compiles those that old doesn't have, and finds out which allow less than in old.
func (c *Cache) load(ctx context.Context, old *grants) (*grants, int64, error) {
	began := time.Now()
	list, revision, err := c.store.Grants(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("read network grants: %w", err)
	}
	if old == nil {
		old = &grants{}
	}
	next := &grants{byPack: make(map[string]*compiledGrant, len(list)), policy: c.policy.Current()}
	for _, g := range list {
		before := old.byPack[g.PackID]
		after := before
		switch {
		case before == nil || before.grant.Revision != g.Revision:
			after = c.compile(ctx, g).judged(next.policy)
		case old.policy != next.policy:
			after = before.judged(next.policy)
		}
		c.logSuspended(ctx, before, after)
		next.byPack[g.PackID] = after
		next.noteExpiry(&after.grant, began)
		if before != nil && (after != before && after.grant.narrows(&before.grant, began) || old.expired(&after.grant, began)) {
			next.narrowed = append(next.narrowed, g.PackID)
		}
	}
	for id := range old.byPack {
		if next.byPack[id] == nil {
			next.narrowed = append(next.narrowed, id)
		}
	}
	return next, revision, nil
}

// logSuspended logs that the policy suspends a grant, or no longer does.
func (c *Cache) logSuspended(ctx context.Context, before, after *compiledGrant) {
	is, was := after.suspended != nil && after.grant.Enabled, before != nil && before.suspended != nil && before.grant.Enabled
	switch {
	case is && !was:
		c.log.WarnContext(ctx, "a network grant is suspended by the policy", "pack_id", after.grant.PackID, "reason", after.suspended.Reason)
	case was && !is:
		c.log.InfoContext(ctx, "a network grant is no longer suspended by the policy", "pack_id", after.grant.PackID)
	}
}

// compile makes a grant ready for decisions. A grant that can't be compiled was written by another version; it allows nothing,
// rather than only what this version understands of it.
func (c *Cache) compile(ctx context.Context, g Grant) *compiledGrant {
	compiled, err := compile(g)
	if err != nil {
		c.log.ErrorContext(ctx, "a network grant can't be read and allows nothing; grant it again", "pack_id", g.PackID, "error", err)
		g.Enabled = false
		return &compiledGrant{grant: g}
	}
	return compiled
}

// noteExpiry takes a grant's expiry into account for the next one of all.
func (s *grants) noteExpiry(g *Grant, now time.Time) {
	if at := g.ExpiresAt; g.Enabled && at.After(now) && (s.expires.IsZero() || at.Before(s.expires)) {
		s.expires = at
	}
}

// expired says whether a grant has expired since these were loaded. Nobody changes a grant when it expires, so its revision
// doesn't show that.
func (s *grants) expired(g *Grant, now time.Time) bool {
	at := g.ExpiresAt
	return g.Enabled && !at.IsZero() && !at.After(now) && !s.expires.IsZero() && !at.Before(s.expires)
}

// Follow keeps the snapshot up to what other replicas change and calls OnNarrow's function for grants that expire, until ctx ends.
// When the store doesn't answer, the snapshot is used for snapshot.Lease; after that everything is denied.
func (c *Cache) Follow(ctx context.Context) error { return c.snapshot.Follow(ctx) }
