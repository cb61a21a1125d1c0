package main

import (
	"context"
	"fmt"

	"github.com/rumi-ai/rumi/api/approval"
	"github.com/rumi-ai/rumi/libs/candidate"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/policy"
	"github.com/rumi-ai/rumi/libs/service"
	dbstore "github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/libs/tree"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/engine"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/httpapi"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/layout"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/replica"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/shutdown"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/store"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/uninstall"
)

func main() { service.Main("capability-broker", build) }

// build assembles the broker, each part after those that it uses: state, what runs containers, what decides, what listens. What is
// registered with OnStop is stopped in the opposite order.
func build(ctx context.Context, rt *service.Runtime, cfg config) error {
	if err := cfg.check(); err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	files := layout.UserData(rt.UserData)
	s, err := openState(ctx, rt, files)
	if err != nil {
		return err
	}
	h, err := openHost(ctx, rt, cfg, files)
	if err != nil {
		return err
	}
	border := rt.PackBorder()
	w, err := newWorkers(rt, cfg, files, h, border)
	if err != nil {
		return err
	}
	w.sweepOrphans(rt, s, h)
	packs, err := newContainers(ctx, rt, cfg, files, s, h, w, border)
	if err != nil {
		return err
	}
	d, err := openDecisions(ctx, rt, cfg, s, w)
	if err != nil {
		return err
	}
	sockets, err := listen(ctx, rt, cfg, s, w, d, border)
	if err != nil {
		return err
	}
	w.supervise(rt, s, d, sockets)
	follow(rt, s, w, packs, sockets)

	err = httpapi.Serve(rt.Mux(), httpapi.Parts{
		Grants: d.grants, Handlers: d.handlers, Printed: w.logs, Containers: packs, Policy: s.policy, Usage: files.Usage,
		Remover: &uninstall.Service{
			Sockets: sockets, Workers: w.pool, Gates: s.gates, Grants: d.grants, Handlers: d.handlers, Logs: w.logs, Containers: packs,
		},
	})
	if err != nil {
		return err
	}
	if cfg.SecurityMode != permissive { // there, packs are processes that end with the broker
		stop := &shutdown.Packs{Containers: packs, Gates: s.gates, MountsLost: rt.MountsLost}
		rt.OnStop("packs", stop.Stop) // registered last, so done first: while it waits, sockets are served
	}
	return nil
}

// state is what the broker keeps and what it follows of approval.
type state struct {
	db    *dbstore.DB
	rows  *store.Store
	gates *gate.View // of approval; nothing is followed before follow
	trees *tree.Cache

	policy *policy.Reader
}

func openState(ctx context.Context, rt *service.Runtime, files layout.UserData) (s state, err error) {
	if s.db, err = dbstore.Open(ctx, rt.Store(), candidate.Migrations(store.Migrations())); err != nil {
		return s, err
	}
	rt.OnStop("store", func(context.Context) error { return s.db.Close() })
	rt.ReadyWhen("store", s.db.Ping)
	rt.ReadyWhenWritable("state folder", "state", files.State())
	rt.ReadyWhenWritable("packs' data", "packs", files.Packs())
	if s.policy, err = rt.OpenPolicy(); err != nil {
		return s, err
	}
	s.rows = store.New(s.db)
	if err := files.Make(); err != nil {
		return s, err
	}
	s.trees = tree.NewCache(files.Trees(), approval.NewClient(rt.Peer(approval.Service)).Tree)
	s.gates = gate.NewView(rt.Log)
	rt.Metrics.MustRegister(s.gates)
	s.gates.Trace(rt.Tracer)
	return s, nil
}

// host is this host and what runs containers on it.
type host struct {
	node    string // names the host in the database
	replica *replica.Replica
	engine  engine.Engine
}

func openHost(ctx context.Context, rt *service.Runtime, cfg config, files layout.UserData) (h host, err error) {
	if h.node, err = replica.Node(files.Capabilities()); err != nil {
		return h, err
	}
	if h.replica, err = replica.Join(files.Replicas()); err != nil {
		return h, err
	}
	rt.OnStop("replica", func(context.Context) error { h.replica.Close(); return nil })
	if h.engine, err = engine.Open(ctx, engine.Config{
		Permissive: cfg.SecurityMode == permissive, RuntimeDir: cfg.RuntimeDir, DockerSocket: cfg.DockerSocket, Instance: cfg.Instance,
		Runtime: cfg.Runtime, Home: rt.Identity.Home, HomeDirs: []string{files.Capabilities(), files.Packs(), cfg.SockDir},
		Node: h.node, Replica: h.replica.ID, ReplicaAlive: h.replica.Alive, Audit: rt.Audit, Log: rt.Log,
	}); err != nil {
		return h, err
	}
	if cfg.SecurityMode != permissive {
		rt.Go("docker", h.engine.Watch)
		rt.ReadyWhen("docker", func(ctx context.Context) error {
			if err := h.engine.Ready(ctx); err != nil {
				return service.WithFix(err, "start Docker; if it runs: docker compose restart capability-broker")
			}
			return nil
		})
	}
	rt.OnStop("engine", func(context.Context) error { return h.engine.Close() })
	return h, nil
}
