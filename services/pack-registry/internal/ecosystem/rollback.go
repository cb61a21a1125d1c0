package ecosystem

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/journal"
)

// RolledBack is the result of a rollback.
type RolledBack struct {
	Version  string // of the pack that is installed now
	Backup   string // of what was installed before, relative to the Rumi home; "" where nothing was
	Warnings []string
}

// Rollback installs a pack as it was when the named backup was made, with its links. What is installed now is backed up first;
// the change is as atomic as Apply. name is the Name of one of Backups. Errors are faults (404 "Backup not found: NAME"), or a
// *RefusedError where the installed pack is another one than the backup. A pack whose descriptor can't be read, or has no
// identity, can be rolled back.
func (e *Ecosystem) Rollback(ctx context.Context, id pack.ID, name string) (RolledBack, error) {
	rolled, err := e.rollBack(ctx, id, name)
	if err != nil {
		entry := failedEntry(journal.Operation{Packs: []journal.Pack{{ID: id, Source: name}}}, err)
		return RolledBack{}, errors.Join(err, e.audit.WriteEach(context.WithoutCancel(ctx), entry, []string{string(id)}))
	}
	return rolled, nil
}

// rollBack is Rollback without the audit entry of a failure.
func (e *Ecosystem) rollBack(ctx context.Context, id pack.ID, name string) (RolledBack, error) {
	if _, ok := parseBackupName(name); !ok {
		return RolledBack{}, backupNotFound(name)
	}
	blocked := e.uninstallBlocks(ctx)
	release, interrupted, err := e.lockAndRecover(ctx, lockWait)
	if err != nil {
		return RolledBack{}, err
	}
	defer release()
	maps.Copy(blocked, interrupted)
	backups, from, err := e.findBackup(id, name)
	if err != nil {
		return RolledBack{}, err
	}
	refuse := newRefusal(string(id))
	declared, err := describe(backups, from)
	if err != nil {
		return RolledBack{}, refuse("Backup can't be restored: %v", err)
	}
	if declared.PackID != id {
		return RolledBack{}, refuse("pack_id mismatch: existing='%s', new='%s'", id, declared.PackID)
	}
	existing, err := e.existingPack(string(id), id, blocked)
	if err != nil {
		return RolledBack{}, err
	}
	if existing != nil && !unidentified(*existing) {
		if err := mismatch(string(id), *existing, declared); err != nil {
			return RolledBack{}, err
		}
	}
	op := newOperation()
	one, err := e.planReplacement(op, id, from, existing)
	if err != nil {
		return RolledBack{}, err
	}
	op.Packs = append(op.Packs, one)
	warnings, err := e.execute(ctx, op, backups)
	if err != nil {
		return RolledBack{}, err
	}
	if declared.PackIdentity == "" {
		warnings = append(warnings, pack.NoIdentity)
	}
	return RolledBack{Version: declared.Version, Backup: backupPaths(op)[string(id)], Warnings: warnings}, nil
}

func backupNotFound(name string) error {
	return fault.NotFound("Backup not found: %s", name).With("backup_not_found")
}

// findBackup is the path of a backup in the folder of all backups; without one the error is a fault, 404.
func (e *Ecosystem) findBackup(id pack.ID, name string) (backups *os.Root, dir string, err error) {
	if backups, err = e.backups.open(); err != nil {
		return nil, "", err
	}
	dir = path.Join(string(id), name)
	switch info, err := backups.Lstat(dir); {
	case errors.Is(err, fs.ErrNotExist), err == nil && !info.IsDir():
		return nil, "", backupNotFound(name)
	case err != nil:
		return nil, "", err
	}
	return backups, dir, nil
}

// unidentified says whether an installed pack is so broken that its identity isn't known. Rollback is there to repair
// that. It is no way around the identity check: the operator names the backup, and whatever is restored waits for an approval.
func unidentified(existing pack.Found) bool {
	if existing.Err != nil {
		return true
	}
	return existing.Descriptor.PackIdentity == "" && existing.Descriptor.PackID == existing.ID
}
