// Package orphan removes the handlers' containers that no replica of the broker uses any more, and the logs of packs that don't exist any more.
//
// A handler's container belongs to the replica that started it: no other process can read its answers. It is an orphan when that replica has
// died (kill -9, a power cut), when its removal failed, or when no replica made it: a program that may use Docker can start a copy of a container,
// labels included. Each replica decides about the containers that bear its own id; every living
// replica may remove those of a dead one. Removing a container twice does no harm, so replicas need not agree on which does it.
package orphan

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/periodic"
	"github.com/rumi-ai/rumi/libs/sandbox"
)

const (
	sweepInterval = time.Second // between two checks whether there is something to remove
	logsInterval  = time.Hour   // between two checks for logs of packs that don't exist any more
)

// Engine runs the containers; *sandbox.Engine is one.
type Engine interface {
	// Events calls on for each event, until ctx ends.
	Events(ctx context.Context, on func(sandbox.Event))
	// Sweep removes the containers of a kind that keep doesn't keep, and returns those that it removed.
	Sweep(ctx context.Context, kind sandbox.Kind, keep func(sandbox.Container) bool) ([]sandbox.Container, error)
}

// Replicas are the processes of this service on this host; *replica.Replica is them.
type Replicas interface {
	// Alive says whether the replica of that id runs.
	Alive(id string) bool
	// RemoveDead forgets the replicas that have died since the last call, and returns their number.
	RemoveDead() (dead int, err error)
}

// Workers are the containers of this replica; *worker.Containers is them.
type Workers interface {
	// InUse says whether a container that bears this replica's labels is one that it uses.
	InUse(sandbox.Container) bool
	// TakeRemovalFailed says whether the removal of a container has failed since the last call.
	TakeRemovalFailed() bool
}

// Logs has the output of handlers. *worker.Logs implements it.
type Logs interface {
	// Sweep removes the logs of the packs that keep doesn't keep.
	Sweep(keep func(packID string) bool) error
}

// Gates are approval's decisions about packs; *gate.View is them.
type Gates interface {
	Get(packID string) (gate.State, bool)
	// Fresh says whether what Get knows is approval's present state.
	Fresh() bool
}

// Sweeper removes orphans. All exported fields must be set.
type Sweeper struct {
	Engine   Engine
	Replica  string // the id of this one
	Replicas Replicas
	Workers  Workers
	Logs     Logs
	Gates    Gates
	Log      *slog.Logger

	noticed atomic.Bool // Watch has seen a container that isn't in use, or may have missed one
}

// inUse says whether a handler's container is some living replica's.
func (s *Sweeper) inUse(c sandbox.Container) bool {
	if c.Replica == s.Replica {
		return s.Workers.InUse(c)
	}
	return s.Replicas.Alive(c.Replica)
}

// Watch has Run sweep, until ctx ends, when a handler's container starts that isn't in use, and when the engine may have missed events.
func (s *Sweeper) Watch(ctx context.Context) error {
	s.Engine.Events(ctx, func(e sandbox.Event) {
		if e.Action == sandbox.Resync || e.Action == "start" && e.Container.Kind == sandbox.Handler && !s.inUse(e.Container) {
			s.noticed.Store(true)
		}
	})
	return nil
}

// Run removes orphans until ctx ends: at the start, and whenever there is a reason to expect some. Listing containers costs the engine
// too much to do it every second without a reason. What fails is tried again each second.
func (s *Sweeper) Run(ctx context.Context) error {
	due := true // a replica may have died before this one started, and its lock file may have been removed
	var logs time.Time
	return periodic.Run(ctx, sweepInterval, func(ctx context.Context) {
		due = s.sweep(ctx, due)
		if now := time.Now(); s.Gates.Fresh() && now.Sub(logs) >= logsInterval {
			logs = now
			s.sweepLogs(ctx)
		}
	}, periodic.Immediately)
}

// sweep removes containers where that is due or there is a new reason. It says whether it is still due.
func (s *Sweeper) sweep(ctx context.Context, due bool) bool {
	dead, err := s.Replicas.RemoveDead()
	if err != nil {
		s.Log.ErrorContext(ctx, "can't find out which replicas of the broker have died; their handlers' containers stay until that works", "error", err)
	}
	failed, noticed := s.Workers.TakeRemovalFailed(), s.noticed.Swap(false)
	if !due && !failed && !noticed && dead == 0 {
		return false
	}
	removed, err := s.Engine.Sweep(ctx, sandbox.Handler, s.inUse)
	if err != nil {
		return true
	}
	if len(removed) > 0 {
		s.Log.InfoContext(ctx, "removed handlers' containers that are not in use", "count", len(removed))
	}
	return false
}

// sweepLogs removes the logs of packs that approval doesn't know. It is called only while the gates are fresh: an approval that can't be
// reached must not look like one that knows no packs.
func (s *Sweeper) sweepLogs(ctx context.Context) {
	if err := s.Logs.Sweep(func(packID string) bool { _, known := s.Gates.Get(packID); return known }); err != nil {
		s.Log.WarnContext(ctx, "logs of handlers of uninstalled packs could not be removed; trying again in an hour", "error", err)
	}
}
