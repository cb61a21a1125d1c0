package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rumi-ai/rumi/api/approval"
	"github.com/rumi-ai/rumi/api/pip"
	"github.com/rumi-ai/rumi/api/registry"
	"github.com/rumi-ai/rumi/api/secrets"
	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/authorities"
	"github.com/rumi-ai/rumi/libs/candidate"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/gate/packsockets"
	"github.com/rumi-ai/rumi/libs/packtrace"
	"github.com/rumi-ai/rumi/libs/service"
	"github.com/rumi-ai/rumi/libs/statecount"
	"github.com/rumi-ai/rumi/libs/store/snapshot"
	"github.com/rumi-ai/rumi/libs/uds"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/builtin"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/cabundle"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/call"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/container"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/grant"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/handler"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/layout"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/mount"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/orphan"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/peers"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/store"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/supervisor"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/worker"
)

// workers are what runs handlers.
type workers struct {
	pool         *worker.Pool
	containers   *worker.Containers
	folders      *handler.Folders
	logs         *worker.Logs
	mounts       *mount.Folders
	environments *peers.HandlerEnvironments
}

func newWorkers(rt *service.Runtime, cfg config, files layout.UserData, h host, border packtrace.Border) (w workers, err error) {
	if w.folders, err = handler.NewFolders(files.Handlers()); err != nil {
		return w, err
	}
	if w.logs, err = worker.NewLogs(files.Logs(), rt.Log); err != nil {
		return w, err
	}
	if w.mounts, err = mount.New(mount.Config{
		Shared: files.Shared(), Roots: cfg.MountRoots, UserData: files.Capabilities(), HostPath: h.engine.HostPath,
		Own: append(files.Private(), cfg.SockDir, cfg.EgressSockDir, cfg.DockerSocket),
	}); err != nil {
		return w, err
	}
	w.environments = peers.NewEnvironments(pip.NewClient(rt.Peer(pip.Service)), files.Environments()).ForHandlers(container.TreesLock(files.Locks()))
	w.containers = &worker.Containers{
		Engine: h.engine, Folders: w.folders, Environments: w.environments, Mounts: w.mounts, Ceiling: cfg.callCeiling(), Logs: w.logs,
		Image: cfg.Image, Log: rt.Log,
	}
	w.pool = worker.NewPool(w.containers, worker.Limits{
		PerHandler: cfg.Workers.PerHandler, Total: cfg.Workers.Total, Queue: cfg.Workers.Queue, Idle: cfg.Workers.Idle, Ceiling: cfg.callCeiling(),
	}, border, rt.Log, rt.Metrics)
	rt.OnStop("handlers", w.pool.Close)
	rt.Go("idle handlers", w.pool.EvictIdle)
	return w, nil
}

func (w workers) sweepOrphans(rt *service.Runtime, s state, h host) {
	sweeper := &orphan.Sweeper{
		Engine: h.engine, Replica: h.replica.ID, Replicas: h.replica, Workers: w.containers, Logs: w.logs, Gates: s.gates, Log: rt.Log,
	}
	rt.Go("orphans", sweeper.Run)
	rt.Go("containers of handlers", sweeper.Watch)
}

func (w workers) supervise(rt *service.Runtime, s state, d decisions, sockets *packsockets.Sockets) {
	keeper := &supervisor.Supervisor{
		Pool: w.pool, Grants: d.grants, Trust: d.handlers.Registry, Gates: s.gates, Sockets: sockets, Environments: w.environments,
	}
	rt.Go("workers", keeper.FollowDecisions)
	rt.Go("packages of handlers", keeper.FollowPackages)
}

// newContainers makes what runs packs.
func newContainers(ctx context.Context, rt *service.Runtime, cfg config, files layout.UserData, s state, h host, w workers, border packtrace.Border) (*container.Manager, error) {
	bundle, err := newBundle(rt, cfg, files)
	if err != nil {
		return nil, err
	}
	records := store.NewContainers(s.db, h.node)
	if rt.Store().URL == "" { // SQLite: this host is the only one
		if err := records.Claim(ctx); err != nil {
			return nil, err
		}
	}
	egressSockets := uds.NewOwner(cfg.EgressSockDir, rt.Identity.Home)
	capabilitySockets := uds.NewOwner(cfg.SockDir, rt.Identity.Home)
	rt.OnStop("socket folders", func(context.Context) error { egressSockets.Close(); capabilitySockets.Close(); return nil })
	packs := container.New(container.Config{
		SocketsOwned: func() error { return errors.Join(egressSockets.Check(), capabilitySockets.Check()) },
		Engine:       h.engine, Records: records, Gates: s.gates, Trees: s.trees, Environments: w.environments.Environments,
		Reporter: approval.NewClient(rt.Peer(approval.Service)), Audit: rt.Audit, Log: rt.Log, Policy: s.policy, Metrics: rt.Metrics,
		Required: cfg.SecurityMode == strict, Image: cfg.Image, Ceiling: cfg.Ceiling.limits(), DataMax: cfg.DataMaxMB << 20, DataKept: cfg.DataKept,
		LockDir: files.Locks(), DataDir: files.Packs(), RunsDir: files.Runs(), EgressDir: cfg.EgressSockDir, CapabilityDir: cfg.SockDir,
		Groups: cfg.groups(), Authorities: bundle, Border: border,
	})
	rt.Go("containers", packs.Watch)
	return packs, nil
}

// newBundle makes the bundle of certificate authorities of packs, and returns what brings it up to date; nil without RUMI_EGRESS_CA_FILE.
func newBundle(rt *service.Runtime, cfg config, files layout.UserData) (refresh func() string, err error) {
	if cfg.EgressCAFile == "" {
		return nil, nil
	}
	operator, err := authorities.Open("RUMI_EGRESS_CA_FILE", cfg.EgressCAFile, rt.Log)
	if err != nil {
		return nil, err
	}
	rt.ReadyWhen("certificate authorities", func(context.Context) error {
		return service.WithFix(operator.Ready(), "mend the file that RUMI_EGRESS_CA_FILE names, then run: docker compose up --detach")
	})
	bundle := &cabundle.Bundle{Path: files.Authorities(), System: cabundle.System, Operator: operator.PEM, Log: rt.Log}
	if err := bundle.Write(); err != nil {
		return nil, fmt.Errorf("RUMI_EGRESS_CA_FILE: %w", err)
	}
	return bundle.Refresh, nil
}

// decisions are what operators have decided: which handlers are trusted, and who may use which permission.
type decisions struct {
	builtins builtin.Table
	handlers *handler.Service
	grants   *grant.Cache
}

func openDecisions(ctx context.Context, rt *service.Runtime, cfg config, s state, w workers) (d decisions, err error) {
	d.builtins = builtin.NewTable(append(
		builtin.Stores(store.NewValues(s.db, cfg.StoreMax), rt.Log),
		builtin.SecretsGet(peers.NewSecrets(secrets.NewClient(rt.Peer("secrets")), rt.Metrics), cfg.SecretRate, rt.Log),
	)...)
	notify := candidate.NewTask("telling approval of candidates", approval.NewClient(rt.Peer(approval.Service)).RefreshPending)
	if d.handlers, err = handler.New(ctx, handler.Config{
		DB: s.db, Store: s.rows, Folders: w.folders, Gates: s.gates, Trees: s.trees, Audit: rt.Audit, Log: rt.Log, Approvals: cfg.Approvals,
		Propagation: snapshot.NewPropagation(rt.Metrics, "trust", s.rows.TrustChanged),
		Sources:     peers.Sources{Client: registry.NewClient(rt.Peer(registry.Service))},
		Changed:     func(context.Context) { notify.Due() },
		Retired: func(packID, slug string) {
			w.pool.End(func(ofPack, ofSlug, _ string) bool { return ofPack == packID && (slug == "" || ofSlug == slug) })
		},
	}); err != nil {
		return d, err
	}
	if d.grants, err = grant.Open(ctx, grant.Config{
		Store: s.rows, Packs: peers.Packs{Gates: s.gates}, Permissions: d.builtins, Policy: s.policy, Audit: rt.Audit, Log: rt.Log, Pin: d.handlers.Registry.Pin,
		Checks:      []func(context.Context, *grant.Grant) error{d.handlers.Registry.CheckGrant, cfg.callCeiling().CheckGrant, w.mounts.CheckGrant},
		Propagation: snapshot.NewPropagation(rt.Metrics, "capability_grants", s.rows.GrantsChanged),
	}); err != nil {
		return d, err
	}
	d.handlers.Grants = d.grants
	rt.Metrics.MustRegister(d.handlers.Candidates().Gauge(), countGrants(d.grants))
	rt.Go("trust", d.handlers.Registry.Follow)
	rt.Go("grants", d.grants.Follow)
	rt.Go("notifier", func(ctx context.Context) error { return notify.Run(ctx, rt.Log) })
	// A pack's handlers become candidates as soon as the pack is there, not only when an operator asks for a scan.
	notice := candidate.NewTask("looking for handlers of packs", d.handlers.BackgroundScan)
	s.gates.OnChange(func(gate.Change) { notice.Due() })
	rt.Go("handlers of packs", func(ctx context.Context) error { return notice.Run(ctx, rt.Log) })
	return d, nil
}

// countGrants is the gauge of the grants in memory.
func countGrants(grants *grant.Cache) *statecount.Gauge {
	return statecount.New("rumi_grants", "Grants by state: active, or suspended by the policy. Revoked, expired and used up ones are not counted.", "state",
		[]string{"active", "suspended"}, statecount.Memory(func() statecount.Counts {
			active, suspended := grants.Counts(time.Now())
			return statecount.Counts{"active": active, "suspended": suspended}
		}))
}

// listen makes what answers the capability sockets. They are opened once gates are followed.
func listen(ctx context.Context, rt *service.Runtime, cfg config, s state, w workers, d decisions, border packtrace.Border) (*packsockets.Sockets, error) {
	if cfg.socketMode()&0o007 != 0 {
		if err := rt.Audit.Write(ctx, audit.Entry{Category: audit.Security, Severity: audit.Warning, Action: "socket_mode_relaxed",
			Success: true, Details: map[string]any{"mode": cfg.SocketMode, "dir": cfg.SockDir}}); err != nil {
			return nil, err
		}
	}
	calls := call.New(call.Config{
		Gates: s.gates, Grants: d.grants, Handlers: d.handlers.Registry, Runner: w.pool, Builtins: d.builtins,
		Audit: rt.Audit, Log: rt.Log, Tracer: rt.Tracer, Border: border, Metrics: rt.Metrics, Refusals: cfg.Refusals, Rate: cfg.CallRate,
	})
	sockets := packsockets.New(uds.SetConfig{
		Dir: cfg.SockDir, Home: rt.Identity.Home, Mode: cfg.socketMode(), GID: cfg.SocketGID, Handler: calls.Socket,
		Limits: uds.Limits{Request: call.MaxRequest, Conns: call.MaxConns}, Log: rt.Log, Metrics: rt.Metrics,
	}, nil)
	rt.ReadyWhen("sockets", func(context.Context) error {
		return service.WithFix(sockets.Ready(), "run: docker compose up --detach")
	})
	rt.OnStop("refusals", calls.Flush)
	rt.Go("refusals", calls.Count)
	rt.Go("sockets", sockets.Run)
	return sockets, nil
}

// follow has everything that a gate opens or closes follow approval. What listens to changes must be there before the first of them.
func follow(rt *service.Runtime, s state, w workers, packs *container.Manager, sockets *packsockets.Sockets) {
	s.gates.OnChange(sockets.GateChanged)
	s.gates.OnChange(packs.GateChanged)
	s.gates.OnChange(w.pool.GateChanged)
	rt.Go("gates", func(ctx context.Context) error { return s.gates.Follow(ctx, rt.Peer(approval.Service)) })
}
