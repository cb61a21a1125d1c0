package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/rumi-ai/rumi/api/approval"
	api "github.com/rumi-ai/rumi/api/broker"
	"github.com/rumi-ai/rumi/api/registry"
	"github.com/rumi-ai/rumi/api/secrets"
	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/candidate"
	"github.com/rumi-ai/rumi/libs/diskusage"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/sandbox"
	"github.com/rumi-ai/rumi/libs/service"
	dbstore "github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/libs/tree"
	"github.com/rumi-ai/rumi/libs/uds"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/builtin"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/call"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/container"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/grant"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/handler"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/httpapi"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/kv"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/mount"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/peers"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/replica"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/store"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/unconfined"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/worker"
)

func (c config) check() error {
	switch c.SocketMode {
	case "0600", "0660", "0666":
	default:
		return fmt.Errorf("RUMI_CAPABILITY_SOCKET_MODE: %q: want 0660, 0666 or 0600", c.SocketMode)
	}
	switch w := c.Workers; {
	case c.SecurityMode != strict && c.SecurityMode != permissive:
		return fmt.Errorf("RUMI_SECURITY_MODE: %q: want %s or %s", c.SecurityMode, strict, permissive)
	case c.DataMaxMB < 0:
		return errors.New("RUMI_PACK_DATA_MAX_MB: want MiB, such as 1024 (0 is off)")
	case c.DataKept < 0:
		return errors.New("RUMI_PACK_DATA_BACKUPS: want a number of folders, such as 5")
	case c.Ceiling.limits().Check() != nil:
		return fmt.Errorf("RUMI_CONTAINER_MAX_MEMORY_MB, RUMI_CONTAINER_MAX_CPUS, RUMI_CONTAINER_MAX_PIDS: %w", c.Ceiling.limits().Check())
	case c.StoreMax < 1:
		return errors.New("RUMI_STORE_MAX_BYTES: want bytes, at least 1, such as 67108864")
	case c.Refusals < 0:
		return errors.New("RUMI_AUDIT_REFUSALS: want entries a day, such as 100000 (0 is any number)")
	case c.CallRate < 0:
		return errors.New("RUMI_CAPABILITY_RATE_LIMIT: want calls a minute, such as 600 (0 is off)")
	case c.SecretRate < 0:
		return errors.New("RUMI_SECRET_GET_RATE_LIMIT: want calls a minute, such as 60 (0 is off)")
	case w.PerHandler < 1, w.Total < 1, w.Queue < 1, w.Idle < time.Second:
		return errors.New("RUMI_CAPABILITY_WORKER*, RUMI_CAPABILITY_QUEUE: want a number from 1 on; RUMI_CAPABILITY_WORKER_IDLE: want a time from 1s on, such as 5m")
	case c.MaxTimeout < time.Second, c.MaxTimeout > call.MaxTimeout:
		return fmt.Errorf("RUMI_CAPABILITY_MAX_TIMEOUT: want a time from 1s to %v", call.MaxTimeout)
	}
	return nil
}

// socketMode is SocketMode, which check has seen.
func (c config) socketMode() fs.FileMode {
	mode, _ := strconv.ParseUint(c.SocketMode, 8, 32)
	return fs.FileMode(mode)
}

// groups are those a container joins to use its sockets.
func (c config) groups() []int {
	list := []int{c.SocketGID, c.EgressGID}
	slices.Sort(list)
	return slices.DeleteFunc(slices.Compact(list), func(gid int) bool { return gid <= 0 })
}

// broker is the service while it is put together.
type broker struct {
	rt  *service.Runtime
	cfg config

	db      *dbstore.DB
	rows    *store.Store
	gates   *gate.View
	trees   *tree.Cache
	replica *replica.Replica
	strays  atomic.Bool // handlers' containers that are not in use may be there
	node    string      // this host, for what is kept of it in the database
	engine  engine
	folders *handler.Folders
	logs    *worker.Logs

	environments *peers.Handlers
	mounts       *mount.Folders
	workers      *worker.Containers
	pool         *worker.Pool
	containers   *container.Manager
	builtins     builtin.Table
	grants       *grant.Cache
	handlers     *handler.Service
	listeners    *call.Sockets
}

func (b *broker) dir(elem ...string) string {
	return filepath.Join(append([]string{b.rt.UserData}, elem...)...)
}

// state opens what is kept, and begins to follow approval's gates.
func (b *broker) state(ctx context.Context) (err error) {
	if b.db, err = dbstore.Open(ctx, b.rt.Store(), candidate.Migrations(store.Migrations())); err != nil {
		return err
	}
	b.rt.OnStop("store", func(context.Context) error { return b.db.Close() })
	b.rt.ReadyWhen("store", b.db.Ping)
	b.rt.ReadyWhen("state folder", service.WritableFolder(b.dir("state")))
	b.rt.ReadyWhen("packs' data", service.WritableFolder(b.dir("packs")))
	b.rows = store.New(b.db)
	for _, dir := range []string{b.dir("capabilities", "trees"), b.dir("capabilities", "environments"), b.dir("capabilities", "locks"), b.dir("packs"), b.dir("shared")} {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
	}
	b.trees = tree.NewCache(b.dir("capabilities", "trees"), approval.NewClient(b.rt.Peer(approval.Service)).Tree)
	b.gates = gate.NewView(b.rt.Log)
	return nil
}

// runners prepares what runs containers. A Docker that is absent is no reason not to start.
func (b *broker) runners(ctx context.Context) (err error) {
	if err := b.join(); err != nil {
		return err
	}
	if b.engine, err = b.connect(ctx); err != nil {
		return err
	}
	b.rt.OnStop("engine", func(context.Context) error { return b.engine.Close() })
	if err := b.handlerPool(); err != nil {
		return err
	}
	b.rt.Go("orphans", b.sweepOrphans)
	b.rt.Go("containers of handlers", b.noticeHandlers)
	bundle, err := b.authorities()
	if err != nil {
		return err
	}
	records := store.NewContainers(b.db, b.node)
	if b.rt.Store().URL == "" {
		if err := records.Claim(ctx); err != nil {
			return err
		}
	}
	egressSockets := uds.NewOwner(b.cfg.EgressSockDir, b.rt.Identity.Home)
	capabilitySockets := uds.NewOwner(b.cfg.SockDir, b.rt.Identity.Home)
	b.rt.OnStop("socket folders", func(context.Context) error { egressSockets.Close(); capabilitySockets.Close(); return nil })
	b.containers = container.New(container.Config{
		SocketsOwned: func() error { return errors.Join(egressSockets.Check(), capabilitySockets.Check()) },
		Engine:       b.engine, Records: records, Gates: b.gates, Trees: b.trees,
		Reporter: approval.NewClient(b.rt.Peer(approval.Service)), Audit: b.rt.Audit, Log: b.rt.Log,
		Required: b.cfg.SecurityMode == strict, Image: b.cfg.Image, Ceiling: b.cfg.Ceiling.limits(), DataMax: b.cfg.DataMaxMB << 20, LockDir: b.dir("capabilities", "locks"),
		Environments: b.environments.Environments,
		DataDir:      b.dir("packs"), DataKept: b.cfg.DataKept, RunsDir: b.dir("capabilities", "runs"), EgressDir: b.cfg.EgressSockDir, CapabilityDir: b.cfg.SockDir, Groups: b.cfg.groups(), Authorities: bundle,
	})
	b.rt.Go("containers", b.containers.Watch)
	return nil
}

// engine is what runs containers; or, in permissive mode, what runs instead of them.
type engine interface {
	container.Engine
	worker.Engine
	Sweep(ctx context.Context, kind sandbox.Kind, keep func(sandbox.Container) bool) ([]sandbox.Container, error)
	Close() error
}

func (b *broker) connect(ctx context.Context) (engine, error) {
	if b.cfg.SecurityMode == permissive {
		return unconfined.Open(ctx, unconfined.Config{
			RuntimeDir: b.cfg.RuntimeDir, DockerSocket: b.cfg.DockerSocket, Node: b.node, Replica: b.replica.ID, Alive: b.replica.Alive,
			Audit: b.rt.Audit, Log: b.rt.Log,
		})
	}
	docker, err := sandbox.Connect(ctx, sandbox.Config{
		Host: "unix://" + b.cfg.DockerSocket, Instance: b.cfg.Instance, Runtime: b.cfg.Runtime, Replica: b.replica.ID, ImageMoved: b.imageMoved,
		Home: b.rt.Identity.Home, Own: []string{b.dir("capabilities"), b.dir("packs"), b.cfg.SockDir},
	})
	if err != nil {
		return nil, err
	}
	b.rt.Go("docker", docker.Watch)
	b.rt.ReadyWhen("docker", func(ctx context.Context) error {
		if err := docker.Ready(ctx); err != nil {
			return service.WithFix(err, "start Docker; if it runs: docker compose restart capability-broker")
		}
		return nil
	})
	return docker, nil
}

// decisions opens grants and trust.
func (b *broker) decisions(ctx context.Context) (err error) {
	b.builtins = builtin.NewTable(append(
		builtin.Stores(kv.New(b.db, b.cfg.StoreMax), b.rt.Log),
		builtin.SecretsGet(peers.Secrets{Client: secrets.NewClient(b.rt.Peer("secrets"))}, b.cfg.SecretRate, b.rt.Log),
	)...)
	notify := candidate.NewTask("telling approval of candidates", approval.NewClient(b.rt.Peer(approval.Service)).RefreshPending)
	b.handlers, err = handler.New(ctx, handler.Config{
		DB: b.db, Store: b.rows, Folders: b.folders, Gates: b.gates, Trees: b.trees, Audit: b.rt.Audit, Log: b.rt.Log,
		Sources: peers.Sources{Client: registry.NewClient(b.rt.Peer(registry.Service))},
		Changed: func(context.Context) { notify.Due() },
		Retired: func(packID, slug string) {
			b.pool.End(func(ofPack, ofSlug, _ string) bool { return ofPack == packID && (slug == "" || ofSlug == slug) })
		},
	})
	if err != nil {
		return err
	}
	b.rt.Go("trust", func(ctx context.Context) error { return b.handlers.Registry.Follow(ctx, b.rt.Log) })
	if b.grants, err = grant.Open(ctx, grant.Config{
		Store: b.rows, Packs: peers.Packs{Gates: b.gates}, Permissions: b.builtins, Audit: b.rt.Audit, Log: b.rt.Log,
		Pin: b.handlers.Registry.Pin,
		Checks: []func(context.Context, *grant.Grant) error{
			b.handlers.Registry.CheckGrant, b.cfg.callCeiling().CheckGrant, b.mounts.CheckGrant,
		},
	}); err != nil {
		return err
	}
	b.handlers.Grants = b.grants
	b.rt.Go("grants", b.grants.Follow)
	b.rt.Go("notifier", func(ctx context.Context) error { return notify.Run(ctx, b.rt.Log) })
	// What packs bring along waits from when they bring it, not from when somebody thinks of a scan.
	notice := candidate.NewTask("looking for handlers of packs", b.handlers.Notice)
	b.gates.OnChange(func(gate.Change) { notice.Due() })
	b.rt.Go("handlers of packs", func(ctx context.Context) error { return notice.Run(ctx, b.rt.Log) })
	return nil
}

// sockets opens the capability sockets and lets gates act on everything.
func (b *broker) sockets(ctx context.Context) error {
	if b.cfg.socketMode()&0o007 != 0 {
		if err := b.rt.Audit.Write(ctx, audit.Entry{Category: audit.Security, Severity: audit.Warning, Action: "socket_mode_relaxed",
			Success: true, Details: map[string]any{"mode": b.cfg.SocketMode, "dir": b.cfg.SockDir}}); err != nil {
			return err
		}
	}
	calls := call.New(call.Config{
		Gates: b.gates, Grants: b.grants, Handlers: b.handlers.Registry, Runner: b.pool, Builtins: b.builtins,
		Audit: b.rt.Audit, Log: b.rt.Log, Tracer: b.rt.Tracer, Metrics: b.rt.Metrics, Refusals: b.cfg.Refusals,
		Rate: b.cfg.CallRate,
	})
	b.listeners = call.NewSockets(uds.SetConfig{
		Dir: b.cfg.SockDir, Home: b.rt.Identity.Home, Mode: b.cfg.socketMode(), GID: b.cfg.SocketGID, Handler: calls.Socket,
		Limits: uds.Limits{Request: call.MaxRequest, Conns: call.MaxConns}, Log: b.rt.Log,
	})
	b.rt.ReadyWhen("sockets", func(context.Context) error {
		return service.WithFix(b.listeners.Ready(), "run: docker compose up --detach")
	})
	b.rt.OnStop("refusals", calls.Flush)
	b.rt.Go("refusals", calls.Count)
	b.rt.Go("sockets", b.listeners.Run)
	b.rt.Go("workers", b.endInvalidWorkers)
	b.gates.OnChange(b.listeners.GateChanged)
	b.gates.OnChange(b.containers.GateChanged)
	b.gates.OnChange(func(c gate.Change) {
		if c.Removed || !c.State.Open {
			b.pool.End(func(packID, _, principal string) bool { return packID == c.PackID || principal == c.PackID })
		}
	})
	b.rt.Go("gates", func(ctx context.Context) error { return b.gates.Follow(ctx, b.rt.Peer(approval.Service)) })
	return nil
}

func (b *broker) routes(context.Context) error {
	mux := b.rt.Mux()
	httpapi.Capability(mux, b.grants, b.handlers)
	httpapi.Handlers(mux, b.handlers.Registry, b.logs)
	httpapi.Containers(mux, b.containers)
	httpapi.Internal(mux, b)
	diskusage.Route(mux, b.usage)
	b.rt.OnStop("packs", b.stopPacks) // the last: while it waits, sockets are served
	return nil
}

// suiteWait is how long a broker that stops looks whether approval stops, too. A service that stops ends its streams
// within a second.
const suiteWait = 2500 * time.Millisecond

// stopPacks stops the packs where the whole suite stops: an operator who says `docker compose down` means them, too, and
// nobody would watch their gates. SIGTERM alone doesn't tell that from a restart of the broker, which packs outlive; that
// approval goes at the same time does. Where this look is wrong, or the broker gets no SIGTERM, PID 1 in a pack's container
// ends it after a minute without a broker. What is stopped here is wanted, and started again with the suite.
func (b *broker) stopPacks(ctx context.Context) error {
	if b.cfg.SecurityMode == permissive || !b.containers.DisableRestarts() {
		return nil // processes end with the broker
	}
	if b.rt.MountsLost() { // packs have the old folders mounted, too: their sockets are served no more
		return b.containers.StopAll(ctx, "a mounted folder was replaced")
	}
	for began := time.Now(); b.gates.Connected(); time.Sleep(50 * time.Millisecond) {
		if time.Since(began) > suiteWait || ctx.Err() != nil {
			return nil
		}
	}
	return b.containers.StopAll(ctx, "the suite stops")
}

// RestoreData implements httpapi.Remover.
func (b *broker) RestoreData(ctx context.Context, packID string) (api.RestoredData, error) {
	from, err := b.containers.RestoreData(ctx, packID)
	return api.RestoredData{Path: from}, err
}

// Remove implements httpapi.Remover. Each step is taken whatever became of those before, and can be taken again.
func (b *broker) Remove(ctx context.Context, packID string) (api.Removal, error) {
	var done api.Removal
	b.listeners.Remove(packID)
	b.pool.End(func(ofPack, _, principal string) bool { return ofPack == packID || principal == packID })
	behind := b.gates.CatchUp(ctx, packID) // from now on no grant is made to a retired pack
	grants, grantsErr := b.grants.RemovePrincipal(ctx, packID)
	trusted, trustErr := b.handlers.RemovePack(ctx, packID)
	done.GrantsRemoved = grants > 0 || trusted
	removed, containerErr := b.containers.Remove(ctx, packID)
	done.ContainerRemoved, done.ContainerStopped, done.DataPath = removed.Container, removed.Running, removed.Data
	return done, errors.Join(grantsErr, trustErr, b.logs.RemovePack(packID), containerErr, behind)
}
