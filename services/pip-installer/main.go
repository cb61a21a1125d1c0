package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/rumi-ai/rumi/api/approval"
	api "github.com/rumi-ai/rumi/api/pip"
	"github.com/rumi-ai/rumi/api/registry"
	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/authorities"
	"github.com/rumi-ai/rumi/libs/candidate"
	"github.com/rumi-ai/rumi/libs/confirm"
	"github.com/rumi-ai/rumi/libs/diskusage"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/periodic"
	"github.com/rumi-ai/rumi/libs/sandbox"
	"github.com/rumi-ai/rumi/libs/service"
	"github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/libs/tree"
	"github.com/rumi-ai/rumi/services/pip-installer/internal/build"
	"github.com/rumi-ai/rumi/services/pip-installer/internal/environment"
	"github.com/rumi-ai/rumi/services/pip-installer/internal/httpapi"
	"github.com/rumi-ai/rumi/services/pip-installer/internal/installer"
)

// config is what only pip-installer knows.
type config struct {
	BuilderImage string   `env:"RUMI_BUILDER_IMAGE" envDefault:"rumi-builder:local"`
	IndexURLs    []string `env:"RUMI_PIP_INDEX_URLS"`    // package indexes that may be used, the default first; unset: pip's own default only
	AllowCIDRs   []string `env:"RUMI_PIP_ALLOW_CIDRS"`   // internal networks in which an index may be
	CAFile       string   `env:"RUMI_PIP_CA_FILE"`       // PEM file of certificate authorities, in addition to the public ones
	Runtime      string   `env:"RUMI_CONTAINER_RUNTIME"` // Docker's name of the runtime of builder containers; unset: Docker's default

	Approvals confirm.Approvals `env:"RUMI_APPROVALS_REQUIRED" envDefault:"1"` // persons that an approval takes
}

func main() { service.Main(api.Service, start) }

// start is the service with builds in containers.
func start(ctx context.Context, rt *service.Runtime, cfg config) error {
	engine, err := sandbox.Connect(ctx, sandbox.Config{Home: rt.Identity.Home, HomeDirs: []string{filepath.Join(rt.UserData, "pip")}, Runtime: cfg.Runtime, ImageMoved: imageMoved(rt)})
	if err != nil {
		return err
	}
	rt.OnStop("docker", func(context.Context) error { return engine.Close() })
	rt.Go("docker", engine.Watch)
	rt.ReadyWhen("docker", engine.Ready)
	cidrs, err := installer.ParseCIDRs(cfg.AllowCIDRs)
	if err != nil {
		return err
	}
	ca, err := authoritiesOf(rt, cfg)
	if err != nil {
		return err
	}
	work, err := makeDir(rt, "work")
	if err != nil {
		return err
	}
	builder := build.New(build.Config{Engine: engine, Image: cfg.BuilderImage, Dir: work, AllowCIDRs: cidrs, CA: ca, Log: rt.Log, Metrics: rt.Metrics})
	rt.Go("sweep of builds", func(ctx context.Context) error {
		return periodic.Run(ctx, time.Minute, func(ctx context.Context) {
			if err := builder.Sweep(ctx); err != nil {
				rt.Log.WarnContext(ctx, "could not remove finished builds", "error", err)
			}
		})
	})
	return assemble(ctx, rt, cfg, builder, gate.NewView(rt.Log))
}

// imageMoved returns the function that logs and audits that the builder image's tag points to another image than before:
// somebody has replaced the image in which strangers' code runs.
func imageMoved(rt *service.Runtime) func(ctx context.Context, name, from, to string) {
	return func(ctx context.Context, name, from, to string) {
		rt.Log.WarnContext(ctx, "the builder image's tag now points to another image", "image", name, "from", from, "to", to)
		err := rt.Audit.Write(ctx, audit.Entry{Category: audit.Security, Severity: audit.Warning, Action: "image_moved", Success: true,
			Details: map[string]any{"image": name, "from": from, "to": to}})
		if err != nil {
			rt.Log.ErrorContext(ctx, "could not audit that the builder image changed", "image", name, "error", err)
		}
	}
}

// assemble is the service with any Builder; tests use one without containers. It follows the gates into gates.
func assemble(ctx context.Context, rt *service.Runtime, cfg config, builder installer.Builder, gates *gate.View) error {
	indexes, err := installer.ParseIndexes(cfg.IndexURLs)
	if err != nil {
		return err
	}
	db, err := store.Open(ctx, rt.Store(), candidate.Migrations(nil))
	if err != nil {
		return err
	}
	rt.OnStop("store", func(context.Context) error { return db.Close() })
	rt.ReadyWhen("store", db.Ping)
	rt.ReadyWhenWritable("state folder", "state", filepath.Join(rt.UserData, "state"))
	rt.ReadyWhenWritable("environments", "pip", filepath.Join(rt.UserData, "pip"))

	trees, err := makeDir(rt, "trees")
	if err != nil {
		return err
	}
	environments, err := makeDir(rt, "environments")
	if err != nil {
		return err
	}
	gatekeeper := approval.NewClient(rt.Peer(approval.Service))
	approved := tree.NewCache(trees, func(ctx context.Context, digest string) (io.ReadCloser, error) { return gatekeeper.Tree(ctx, digest) })
	notify := candidate.NewTask("notifying approval of pending locks", gatekeeper.RefreshPending)
	notify.Due() // counts may have changed while approval or this service was down
	rt.Go("pending counts", func(ctx context.Context) error { return notify.Run(ctx, rt.Log) })

	ceiling, err := rt.OpenPolicy()
	if err != nil {
		return err
	}
	rt.Metrics.MustRegister(gates)
	gates.Trace(rt.Tracer)
	i := installer.New(installer.Config{
		DB: db, Registry: registry.NewClient(rt.Peer(registry.Service)), Gates: gates, Approved: approved,
		Environments: environment.NewStore(environments), Builder: builder, Indexes: indexes, Policy: ceiling, Audit: rt.Audit, Log: rt.Log, Metrics: rt.Metrics,
		Changed: func(context.Context) { notify.Due() }, Approvals: cfg.Approvals,
	})
	// A lock becomes a candidate when its pack is installed, not only when an operator asks for a scan.
	notice := candidate.NewTask("scanning packs for locks", i.BackgroundScanLocks)
	gates.OnChange(func(gate.Change) { notice.Due() })
	rt.Go("locks of packs", func(ctx context.Context) error { return notice.Run(ctx, rt.Log) })
	rt.Go("gates", func(ctx context.Context) error { return gates.Follow(ctx, rt.Peer(approval.Service)) })
	rt.Go("sweep of trees", func(ctx context.Context) error {
		return periodic.Run(ctx, time.Hour, func(ctx context.Context) {
			if err := i.SweepAll(ctx); err != nil {
				rt.Log.WarnContext(ctx, "could not remove unused copies of approved packs", "error", err)
			}
		})
	})
	return httpapi.Serve(rt.Mux(), i, ceiling, func(ctx context.Context) ([]diskusage.Item, error) {
		return diskusage.Folders(ctx, rt.UserData, diskusage.Folder{Path: "pip/environments", Depth: 1, Kind: "environment"},
			diskusage.Folder{Path: "pip/trees", Kind: "approved_trees"}, diskusage.Folder{Path: "pip/work", Depth: 1, Kind: "build"})
	})
}

// makeDir makes a folder of this service below user_data/pip.
func makeDir(rt *service.Runtime, name string) (string, error) {
	dir := filepath.Join(rt.UserData, "pip", name)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", fmt.Errorf("make folder: %w", err)
	}
	return dir, nil
}

// authoritiesOf returns the operator's certificate authorities as PEM for the next build; nil if none are configured.
func authoritiesOf(rt *service.Runtime, cfg config) (func() []byte, error) {
	if cfg.CAFile == "" {
		return nil, nil
	}
	file, err := authorities.Open("RUMI_PIP_CA_FILE", cfg.CAFile, rt.Log)
	if err != nil {
		return nil, err
	}
	rt.ReadyWhen("certificate authorities", func(context.Context) error {
		return service.WithFix(file.Ready(), "mend the file that RUMI_PIP_CA_FILE names, then run: docker compose up --detach")
	})
	return file.PEM, nil
}
