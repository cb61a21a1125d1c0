package grant

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/policy"
	"github.com/rumi-ai/rumi/libs/store/snapshot"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/schema"
)

// followInterval is how often a replica asks for changes that others have made. A revoke must reach every replica within 100 ms; what this
// leaves of them is for reading the grants.
const followInterval = 40 * time.Millisecond

// Store is the database of grants, which all replicas share; internal/store implements it. Every write but Use raises the revision.
type Store interface {
	// Grants returns all grants and the revision that they are of, read in one transaction.
	Grants(ctx context.Context) ([]Grant, int64, error)
	// Revision is that of the last write. It is asked 25 times a second, so it must cost next to nothing when nothing has changed.
	Revision(ctx context.Context) (int64, error)
	// Apply calls change with the present grant of a principal and permission, nil for none, and stores the grant that it returns, in one
	// transaction. An error of change is returned as it is; then, and for a nil grant, the store stays as it was. change may run several
	// times, where the transaction must be tried again.
	Apply(ctx context.Context, principal, permission string, change func(*Grant) (*Grant, error)) error
	// Use counts one use in each of the grants, or in none where one of them has no use left or is another by now: reason says why, and of is
	// the index of that grant. Uses by several callers, on several replicas, count one after the other.
	Use(ctx context.Context, grants []*Grant) (reason Reason, of int, err error)
	// Remove deletes every grant of a principal, in one transaction. Before it commits it calls commit with their number; an error of commit
	// is returned, and nothing is deleted.
	Remove(ctx context.Context, principal string, commit func(n int) error) error
}

// Packs are the packs that approval knows; peers.Packs is them.
type Packs interface {
	// Known says whether there is such a pack, asking approval if it must. An error means that approval can't be asked at the moment.
	Known(ctx context.Context, packID string) (bool, error)
	// Grantable is nil for a pack that is known and not being uninstalled, as far as memory can tell; else a fault.
	Grantable(packID string) error
}

// Audit is where decisions are written.
type Audit interface {
	Write(ctx context.Context, e audit.Entry) error
}

// grants are all grants. They are never changed once they are the snapshot's value.
type grants struct {
	by     map[string]map[string]*Grant // by principal and permission
	policy *policy.Policy               // by which all of them are judged
}

// compile compiles the argument schema of a grant, unless these grants have it compiled already. Compiling takes milliseconds, and every
// change of any grant loads them all.
func (all *grants) compile(g *Grant) func(jsontext.Value) (*schema.Schema, error) {
	return func(raw jsontext.Value) (*schema.Schema, error) {
		if old := all.find(g.PrincipalID, g.PermissionID); old != nil && old.args != nil && bytes.Equal(old.Terms.ArgsSchema, raw) {
			return old.args, nil
		}
		return schema.Compile(raw)
	}
}

// find is nil for no grant; all may be nil.
func (all *grants) find(principal, permission string) *Grant {
	if all == nil {
		return nil
	}
	return all.by[principal][permission]
}

// Config has the parts that a Cache uses.
type Config struct {
	Store       Store
	Packs       Packs
	Permissions Permissions
	Policy      policy.Source // what it doesn't cover is suspended
	Audit       Audit
	Log         *slog.Logger

	// Pin, which may be nil, has a new grant name the handler that serves it at present, so that a second handler of the permission, trusted
	// later, doesn't change what the grant means.
	Pin func(g *Grant)
	// Checks refuse a new grant, whose config and terms are well-formed, by what isn't in it: the operator's ceilings, the config that a
	// handler asks for, folders of the host. Their errors are faults of KindInvalid.
	Checks []func(ctx context.Context, g *Grant) error

	Propagation *snapshot.Propagation // measures changes; may be nil
}

// Cache has every grant in memory, and is the way to change one. It is safe for concurrent use.
type Cache struct {
	Config
	snapshot *snapshot.Snapshot[*grants]
	counting chan struct{} // holds a token while a use is counted: see Use
}

// Open reads every grant.
func Open(ctx context.Context, cfg Config) (*Cache, error) {
	c := &Cache{Config: cfg, counting: make(chan struct{}, 1)}
	var err error
	c.snapshot, err = snapshot.Open(ctx, snapshot.Config[*grants]{
		Name: "capability grants", Interval: followInterval, Log: cfg.Log, Revision: cfg.Store.Revision, Load: c.load, Propagation: cfg.Propagation,
		Expired: func(all *grants, _ time.Time) bool { return all.policy != cfg.Policy.Current() },
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Cache) load(ctx context.Context, before *grants) (*grants, int64, error) {
	list, revision, err := c.Store.Grants(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("read grants: %w", err)
	}
	next := &grants{by: make(map[string]map[string]*Grant), policy: c.Policy.Current()}
	for i := range list {
		g := &list[i]
		if err := g.prepare(c.Permissions, before.compile(g)); err != nil {
			// A newer or an older version of the broker has written it. It allows nothing, and keeps no other grant from working.
			c.Log.ErrorContext(ctx, "a capability grant can't be read and allows nothing; grant it again", "principal_id", g.PrincipalID, "permission_id", g.PermissionID, "error", err)
			g.unusable = Unreadable
		}
		g.judge(next.policy)
		c.logSuspended(ctx, before.find(g.PrincipalID, g.PermissionID), g)
		if next.by[g.PrincipalID] == nil {
			next.by[g.PrincipalID] = make(map[string]*Grant)
		}
		next.by[g.PrincipalID][g.PermissionID] = g
	}
	return next, revision, nil
}

// logSuspended logs that the policy suspends a grant, or no longer does. before is nil for a grant that wasn't there.
func (c *Cache) logSuspended(ctx context.Context, before, after *Grant) {
	is, was := after.suspended != nil && after.Enabled, before != nil && before.suspended != nil && before.Enabled
	switch {
	case is && !was:
		c.Log.WarnContext(ctx, "a capability grant is suspended by the policy", "principal_id", after.PrincipalID, "permission_id", after.PermissionID, "reason", after.suspendedReason)
	case was && !is:
		c.Log.InfoContext(ctx, "a capability grant is no longer suspended by the policy", "principal_id", after.PrincipalID, "permission_id", after.PermissionID)
	}
}

// Follow takes over what other replicas write, until ctx ends. While the database can't be asked the grants in memory hold for
// snapshot.Lease; then no grant allows anything.
func (c *Cache) Follow(ctx context.Context) error { return c.snapshot.Follow(ctx) }

// Each calls fn for every grant in memory, revoked ones among them. The grants must not be changed.
func (c *Cache) Each(fn func(*Grant)) {
	for _, grants := range c.snapshot.Value().by {
		for _, g := range grants {
			fn(g)
		}
	}
}

// Counts counts the grants that allow calls, and those that would if the policy didn't suspend them.
func (c *Cache) Counts(now time.Time) (active, suspended int) {
	c.Each(func(g *Grant) {
		switch reason := g.Decide(now); {
		case reason == Allowed:
			active++
		case g.suspended != nil && reason == g.suspendedReason:
			suspended++
		}
	})
	return active, suspended
}

// Revision is that of the grants in memory. It changes whenever a grant does.
func (c *Cache) Revision() int64 { return c.snapshot.Revision() }

// List returns the grants by principal, all of them or one principal's, each sorted by permission. It reads the store, not memory: the uses
// that are counted so far are there only.
func (c *Cache) List(ctx context.Context, principal string) (map[string][]*Grant, error) {
	list, _, err := c.Store.Grants(ctx)
	if err != nil {
		return nil, fmt.Errorf("list grants: %w", err)
	}
	now, out := c.snapshot.Value(), make(map[string][]*Grant)
	for i := range list {
		g := &list[i]
		if principal != "" && g.PrincipalID != principal {
			continue
		}
		if err := g.prepare(c.Permissions, now.compile(g)); err != nil {
			g.unusable = Unreadable
		}
		g.judge(c.Policy.Current())
		out[g.PrincipalID] = append(out[g.PrincipalID], g)
	}
	for _, grants := range out {
		slices.SortFunc(grants, func(a, b *Grant) int { return strings.Compare(a.PermissionID, b.PermissionID) })
	}
	return out, nil
}

// Request is a change that an operator asks for: to grant, or to revoke.
type Request struct {
	PrincipalID  string
	PermissionID string
	Config       jsontext.Value // of Grant only; an object or empty
	ExpiresAt    *string        // of Grant only; RFC 3339, nil for never
	Terms                       // of Grant only
}

func (r Request) check() error {
	switch {
	case r.PrincipalID == "":
		return fault.Missing("principal_id")
	case r.PermissionID == "":
		return fault.Missing("permission_id")
	case !ValidPermission(r.PermissionID):
		return fault.Invalid("Invalid permission_id").With("invalid_permission_id")
	}
	if _, err := pack.ParseID(r.PrincipalID); err != nil {
		return fault.InvalidPrincipal().Because(err)
	}
	return nil
}

// Grant grants a permission. It replaces the present grant. A pack that approval doesn't know is a not-found fault, one that is being
// uninstalled a conflict, a grant that breaks a rule of the policy a denied one. The audit entry is written before the change is committed: there may be an entry of a change that then failed,
// never a change without its entry.
func (c *Cache) Grant(ctx context.Context, r Request) (Grant, error) {
	if err := r.check(); err != nil {
		return Grant{}, err
	}
	now := time.Now().UTC()
	next := Grant{
		PrincipalID: r.PrincipalID, PermissionID: r.PermissionID, Enabled: true,
		GrantedAt: now, UpdatedAt: now, GrantedBy: origin.Of(ctx).Actor, Role: origin.Of(ctx).Role,
		Config: r.Config, Terms: r.Terms,
	}
	if err := next.prepare(c.Permissions, schema.Compile); err != nil {
		return Grant{}, err
	}
	if r.ExpiresAt != nil {
		at, err := time.Parse(time.RFC3339, *r.ExpiresAt)
		if err != nil {
			return Grant{}, fault.Invalid("Invalid expires_at: must be an RFC 3339 time such as 2027-01-31T12:00:00Z").With("invalid_expires_at")
		}
		if next.ExpiresAt = at.UTC(); !at.After(now) { // this refuses year 1, too, whose zero time would mean "never"
			return Grant{}, fault.Invalid("Invalid expires_at: it is in the past").With("invalid_expires_at")
		}
	}
	if known, err := c.Packs.Known(ctx, r.PrincipalID); err != nil {
		return Grant{}, err
	} else if !known {
		return Grant{}, fault.PackNotFound()
	}
	if broken := next.Violations(c.Policy.Current()); len(broken) > 0 {
		return Grant{}, c.refuse(ctx, &next, broken)
	}
	if c.Config.Pin != nil {
		c.Config.Pin(&next)
	}
	for _, check := range c.Checks {
		if err := check(ctx, &next); err != nil {
			return Grant{}, err
		}
	}
	err := c.Store.Apply(ctx, r.PrincipalID, r.PermissionID, func(*Grant) (*Grant, error) {
		// Asked again inside the transaction: an uninstall may have begun since, and its RemovePrincipal may be over already. A grant that
		// was stored after that would be there for whichever pack takes the name next.
		if err := c.Packs.Grantable(r.PrincipalID); err != nil {
			return nil, err
		}
		return &next, c.Audit.Write(ctx, entry("permission_grant", &next, nil))
	})
	if err != nil {
		return Grant{}, fmt.Errorf("grant %s to %s: %w", r.PermissionID, r.PrincipalID, err)
	}
	return next, c.snapshot.Reload(ctx)
}

// Pin has the grants of a permission that name no handler name this one, each with an audit entry. Nothing else of them changes. It is called
// before a second handler of the permission is trusted: see handler.Service.
func (c *Cache) Pin(ctx context.Context, permission string, to HandlerRef) error {
	list, _, err := c.Store.Grants(ctx)
	if err != nil {
		return fmt.Errorf("pin grants of %s: %w", permission, err)
	}
	pinned := false
	for i := range list {
		if list[i].PermissionID != permission || list[i].Terms.Handler != nil {
			continue
		}
		err := c.Store.Apply(ctx, list[i].PrincipalID, permission, func(g *Grant) (*Grant, error) {
			if g == nil || g.Terms.Handler != nil || g.unusable != Allowed {
				return nil, nil
			}
			g.Terms.Handler = &to
			return g, c.Audit.Write(ctx, entry("permission_pinned", g, nil))
		})
		if err != nil {
			return fmt.Errorf("pin the grant of %s to %s: %w", permission, list[i].PrincipalID, err)
		}
		pinned = true
	}
	if !pinned {
		return nil
	}
	return c.snapshot.Reload(ctx)
}

// Revoke revokes a permission and says whether it was granted. The grant stays in the store, not enabled. A pack that approval doesn't know
// and that has no grant is a not-found fault.
func (c *Cache) Revoke(ctx context.Context, r Request) (bool, error) {
	if err := r.check(); err != nil {
		return false, err
	}
	found, revoked := false, false
	err := c.Store.Apply(ctx, r.PrincipalID, r.PermissionID, func(g *Grant) (*Grant, error) {
		found, revoked = g != nil, g != nil && g.Enabled
		if !revoked {
			return nil, nil
		}
		g.Enabled, g.UpdatedAt = false, time.Now().UTC()
		return g, c.Audit.Write(ctx, entry("permission_revoke", g, nil))
	})
	switch {
	case err != nil:
		return false, fmt.Errorf("revoke %s from %s: %w", r.PermissionID, r.PrincipalID, err)
	case revoked:
		return true, c.snapshot.Reload(ctx)
	case found:
		return false, nil
	}
	if known, err := c.Packs.Known(ctx, r.PrincipalID); err != nil {
		return false, err
	} else if !known {
		return false, fault.PackNotFound()
	}
	return false, nil
}

// RemovePrincipal deletes every grant of a pack that is uninstalled, and returns their number.
func (c *Cache) RemovePrincipal(ctx context.Context, principal string) (int, error) {
	removed := 0
	err := c.Store.Remove(ctx, principal, func(n int) error {
		if removed = n; n == 0 {
			return nil
		}
		g := Grant{PrincipalID: principal, PermissionID: "*"}
		return c.Audit.Write(ctx, entry("permission_revoke", &g, map[string]any{"count": n, "reason": "pack uninstalled"}))
	})
	if err != nil {
		return 0, fmt.Errorf("remove grants of %s: %w", principal, err)
	}
	if removed == 0 {
		return 0, nil
	}
	return removed, c.snapshot.Reload(ctx)
}

// entry is the audit entry of a decision about a grant. Of the config it has only Settings.Details, and of an argument schema only that there
// is one: either may hold what must not be in a log.
func entry(action string, g *Grant, more map[string]any) audit.Entry {
	details := map[string]any{
		"permission_type": "capability_grant", "principal_id": g.PrincipalID, "permission_id": g.PermissionID,
	}
	if !g.ExpiresAt.IsZero() {
		details["expires_at"] = g.ExpiresAt.Format(time.RFC3339)
	}
	if g.settings != nil {
		maps.Copy(details, g.settings.Details())
	}
	g.Terms.describe(details)
	maps.Copy(details, more)
	return audit.Entry{Category: audit.Permission, Action: action, Success: true, OwnerPack: g.PrincipalID, Details: details}
}
