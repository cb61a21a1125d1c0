// Package httpapi is the HTTP side of pack-registry.
package httpapi

import (
	"context"
	"path"
	"sync"

	"github.com/rumi-ai/rumi/api/broker"
	api "github.com/rumi-ai/rumi/api/registry"
	"github.com/rumi-ai/rumi/libs/diskusage"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/rpc/server"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/ecosystem"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/staging"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/uninstall"
)

// gateway is the one through which operators call.
const gateway = "gateway"

// Refresher has approval read packs again: those named, or all; Replaced says that they have just been put in place.
type Refresher interface {
	Refresh(ctx context.Context, packIDs ...string) error
	Replaced(ctx context.Context, packIDs ...string) error
}

// Restorer has the capability broker give a pack the data again that its last uninstall put aside.
type Restorer interface {
	RestoreData(ctx context.Context, packID string) (broker.RestoredData, error)
}

// Packs is what the routes serve.
type Packs struct {
	Stages    *staging.Area
	Ecosystem *ecosystem.Ecosystem
	Uninstall *uninstall.Uninstaller
	Approval  Refresher
	Data      Restorer
}

// Routes serves p.
func Routes(mux *server.Mux, p Packs) {
	mux.Route("POST /api/packs/scan", rpc.Handle(p.scan), gateway)
	mux.Route("POST /api/packs/import", rpc.Raw(p.importPack), gateway)
	mux.Route("POST /api/packs/apply", rpc.Handle(p.apply), gateway)
	mux.Route("GET /api/packs/staging", rpc.Handle(p.listStagings), gateway)
	mux.Route("DELETE /api/packs/staging/{staging_id}", rpc.Handle(p.discardStaging), gateway)
	mux.Route("GET /api/packs/{pack_id}/{part}", rpc.Handle(p.part), gateway)
	mux.Route("POST /api/packs/{pack_id}/rollback", rpc.Handle(p.rollback), gateway)
	mux.Route("DELETE /api/packs/{pack_id}/backups/{backup}", rpc.Handle(p.removeBackup), gateway)
	mux.Route("DELETE /api/packs/{pack_id}", rpc.Handle(p.remove), gateway)
	diskusage.Route(mux, p.usage)
	mux.Route("POST "+api.SelectPath, rpc.Handle(p.selectFiles), "approval", "capability-broker", "pip-installer")
}

type partRequest struct {
	PackID string `json:"-" path:"pack_id"`
	Part   string `json:"-" path:"part"`
}

// part answers GET /api/packs/{pack_id}/backups and GET /api/packs/staging/{staging_id}. Two patterns of http.ServeMux can't, since
// both fit the backups of a pack called staging.
func (p Packs) part(ctx context.Context, r partRequest) (any, error) {
	switch {
	case r.Part == "backups":
		return p.backups(ctx, r.PackID)
	case r.PackID == "staging":
		return p.inspectStaging(ctx, r.Part)
	default:
		return nil, fault.NoRoute()
	}
}

type scanResponse struct {
	Scanned  int                 `json:"scanned"`
	Packs    []string            `json:"packs"`
	Errors   []ecosystem.Refusal `json:"errors"`
	Warnings []string            `json:"warnings"`
}

func (p Packs) scan(ctx context.Context, _ struct{}) (scanResponse, error) {
	warnings := p.Ecosystem.RemoveLeftovers(ctx)
	var refreshed sync.WaitGroup
	var notTold error
	refreshed.Go(func() { notTold = p.Approval.Refresh(ctx) })
	found := p.Ecosystem.Scan()
	refreshed.Wait()
	if notTold != nil {
		return scanResponse{}, notTold
	}
	return scanResponse{Scanned: len(found.PackIDs), Packs: found.PackIDs, Errors: orEmpty(found.Broken), Warnings: orEmpty(append(found.Warnings, warnings...))}, nil
}

type applyRequest struct {
	StagingID string `json:"staging_id"`
	Mode      string `json:"mode"`
}

type applyResponse struct {
	Success        bool                `json:"success"`
	AppliedPackIDs []string            `json:"applied_pack_ids"`
	BackupPaths    map[string]string   `json:"backup_paths"`
	Errors         []ecosystem.Refusal `json:"errors"`
	Warnings       []string            `json:"warnings,omitzero"`
}

func (p Packs) apply(ctx context.Context, r applyRequest) (applyResponse, error) {
	if r.StagingID == "" {
		return applyResponse{}, fault.Invalid("Missing 'staging_id'").With("missing_staging_id")
	}
	id, err := staging.ParseID(r.StagingID)
	if err != nil {
		return applyResponse{}, err
	}
	if r.Mode != "" && r.Mode != "replace" {
		return applyResponse{}, fault.Invalid("Unsupported mode: %s", r.Mode).With("unsupported_mode")
	}
	applied, err := p.Ecosystem.Apply(ctx, id)
	if refused, ok := asRefused(err); ok {
		return applyResponse{}, fault.Conflict("%s", refused.Error()).With("pack_refused").
			Carrying(applyResponse{AppliedPackIDs: []string{}, BackupPaths: map[string]string{}, Errors: refused.Refusals}).Because(err)
	}
	if err != nil {
		return applyResponse{}, err
	}
	response := applyResponse{Success: true, AppliedPackIDs: applied.PackIDs, BackupPaths: applied.Backups, Errors: []ecosystem.Refusal{}, Warnings: applied.Warnings}
	response.Warnings = append(response.Warnings, p.Ecosystem.Declared(applied.PackIDs...)...)
	response.Warnings = append(response.Warnings, p.tellApproval(ctx, applied.PackIDs...)...)
	return response, nil
}

type removeRequest struct {
	PackID string `json:"-" path:"pack_id"`
}

func (p Packs) remove(ctx context.Context, r removeRequest) (uninstall.Result, error) {
	id, err := pack.ParseID(r.PackID)
	if err != nil {
		return uninstall.Result{}, err
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

// orEmpty makes [] of what would be null.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// stagingDir is where a staging lies, relative to the Rumi home.
func stagingDir(id string) string { return path.Join("user_data/pack_staging", id) }
