package main

import (
	"context"
	"time"

	"github.com/rumi-ai/rumi/api/pip"
	"github.com/rumi-ai/rumi/libs/periodic"
	"github.com/rumi-ai/rumi/libs/sandbox"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/container"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/grant"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/handler"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/mount"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/peers"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/worker"
)

// workers bound handlers' containers.
type workers struct {
	PerHandler int           `env:"RUMI_CAPABILITY_WORKERS_PER_HANDLER" envDefault:"2"` // and principal
	Total      int           `env:"RUMI_CAPABILITY_WORKERS" envDefault:"32"`
	Queue      int           `env:"RUMI_CAPABILITY_QUEUE" envDefault:"64"` // calls waiting, a handler and principal
	Idle       time.Duration `env:"RUMI_CAPABILITY_WORKER_IDLE" envDefault:"5m"`
}

const (
	validityInterval = 100 * time.Millisecond // between two looks whether workers may still be what they are
	packagesInterval = 2 * time.Second        // between two looks whether their packages are still those of their packs
	freshFor         = time.Minute            // how long a decision is a reason to start a worker before its first call
)

// callCeiling is what no call of a handler may have more of.
func (c config) callCeiling() worker.Ceiling {
	return worker.Ceiling{Limits: c.Ceiling.limits(), Timeout: c.MaxTimeout}
}

// handlerPool prepares what runs handlers.
func (b *broker) handlerPool() (err error) {
	if b.folders, err = handler.NewFolders(b.dir("capabilities", "handlers")); err != nil {
		return err
	}
	if b.logs, err = worker.NewLogs(b.dir("capabilities", "logs"), b.rt.Log); err != nil {
		return err
	}
	if b.mounts, err = mount.New(mount.Config{
		Shared: b.dir("shared"), Roots: b.cfg.MountRoots, UserData: b.dir("capabilities"), HostPath: b.hostPath,
		Own: []string{
			b.dir("capabilities"), b.dir("packs"), b.dir("state"), b.dir("audit"), b.dir("settings"), b.cfg.SockDir, b.cfg.EgressSockDir, b.cfg.DockerSocket,
		},
	}); err != nil {
		return err
	}
	b.environments = peers.NewEnvironments(pip.NewClient(b.rt.Peer(pip.Service)), b.dir("capabilities", "environments")).
		ForHandlers(container.TreesLock(b.dir("capabilities", "locks")))
	ceiling := b.cfg.callCeiling()
	b.workers = &worker.Containers{
		Engine: b.engine, Folders: b.folders, Environments: b.environments, Mounts: b.mounts, Ceiling: ceiling, Logs: b.logs, Image: b.cfg.Image, Log: b.rt.Log,
	}
	w := b.cfg.Workers
	b.pool = worker.NewPool(b.workers, worker.Limits{
		PerHandler: w.PerHandler, Total: w.Total, Queue: w.Queue, Idle: w.Idle, Ceiling: ceiling,
	}, b.rt.Log, b.rt.Metrics)
	b.rt.OnStop("handlers", b.pool.Close)
	b.rt.Go("idle handlers", b.pool.EvictIdle)
	b.rt.Go("packages of handlers", b.recycleOutdatedWorkers)
	return nil
}

// recycleOutdatedWorkers replaces, until ctx ends, the workers of packs whose installed packages are others by now. Where pip-installer can't be
// asked they stay.
func (b *broker) recycleOutdatedWorkers(ctx context.Context) error {
	return periodic.Run(ctx, packagesInterval, func(ctx context.Context) {
		for _, packID := range b.pool.Packs() {
			asking, cancel := context.WithTimeout(ctx, packagesInterval)
			digest, err := b.environments.Current(asking, packID)
			cancel()
			if err == nil {
				b.pool.RecycleOutdated(packID, digest)
			}
		}
	})
}

// hostPath is where the host has a path; without containers there is nowhere else.
func (b *broker) hostPath(ctx context.Context, path string) (string, error) {
	if e, ok := b.engine.(*sandbox.Engine); ok {
		return e.HostPath(ctx, path)
	}
	return path, nil
}

// endInvalidWorkers ends, until ctx ends, the workers whose grants were revoked, changed or have expired, and starts some for
// what was decided a moment ago.
func (b *broker) endInvalidWorkers(ctx context.Context) error {
	grants, trust := b.grants.Revision(), b.handlers.Registry.Revision()
	return periodic.Run(ctx, validityInterval, func(context.Context) {
		b.pool.EndInvalid(b.stillValid)
		if g, t := b.grants.Revision(), b.handlers.Registry.Revision(); g != grants || t != trust {
			grants, trust = g, t
			b.warm(time.Now())
		}
	})
}

// stillValid says whether the very grants and the very trust that a worker was made by still hold.
func (b *broker) stillValid(spec worker.Spec) bool {
	t := b.handlers.Registry.Of(spec.Trust.PackID, spec.Trust.Slug)
	if t == nil {
		return false
	}
	p, reason := b.grants.Chain(spec.Principal, spec.Trust.PermissionID).DecideStarted(time.Now())
	return reason == grant.Allowed && spec.SharesWorkers(specFor(t, spec.Principal, p))
}

// specFor is what the workers of a handler for a principal are to be under a permit.
func specFor(t *handler.Trust, principal string, p grant.Permit) worker.Spec {
	return worker.Spec{Trust: t, Principal: principal, Grants: p.Chain.Identity(), Limits: p.Limits, Mounts: p.Mounts}
}

// warm starts a worker for each grant whose call would find none, where the grant or the trust in its handler is new.
func (b *broker) warm(now time.Time) {
	b.grants.Each(func(g *grant.Grant) {
		p, reason := b.grants.Chain(g.PrincipalID, g.PermissionID).Decide(now)
		if reason != grant.Allowed || !b.open(g.PrincipalID) || !b.listeners.Serving(g.PrincipalID) {
			return
		}
		t, _ := handler.Choose(b.handlers.Registry.For(g.PermissionID), p.Handler)
		if t == nil || !fresh(t.InstalledAt, now) && !fresh(g.GrantedAt, now) {
			return
		}
		if b.open(t.PackID) && t.CheckConfig(g.Config) == "" {
			b.pool.Warm(specFor(t, g.PrincipalID, p))
		}
	})
}

// fresh says whether something was decided a moment ago. What lies ahead by more than that was decided by a clock that has been set
// back since.
func fresh(at, now time.Time) bool { return now.Sub(at).Abs() <= freshFor }

func (b *broker) open(packID string) bool {
	state, known := b.gates.Get(packID)
	return known && state.Open
}
