// Package httpapi answers the endpoints of api/registry: it checks requests, reads uploads, calls imports, apply, backups and uninstall,
// and turns what they find into answers.
package httpapi

import (
	"context"
	"path"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rumi-ai/rumi/api/broker"
	api "github.com/rumi-ai/rumi/api/registry"
	"github.com/rumi-ai/rumi/libs/diskusage"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/outcome"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/route"
	"github.com/rumi-ai/rumi/libs/rpc/server"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/ecosystem"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/staging"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/uninstall"
)

// Refresher has approval scan packs: those named, or all. Replaced says that they were just replaced by an apply or a rollback.
type Refresher interface {
	Refresh(ctx context.Context, packIDs ...string) error
	Replaced(ctx context.Context, packIDs ...string) error
}

// Restorer has the capability broker give a pack the data again that its last uninstall put aside.
type Restorer interface {
	RestoreData(ctx context.Context, packID string) (broker.RestoredData, error)
}

// Packs has the parts of the domain that the routes serve.
type Packs struct {
	Stages    *staging.Area
	Ecosystem *ecosystem.Ecosystem
	Uninstall *uninstall.Uninstaller
	Approval  Refresher
	Data      Restorer
	Metrics   prometheus.Registerer
}

// Serve answers the endpoints of api/registry on mux, and registers metrics.
func Serve(mux *server.Mux, p Packs) error {
	h, changes := route.NewHandlers(api.Routes), newChanges(p.Metrics)
	route.Handle(h, api.Scan, p.scan)
	route.HandleRaw(h, api.Import, p.importPack)
	route.Handle(h, api.Apply, outcome.Counted(changes["apply"], p.apply))
	route.Handle(h, api.Uninstall, outcome.Counted(changes["uninstall"], p.remove))
	route.Handle(h, api.ListBackups, p.backups)
	route.Handle(h, api.RemoveBackup, p.removeBackup)
	route.Handle(h, api.Rollback, outcome.Counted(changes["rollback"], p.rollback))
	route.Handle(h, api.ListStagings, p.listStagings)
	route.Handle(h, api.InspectStaging, p.inspectStaging)
	route.Handle(h, api.DiscardStaging, p.discardStaging)
	route.Handle(h, api.Select, p.selectFiles)
	diskusage.Handle(h, api.Storage, p.usage)
	return h.Mount(mux)
}

func (p Packs) scan(ctx context.Context, _ struct{}) (api.ScanResponse, error) {
	warnings := p.Ecosystem.RemoveLeftovers(ctx)
	var refreshed sync.WaitGroup
	var notTold error
	refreshed.Go(func() { notTold = p.Approval.Refresh(ctx) })
	found := p.Ecosystem.Scan()
	refreshed.Wait()
	if notTold != nil {
		return api.ScanResponse{}, notTold
	}
	return api.ScanResponse{Scanned: len(found.PackIDs), Packs: found.PackIDs, Errors: refusals(found.Broken), Warnings: orEmpty(append(found.Warnings, warnings...))}, nil
}

func (p Packs) apply(ctx context.Context, r api.ApplyRequest) (api.ApplyResponse, error) {
	if r.StagingID == "" {
		return api.ApplyResponse{}, fault.Invalid("Missing 'staging_id'").With("missing_staging_id")
	}
	id, err := staging.ParseID(r.StagingID)
	if err != nil {
		return api.ApplyResponse{}, err
	}
	if r.Mode != "" && r.Mode != "replace" {
		return api.ApplyResponse{}, fault.Invalid("Unsupported mode: %s", r.Mode).With("unsupported_mode")
	}
	applied, err := p.Ecosystem.Apply(ctx, id)
	if refused, ok := asRefused(err); ok {
		return api.ApplyResponse{}, fault.Conflict("%s", refused.Error()).With("pack_refused").
			Carrying(api.ApplyResponse{AppliedPackIDs: []string{}, BackupPaths: map[string]string{}, Errors: refusals(refused.Refusals)}).Because(err)
	}
	if err != nil {
		return api.ApplyResponse{}, err
	}
	response := api.ApplyResponse{Success: true, AppliedPackIDs: applied.PackIDs, BackupPaths: applied.Backups, Errors: []api.Refusal{}, Warnings: applied.Warnings}
	response.Warnings = append(response.Warnings, p.Ecosystem.DeclarationWarnings(applied.PackIDs...)...)
	response.Warnings = append(response.Warnings, p.notifyApproval(ctx, applied.PackIDs...)...)
	return response, nil
}

func (p Packs) remove(ctx context.Context, r api.PackRequest) (api.UninstallResponse, error) {
	id, err := pack.ParseID(r.PackID)
	if err != nil {
		return api.UninstallResponse{}, err
	}
	return p.Uninstall.Uninstall(ctx, id)
}

func (p Packs) selectFiles(ctx context.Context, r api.SelectRequest) (api.SelectResponse, error) {
	packs, err := p.Ecosystem.Select(ctx, r.Patterns)
	return api.SelectResponse{Packs: packs}, err
}

// usage lists what pack-registry keeps on the disk.
func (p Packs) usage(ctx context.Context) ([]diskusage.Item, error) {
	return append(p.Stages.Usage(ctx), p.Ecosystem.Usage(ctx)...), ctx.Err()
}

// refusals are those of the domain as answers have them.
func refusals(list []ecosystem.Refusal) []api.Refusal {
	all := make([]api.Refusal, len(list))
	for i, r := range list {
		all[i] = api.Refusal(r)
	}
	return all
}

// orEmpty makes [] of what would be null.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// stagingDir is where a staging lies, relative to the Rumi home.
func stagingDir(id string) string { return path.Join("user_data/pack_staging", id) }
