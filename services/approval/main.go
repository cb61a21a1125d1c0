package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	api "github.com/rumi-ai/rumi/api/approval"
	"github.com/rumi-ai/rumi/api/broker"
	"github.com/rumi-ai/rumi/api/pip"
	"github.com/rumi-ai/rumi/libs/confirm"
	"github.com/rumi-ai/rumi/libs/diskusage"
	"github.com/rumi-ai/rumi/libs/periodic"
	"github.com/rumi-ai/rumi/libs/service"
	libstore "github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/services/approval/internal/approval"
	"github.com/rumi-ai/rumi/services/approval/internal/blob"
	"github.com/rumi-ai/rumi/services/approval/internal/httpapi"
	"github.com/rumi-ai/rumi/services/approval/internal/pending"
	"github.com/rumi-ai/rumi/services/approval/internal/store"
	"github.com/rumi-ai/rumi/services/approval/internal/watch"
)

func main() { service.Main(api.Service, build) }

type config struct {
	Ecosystem      string        `env:"RUMI_ECOSYSTEM" envDefault:"/rumi/ecosystem"`
	VerifyInterval time.Duration `env:"RUMI_VERIFY_INTERVAL" envDefault:"30s"` // between two scans of every pack that may run

	Approvals confirm.Approvals `env:"RUMI_APPROVALS_REQUIRED" envDefault:"1"` // persons that an approval takes

	watches int // inotify watches at most; 0 for what the kernel allows. Tests set a low number.
}

// collectInterval is the time between two removals of approved bytes that no record needs any more.
const collectInterval = time.Hour

func build(ctx context.Context, rt *service.Runtime, cfg config) error {
	if cfg.VerifyInterval < time.Second {
		return fmt.Errorf("RUMI_VERIFY_INTERVAL: %v is less than a second", cfg.VerifyInterval)
	}
	db, err := libstore.Open(ctx, rt.Store(), store.Migrations)
	if err != nil {
		return err
	}
	rt.OnStop("store", func(context.Context) error { return db.Close() })
	rt.ReadyWhen("store", db.Ping)
	rt.ReadyWhenWritable("state folder", "state", filepath.Join(rt.UserData, "state"))
	rt.ReadyWhenWritable("approved packs", "approved", filepath.Join(rt.UserData, "approved"))
	rt.ReadyWhen("ecosystem", service.ReadableFolder(cfg.Ecosystem))
	blobs, err := blob.Open(filepath.Join(rt.UserData, "approved"), rt.Log)
	if err != nil {
		return err
	}
	rt.OnStop("blobs", func(context.Context) error { return blobs.Close() })
	ecosystem, err := os.OpenRoot(cfg.Ecosystem)
	if err != nil {
		return fmt.Errorf("open ecosystem: %w", err)
	}
	rt.OnStop("ecosystem", func(context.Context) error { return ecosystem.Close() })

	var packs *approval.Service
	running, stop := context.WithCancel(context.Background())
	rt.OnStop("verification", func(context.Context) error { stop(); return nil })
	watcher, err := watch.New(watch.Config{
		Root: cfg.Ecosystem, Limit: cfg.watches, Log: rt.Log, Metrics: rt.Metrics,
		OnChange: func(ids []string, all bool) { packs.VerifyChanged(running, ids, all) },
	})
	if err != nil {
		return err
	}
	rt.OnStop("watcher", func(context.Context) error { return watcher.Close() })
	export := pending.New(filepath.Join(rt.UserData, "pending"), pending.Sources{
		Packs:      func(ctx context.Context) (pending.Packs, error) { return packs.PendingCounts(ctx) },
		Capability: broker.NewClient(rt.Peer(broker.Service)).Counts,
		Pip:        pip.NewClient(rt.Peer(pip.Service)).Counts,
	}, rt.Log)
	packs, err = approval.Open(ctx, approval.Dependencies{
		Ecosystem: ecosystem, Records: store.New(db), Blobs: blobs, Audit: rt.Audit, Log: rt.Log, Watcher: watcher, OnChange: export.Notify,
		Metrics: rt.Metrics, Approvals: cfg.Approvals,
	})
	if err != nil {
		return err
	}
	rt.Go("watcher", watcher.Run)
	rt.Go("decisions of other replicas", packs.Follow)
	rt.Go("verification of what can't be watched", packs.VerifyUnwatched)
	rt.Go("pending export", export.Run)
	rt.Go("verification at intervals", func(ctx context.Context) error {
		return periodic.Run(ctx, cfg.VerifyInterval, func(ctx context.Context) { packs.VerifyChanged(ctx, nil, true) })
	})
	rt.Go("collection", func(ctx context.Context) error {
		return periodic.Run(ctx, collectInterval, func(ctx context.Context) {
			if err := packs.Collect(ctx); err != nil {
				rt.Log.ErrorContext(ctx, "could not remove approved bytes that no record needs", "error", err)
			}
		})
	})
	return httpapi.Serve(rt.Mux(), packs, export, func(ctx context.Context) ([]diskusage.Item, error) {
		return diskusage.Folders(ctx, rt.UserData, diskusage.Folder{Path: "approved", Depth: 1, Kind: "approved_trees"}) // Collect removes those that no record needs
	})
}
