package httpapi

import (
	"context"

	api "github.com/rumi-ai/rumi/api/registry"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
)

// backups answers 404 for a pack that is not installed and has no backup.
func (p Packs) backups(ctx context.Context, r api.PackRequest) (api.BackupsResponse, error) {
	id, err := pack.ParseID(r.PackID)
	if err != nil {
		return api.BackupsResponse{}, err
	}
	all, err := p.Ecosystem.Backups(ctx, id)
	if err != nil {
		return api.BackupsResponse{}, err
	}
	if len(all) == 0 && !p.Ecosystem.Has(id) {
		return api.BackupsResponse{}, fault.PackNotFound()
	}
	response := api.BackupsResponse{PackID: string(id), Backups: make([]api.Backup, 0, len(all))}
	for _, b := range all {
		response.Backups = append(response.Backups, api.Backup{
			Backup: b.Name, CreatedAt: b.CreatedAt, Version: b.Version, PackIdentity: b.Identity, Reason: b.Reason, Path: b.Path, Bytes: b.Bytes, Error: b.Error,
		})
	}
	return response, nil
}

func (p Packs) removeBackup(ctx context.Context, r api.BackupRequest) (api.BackupResponse, error) {
	id, err := pack.ParseID(r.PackID)
	if err != nil {
		return api.BackupResponse{}, err
	}
	return api.BackupResponse{Success: true, PackID: string(id), Backup: r.Backup}, p.Ecosystem.RemoveBackup(ctx, id, r.Backup)
}

func (p Packs) rollback(ctx context.Context, r api.RollbackRequest) (api.RollbackResponse, error) {
	id, err := pack.ParseID(r.PackID)
	if err != nil {
		return api.RollbackResponse{}, err
	}
	if r.Backup == "" {
		return api.RollbackResponse{}, fault.Invalid("Missing 'backup'").With("missing_backup")
	}
	rolled, err := p.Ecosystem.Rollback(ctx, id, r.Backup)
	if refused, ok := asRefused(err); ok {
		return api.RollbackResponse{}, fault.Conflict("%s", refused.Error()).With("pack_refused").Because(err)
	}
	if err != nil {
		return api.RollbackResponse{}, err
	}
	response := api.RollbackResponse{Success: true, PackID: string(id), Backup: r.Backup, Version: rolled.Version, Warnings: rolled.Warnings}
	if rolled.Backup != "" {
		response.BackupPath = &rolled.Backup
	}
	response.Warnings = append(response.Warnings, p.notifyApproval(ctx, string(id))...)
	if r.Data {
		// After the pack, so that no other one ever gets the data. The pack waits for a decision and doesn't run meanwhile.
		restored, err := p.Data.RestoreData(context.WithoutCancel(ctx), string(id))
		if err != nil {
			response.Warnings = append(response.Warnings, "its data was not put back: "+fault.Of(err).Message)
		}
		response.DataPath = restored.Path
	}
	return response, nil
}

// notifyApproval has approval scan packs that were just replaced. Approval watches the folder, too, and notices by itself what it
// can't be notified of, so that a failure is only a warning.
func (p Packs) notifyApproval(ctx context.Context, ids ...string) (warnings []string) {
	if err := p.Approval.Replaced(context.WithoutCancel(ctx), ids...); err != nil {
		return []string{"approval could not be notified of the change, and will notice it by itself: " + fault.Of(err).Message}
	}
	return nil
}
