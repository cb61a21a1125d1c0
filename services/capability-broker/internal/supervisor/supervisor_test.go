package supervisor

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/grant"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/handler"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/worker"
)

// broker stands for everything that a supervisor asks: one grant of the principal p, one trusted handler of the pack h.
type broker struct {
	grant     *grant.Grant // nil for none
	trust     *handler.Trust
	changes   int64 // of grants
	closed    map[string]bool
	elsewhere bool // another replica answers the socket

	worker   *worker.Spec // the one that runs, nil for none
	checking func()       // called in EndInvalid, nil for nothing
	started  int
	packages string // of pip-installer
	failing  error  // of pip-installer
	recycled []string
}

func (b *broker) EndInvalid(valid func(worker.Spec) bool) {
	if b.checking != nil {
		b.checking()
	}
	if b.worker != nil && !valid(*b.worker) {
		b.worker = nil
	}
}

func (b *broker) Warm(spec worker.Spec) {
	if b.worker == nil {
		b.worker = &spec
		b.started++
	}
}

func (b *broker) Packs() []string { return []string{"h"} }
func (b *broker) RecycleOutdated(packID, digest string) {
	b.recycled = append(b.recycled, packID+" "+digest)
}
func (b *broker) Revision() int64                                 { return b.changes }
func (b *broker) Serving(string) bool                             { return !b.elsewhere }
func (b *broker) Get(id string) (gate.State, bool)                { return gate.State{Open: !b.closed[id]}, true }
func (b *broker) Current(context.Context, string) (string, error) { return b.packages, b.failing }

func (b *broker) Each(fn func(*grant.Grant)) {
	if b.grant != nil {
		fn(b.grant)
	}
}

func (b *broker) Chain(principal, permission string) grant.Chain {
	if b.grant == nil {
		return grant.Chain{&grant.Grant{PrincipalID: principal, PermissionID: permission}}
	}
	return grant.Chain{b.grant}
}

// trust is the broker's trust in handlers.
type trust struct{ *broker }

func (t trust) Revision() int64                  { return 0 }
func (t trust) Of(string, string) *handler.Trust { return t.trust }
func (t trust) For(string) []*handler.Trust {
	if t.trust == nil {
		return nil
	}
	return []*handler.Trust{t.trust}
}

// follow has a supervisor follow decisions for one check of the workers. In the middle of it a grant and trust of now are made and then changed.
func follow(t *testing.T, change func(b *broker)) *broker {
	t.Helper()
	b := &broker{closed: make(map[string]bool)}
	b.checking = func() {
		now := time.Now()
		b.grant = &grant.Grant{PrincipalID: "p", PermissionID: "a.b", Enabled: true, GrantedAt: now}
		b.trust = &handler.Trust{PackID: "h", Slug: "s", PermissionID: "a.b", InstalledAt: now}
		change(b)
		b.changes++
	}
	ctx, cancel := context.WithTimeout(t.Context(), validityInterval+time.Millisecond)
	defer cancel()
	s := &Supervisor{Pool: b, Grants: b, Trust: trust{b}, Gates: b, Sockets: b}
	if err := s.FollowDecisions(ctx); err != nil {
		t.Errorf("FollowDecisions = %v, want nil", err)
	}
	return b
}

// A worker is started ahead of the first call only where that call would be allowed, and served by this replica.
func TestNewDecisionsAreWarmed(t *testing.T) {
	for name, c := range map[string]struct {
		change func(b *broker)
		want   int
	}{
		"allowed":                    {func(*broker) {}, 1},
		"revoked":                    {func(b *broker) { b.grant.Enabled = false }, 0},
		"expired":                    {func(b *broker) { b.grant.ExpiresAt = time.Now() }, 0},
		"no handler":                 {func(b *broker) { b.trust = nil }, 0},
		"principal may not run":      {func(b *broker) { b.closed["p"] = true }, 0},
		"handler's pack may not run": {func(b *broker) { b.closed["h"] = true }, 0},
		"another replica answers":    {func(b *broker) { b.elsewhere = true }, 0},
		"the grant alone is new":     {func(b *broker) { b.trust.InstalledAt = time.Now().Add(-time.Hour) }, 1},
		"the trust alone is new":     {func(b *broker) { b.grant.GrantedAt = time.Now().Add(-time.Hour) }, 1},
		"neither is new": {func(b *broker) {
			b.grant.GrantedAt, b.trust.InstalledAt = time.Now().Add(-freshFor-time.Second), time.Now().Add(-time.Hour)
		}, 0},
		"both before the clock was set back": {func(b *broker) {
			b.grant.GrantedAt, b.trust.InstalledAt = time.Now().Add(time.Hour), time.Now().Add(time.Hour)
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if got := follow(t, c.change).started; got != c.want {
					t.Errorf("%d workers were started, want %d", got, c.want)
				}
			})
		})
	}
}

// A worker goes with the very decision that it was started by. Nothing announces an expiry, so nothing but time passes there.
func TestWorkersEndWithTheirDecision(t *testing.T) {
	for name, c := range map[string]struct {
		change func(b *broker)
		want   bool // it goes on
	}{
		"nothing changes": {func(*broker) {}, true},
		"revoked":         {func(b *broker) { b.grant = nil }, false},
		"expires":         {func(b *broker) { g := *b.grant; g.ExpiresAt = time.Now().Add(time.Millisecond); b.grant = &g }, false},
		"granted again":   {func(b *broker) { g := *b.grant; g.GrantedAt = time.Now().Add(-time.Hour); b.grant = &g }, false},
		"less is granted": {func(b *broker) {
			g, memory := *b.grant, int64(64)
			g.Terms.Limits = &grant.Limits{MemoryMB: &memory}
			b.grant = &g
		}, false},
		"approved again":        {func(b *broker) { h := *b.trust; h.InstalledAt = time.Now().Add(-time.Hour); b.trust = &h }, false},
		"trust is withdrawn":    {func(b *broker) { b.trust = nil }, false},
		"its grant was used up": {func(b *broker) { g, uses := *b.grant, int64(1); g.Terms.MaxUses, g.Uses = &uses, 1; b.grant = &g }, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &broker{}
				s := &Supervisor{Pool: b, Grants: b, Trust: trust{b}, Gates: b, Sockets: b, Environments: b}
				b.grant = &grant.Grant{PrincipalID: "p", PermissionID: "a.b", Enabled: true, GrantedAt: time.Now()}
				b.trust = &handler.Trust{PackID: "h", Slug: "s", PermissionID: "a.b", InstalledAt: time.Now()}
				s.warm(time.Now())
				if b.worker == nil {
					t.Fatal("no worker was started")
				}
				ctx, cancel := context.WithTimeout(t.Context(), validityInterval+time.Millisecond)
				defer cancel()
				c.change(b)
				if err := s.FollowDecisions(ctx); err != nil {
					t.Errorf("FollowDecisions = %v, want nil", err)
				}
				if got := b.worker != nil; got != c.want {
					t.Errorf("the worker goes on: %v, want %v", got, c.want)
				}
			})
		})
	}
}

// Packages are compared by what pip-installer says. Where it says nothing, handlers go on with what they have.
func TestPackagesAreFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &broker{packages: "sha256:1"}
		s := &Supervisor{Pool: b, Environments: b}
		run := func() {
			ctx, cancel := context.WithTimeout(t.Context(), packagesInterval+time.Millisecond)
			defer cancel()
			if err := s.FollowPackages(ctx); err != nil {
				t.Errorf("FollowPackages = %v, want nil", err)
			}
		}
		run()
		b.failing = errors.New("down")
		run()
		if want := []string{"h sha256:1"}; !slices.Equal(b.recycled, want) {
			t.Errorf("recycled %v, want %v", b.recycled, want)
		}
	})
}
