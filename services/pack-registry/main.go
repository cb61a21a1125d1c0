package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/rumi-ai/rumi/api/approval"
	"github.com/rumi-ai/rumi/api/broker"
	"github.com/rumi-ai/rumi/api/egress"
	"github.com/rumi-ai/rumi/api/pip"
	"github.com/rumi-ai/rumi/api/registry"
	"github.com/rumi-ai/rumi/libs/service"
	libstore "github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/ecosystem"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/httpapi"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/staging"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/store"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/uninstall"
)

func main() { service.Main(registry.Service, build) }

// config is what only this service knows.
type config struct {
	Ecosystem   string   `env:"RUMI_ECOSYSTEM" envDefault:"/rumi/ecosystem"`
	ImportRoots []string `env:"RUMI_IMPORT_ROOTS"`                 // folders outside of the Rumi home from which packs may be imported, separated by commas
	Backups     int      `env:"RUMI_PACK_BACKUPS" envDefault:"10"` // backups that are kept of each pack; 0 for all
	HomePath    string   `env:"RUMI_HOME_PATH"`                    // the path of the Rumi home on the host
}

// SpareHeap is the ballast of the heap in bytes (see libs/service). It is smaller than in other services: an import must stay under
// 32 MiB however many there were before it, and imports are so rare that frequent collections cost nothing.
func (config) SpareHeap() int { return 8 << 20 }

func build(ctx context.Context, rt *service.Runtime, cfg config) error {
	if cfg.Backups < 0 {
		return fmt.Errorf("RUMI_PACK_BACKUPS: %d is less than 0", cfg.Backups)
	}
	db, err := libstore.Open(ctx, rt.Store(), store.Migrations())
	if err != nil {
		return err
	}
	rt.OnStop("store", func(context.Context) error { return db.Close() })
	rt.ReadyWhen("store", db.Ping)
	rt.ReadyWhenWritable("state folder", "state", filepath.Join(rt.UserData, "state"))
	rt.ReadyWhenWritable("ecosystem", "ecosystem", cfg.Ecosystem)
	rt.ReadyWhenWritable("pack staging", "pack_staging", filepath.Join(rt.UserData, "pack_staging"))
	rt.ReadyWhenWritable("pack backups", "pack_backups", filepath.Join(rt.UserData, "pack_backups"))
	records := store.New(db)

	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("read mount table: %w", err)
	}
	alias := homeAlias(cfg.HomePath, cfg.Ecosystem, string(mounts))
	if alias == "" && cfg.HomePath != "" {
		rt.Log.Warn("RUMI_HOME_PATH is not the folder that is mounted; absolute paths in the Rumi home are refused", "path", cfg.HomePath)
	}

	stagingDir := filepath.Join(rt.UserData, "pack_staging")
	stages := staging.Open(stagingDir, staging.ImportFolders{
		Home: filepath.Dir(cfg.Ecosystem), HomeAlias: alias, Inside: []string{"ecosystem", "user_data/import"}, Absolute: cfg.ImportRoots,
	}, records, rt.Audit, rt.Log, rt.Metrics)
	rt.OnStop("staging area", func(context.Context) error { return stages.Close() })
	owner := approval.NewClient(rt.Peer(approval.Service))
	packs, err := ecosystem.Open(ecosystem.Config{
		Dir: cfg.Ecosystem, Backups: filepath.Join(rt.UserData, "pack_backups"), Lock: filepath.Join(stagingDir, ".lock"), Keep: cfg.Backups,
		Retired: owner.Retired, Approved: owner.Approved, Metrics: rt.Metrics,
	}, stages, records, rt.Audit, rt.Log)
	if err != nil {
		return err
	}
	rt.OnStop("ecosystem", func(context.Context) error { return packs.Close() })
	packs.Recover(ctx)

	rt.Go("sweeper", stages.SweepHourly)
	runner := broker.NewClient(rt.Peer(broker.Service))
	return httpapi.Serve(rt.Mux(), httpapi.Packs{
		Stages: stages, Ecosystem: packs, Approval: owner, Data: runner, Metrics: rt.Metrics,
		Uninstall: uninstall.New(uninstall.Owners{
			Approval: owner,
			Broker:   runner,
			Egress:   egress.NewClient(rt.Peer(egress.Service)),
			Pip:      pip.NewClient(rt.Peer(pip.Service)),
		}, packs, rt.Audit, rt.Log),
	})
}
