package httpapi

import (
	"context"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
)

type backupsResponse struct {
	PackID  string   `json:"pack_id"`
	Backups []backup `json:"backups"` // the newest first
}

type backup struct {
	Backup       string    `json:"backup"` // its name, for rollback
	CreatedAt    time.Time `json:"created_at"`
	Version      string    `json:"version"`
	PackIdentity string    `json:"pack_identity"`
	Reason       string    `json:"reason"` // apply, uninstall or rollback
	Path         string    `json:"path"`   // relative to the Rumi home
	Bytes        int64     `json:"bytes"`
	Error        string    `json:"error,omitzero"` // why version and identity can't be told
}

// backups answers 404 for a pack that is not installed and has no backup.
func (p Packs) backups(ctx context.Context, packID string) (backupsResponse, error) {
	id, err := pack.ParseID(packID)
	if err != nil {
		return backupsResponse{}, err
	}
	all, err := p.Ecosystem.Backups(ctx, id)
	if err != nil {
		return backupsResponse{}, err
	}
	if len(all) == 0 && !p.Ecosystem.Has(id) {
		return backupsResponse{}, fault.PackNotFound()
	}
	response := backupsResponse{PackID: string(id), Backups: make([]backup, 0, len(all))}
	for _, b := range all {
		response.Backups = append(response.Backups, backup{b.Name, b.CreatedAt, b.Version, b.Identity, b.Reason, b.Path, b.Bytes, b.Error})
	}
	return response, nil
}

type backupRequest struct {
	PackID string `json:"-" path:"pack_id"`
	Backup string `json:"-" path:"backup"`
}

type backupResponse struct {
	Success bool   `json:"success"`
	PackID  string `json:"pack_id"`
	Backup  string `json:"backup"`
}

func (p Packs) removeBackup(ctx context.Context, r backupRequest) (backupResponse, error) {
	id, err := pack.ParseID(r.PackID)
	if err != nil {
		return backupResponse{}, err
	}
	return backupResponse{Success: true, PackID: string(id), Backup: r.Backup}, p.Ecosystem.RemoveBackup(ctx, id, r.Backup)
}

type rollbackRequest struct {
	PackID string `json:"-" path:"pack_id"`
	Backup string `json:"backup"`
	Data   bool   `json:"data"` // put back what the pack kept in /data when it was last uninstalled, too
}

type rollbackResponse struct {
	Success    bool     `json:"success"`
	PackID     string   `json:"pack_id"`
	Backup     string   `json:"backup"`             // what is installed now
	Version    string   `json:"version"`            // of it
	BackupPath *string  `json:"backup_path"`        // of what was installed before, relative to the Rumi home; null where nothing was
	DataPath   string   `json:"data_path,omitzero"` // where the data lay that was put back, relative to the Rumi home; only where it was asked for
	Warnings   []string `json:"warnings,omitzero"`
}

func (p Packs) rollback(ctx context.Context, r rollbackRequest) (rollbackResponse, error) {
	id, err := pack.ParseID(r.PackID)
	if err != nil {
		return rollbackResponse{}, err
	}
	if r.Backup == "" {
		return rollbackResponse{}, fault.Invalid("Missing 'backup'").With("missing_backup")
	}
	rolled, err := p.Ecosystem.Rollback(ctx, id, r.Backup)
	if refused, ok := asRefused(err); ok {
		return rollbackResponse{}, fault.Conflict("%s", refused.Error()).With("pack_refused").Because(err)
	}
	if err != nil {
		return rollbackResponse{}, err
	}
	response := rollbackResponse{Success: true, PackID: string(id), Backup: r.Backup, Version: rolled.Version, Warnings: rolled.Warnings}
	if rolled.Backup != "" {
		response.BackupPath = &rolled.Backup
	}
	response.Warnings = append(response.Warnings, p.tellApproval(ctx, string(id))...)
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

// tellApproval has approval read packs that have just been put in place. It watches the place: what it can't be told now it finds
// by itself, so that is a warning.
func (p Packs) tellApproval(ctx context.Context, ids ...string) (warnings []string) {
	if err := p.Approval.Replaced(context.WithoutCancel(ctx), ids...); err != nil {
		return []string{"approval could not be told: " + fault.Of(err).Message}
	}
	return nil
}
