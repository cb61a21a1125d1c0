// Package supervisor keeps the workers of handlers in step with the decisions that they run by.
//
// A worker may run for minutes, and a decision may change at any moment, on any replica: a grant is revoked, a handler is approved anew, a
// pack gets other packages. Calls are checked by package call each time, but a call that is under way, and a worker that waits for the next
// one, must also end when its decision does. The supervisor compares all workers with the decisions in memory ten times a second. It doesn't
// wait for notifications of changes, because one could be missed.
//
// It also starts a worker for a decision that was just made, so that the first call doesn't wait for a container.
package supervisor

import (
	"context"
	"time"

	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/periodic"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/grant"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/handler"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/worker"
)

const (
	// validityInterval is how long a worker, and a call that is under way in it, may outlive its decision once this process knows of the change.
	validityInterval = 100 * time.Millisecond
	// packagesInterval is how often pip-installer is asked for the packages of each pack whose handlers run, and how long an answer may take.
	packagesInterval = 2 * time.Second
	// freshFor is how long a decision is a reason to start a worker before its first call.
	freshFor = time.Minute
)

// Pool has the workers; *worker.Pool is one.
type Pool interface {
	// EndInvalid ends the workers whose spec is not valid any more.
	EndInvalid(stillValid func(worker.Spec) bool)
	// Warm starts a worker for a spec that has none, if there is capacity.
	Warm(spec worker.Spec)
	// Packs lists the packs whose handlers have workers.
	Packs() []string
	// RecycleOutdated replaces the workers of a pack's handlers whose packages have another digest.
	RecycleOutdated(packID, digest string)
}

// Grants are the capability grants in memory; *grant.Cache is them.
type Grants interface {
	// Revision changes whenever a grant does.
	Revision() int64
	// Each calls fn for every grant. The grants must not be changed.
	Each(fn func(*grant.Grant))
	Chain(principal, permission string) grant.Chain
}

// Trust is the trust in handlers in memory; *handler.Registry is it.
type Trust interface {
	// Revision changes whenever trust does.
	Revision() int64
	// Of is the trust in the handler of a pack and slug, nil for none.
	Of(packID, slug string) *handler.Trust
	// For lists the handlers that are trusted to serve a permission.
	For(permission string) []*handler.Trust
}

// Gates are approval's decisions about packs; *gate.View is them.
type Gates interface {
	Get(packID string) (gate.State, bool)
}

// Sockets are the capability sockets; *packsockets.Sockets is them.
type Sockets interface {
	// Serving says whether this process answers the socket of a pack. With several replicas on a host one of them does.
	Serving(packID string) bool
}

// Environments knows the packages that pip-installer has installed; *peers.HandlerEnvironments is one.
type Environments interface {
	// Current is the digest of what is installed for a pack now, "" for nothing.
	Current(ctx context.Context, packID string) (digest string, err error)
}

// Supervisor compares workers with decisions. All fields must be set.
type Supervisor struct {
	Pool         Pool
	Grants       Grants
	Trust        Trust
	Gates        Gates
	Sockets      Sockets
	Environments Environments
}

// FollowDecisions ends, until ctx ends, the workers whose grant or trust was revoked, has changed or has expired, and starts workers for
// decisions that were just made.
func (s *Supervisor) FollowDecisions(ctx context.Context) error {
	grants, trust := s.Grants.Revision(), s.Trust.Revision()
	return periodic.Run(ctx, validityInterval, func(context.Context) {
		s.Pool.EndInvalid(s.stillValid)
		if g, t := s.Grants.Revision(), s.Trust.Revision(); g != grants || t != trust {
			grants, trust = g, t
			s.warm(time.Now())
		}
	})
}

// FollowPackages replaces, until ctx ends, the workers of packs whose installed packages have changed. While pip-installer can't be asked
// the workers stay as they are: its absence must not stop handlers.
func (s *Supervisor) FollowPackages(ctx context.Context) error {
	return periodic.Run(ctx, packagesInterval, func(ctx context.Context) {
		for _, packID := range s.Pool.Packs() {
			asking, cancel := context.WithTimeout(ctx, packagesInterval)
			digest, err := s.Environments.Current(asking, packID)
			cancel()
			if err == nil {
				s.Pool.RecycleOutdated(packID, digest)
			}
		}
	})
}

// stillValid says whether the very grants and the very trust that a worker was started by are still in force. A grant that was revoked and
// granted again, or a handler that was approved again, is another decision, even with the same content: the worker may hold what the
// earlier one had given it.
//
// A worker whose grant is used up is still valid (DecideStarted): the call that made the last use goes on.
func (s *Supervisor) stillValid(spec worker.Spec) bool {
	t := s.Trust.Of(spec.Trust.PackID, spec.Trust.Slug)
	if t == nil {
		return false
	}
	p, reason := s.Grants.Chain(spec.Principal, spec.Trust.PermissionID).DecideStarted(time.Now())
	return reason == grant.Allowed && spec.SharesWorkers(worker.SpecFor(t, spec.Principal, p))
}

// warm starts a worker for each grant whose next call would find none, if the grant or the trust in its handler is new. Its checks are those
// of a call (package call): what a call would be refused starts no worker.
func (s *Supervisor) warm(now time.Time) {
	s.Grants.Each(func(g *grant.Grant) {
		p, reason := s.Grants.Chain(g.PrincipalID, g.PermissionID).Decide(now)
		if reason != grant.Allowed || !s.open(g.PrincipalID) || !s.Sockets.Serving(g.PrincipalID) {
			return
		}
		t, _ := handler.Choose(s.Trust.For(g.PermissionID), p.Handler)
		if t == nil || !fresh(t.InstalledAt, now) && !fresh(g.GrantedAt, now) {
			return
		}
		if s.open(t.PackID) && t.CheckConfig(g.Config) == "" {
			s.Pool.Warm(worker.SpecFor(t, g.PrincipalID, p))
		}
	})
}

// fresh says whether a decision was made within freshFor. One that lies in the future by more than that was made before this host's clock
// was set back: its age is unknown, so it isn't fresh.
func fresh(at, now time.Time) bool { return now.Sub(at).Abs() <= freshFor }

func (s *Supervisor) open(packID string) bool {
	state, known := s.Gates.Get(packID)
	return known && state.Open
}
