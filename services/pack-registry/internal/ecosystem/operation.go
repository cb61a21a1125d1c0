package ecosystem

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"syscall"
	"time"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/folder"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/journal"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/staging"
)

// newOperation makes an operation with a new id and no packs. It is not in the journal yet.
func newOperation() journal.Operation {
	return journal.Operation{ID: staging.NewID(), StartedAt: time.Now().UTC().Truncate(time.Microsecond)}
}

// isRollback says whether an operation restores a backup; otherwise it applies a staging.
func isRollback(op journal.Operation) bool { return op.StagingID == "" }

// planReplacement plans what op does to a pack: the folder source replaces existing, which is nil for a new pack.
func (e *Ecosystem) planReplacement(op journal.Operation, id pack.ID, from string, existing *pack.Found) (journal.Pack, error) {
	one := journal.Pack{ID: id, Source: from, Prepared: newPrefix + op.ID + "-" + string(id)}
	if existing == nil {
		return one, nil
	}
	reason := ForApply
	if isRollback(op) {
		reason = ForRollback
	}
	var err error
	if one.Backup, err = e.newBackup(id, op.StartedAt, op.ID, reason); err != nil {
		return one, err
	}
	if one.OldInode, one.OldBorn, err = identify(e.root, existing.Dir); err != nil {
		return one, fmt.Errorf("install pack: %w", pack.Advise(e.root, existing.Dir, err))
	}
	if existing.Dir != string(id) {
		one.LegacyDir = existing.Dir
	} else if err := pack.Movable(e.root, existing.Dir); err != nil {
		return one, fmt.Errorf("install pack: %w", e.adviseRename(existing.Dir, err))
	}
	return one, nil
}

func packIDs(op journal.Operation) []string {
	all := make([]string, 0, len(op.Packs))
	for _, p := range op.Packs {
		all = append(all, string(p.ID))
	}
	return all
}

func backupPaths(op journal.Operation) map[string]string {
	paths := map[string]string{}
	for _, p := range op.Packs {
		if p.Backup != "" {
			paths[string(p.ID)] = path.Join(BackupFolder, p.Backup)
		}
	}
	return paths
}

// completedEntry is the audit entry of an operation that has succeeded.
func completedEntry(op journal.Operation) audit.Entry {
	if !isRollback(op) {
		return audit.Entry{
			Category: audit.System, Action: "pack_apply_completed", Success: true,
			Details: map[string]any{"staging_id": op.StagingID, "pack_ids": packIDs(op), "backup_paths": backupPaths(op)},
		}
	}
	p := op.Packs[0]
	entry := audit.Entry{
		Category: audit.System, Action: "pack_rollback_completed", Success: true,
		Details: map[string]any{"backup": path.Base(p.Source)},
	}
	if replaced := backupPaths(op)[string(p.ID)]; replaced != "" {
		entry.Details["backup_path"] = replaced
	}
	return entry
}

// failedEntry is the audit entry of an operation that was undone.
func failedEntry(op journal.Operation, err error) audit.Entry {
	entry := audit.Entry{Category: audit.System, Severity: audit.Warning, Action: "pack_apply_failed", Details: map[string]any{"staging_id": op.StagingID}, Error: message(err)}
	if isRollback(op) {
		entry.Action, entry.Details = "pack_rollback_failed", map[string]any{}
		if len(op.Packs) > 0 {
			entry.Details["backup"] = path.Base(op.Packs[0].Source)
		}
	}
	return entry
}

// execute carries out a planned operation, all of it or nothing; if the error isn't nil, nothing has changed. from has the
// folders that are copied.
//
// The journal is written before the first folder is made, so that Recover knows what to remove; and again as Committed when
// everything is prepared. From that moment on the operation is finished even if this process dies.
func (e *Ecosystem) execute(ctx context.Context, op journal.Operation, from *os.Root) (warnings []string, err error) {
	if err := e.journal.SaveOperation(ctx, op); err != nil {
		return nil, err
	}
	e.step("begun")
	err = e.prepare(ctx, &op, from)
	if err == nil {
		op.State = journal.Committed
		err = e.journal.SaveOperation(ctx, op)
	}
	// From here on the caller's cancellation doesn't count any more: the operation is undone or finished, not left in between.
	ctx = context.WithoutCancel(ctx)
	if err != nil {
		return nil, errors.Join(err, e.undo(ctx, op))
	}
	e.step("committed")
	return e.finish(ctx, op)
}

// prepare does everything that can fail and isn't visible yet: the new folders under hidden names, and the backups. All of it is
// synced.
func (e *Ecosystem) prepare(ctx context.Context, op *journal.Operation, from *os.Root) error {
	options := folder.Options{Modes: installModes, Limits: treeLimits}
	if isRollback(*op) {
		options = e.restoreOptions(op.Packs[0].Source)
	}
	for i := range op.Packs {
		p := &op.Packs[i]
		err := folder.Copy(ctx, from, p.Source, e.root, p.Prepared, options)
		if err == nil {
			err = folder.SyncAll(e.root, p.Prepared)
		}
		if err != nil {
			return spaceFault(fmt.Errorf("install pack: %w", pack.Advise(e.root, ".", err)))
		}
		if p.Inode, p.Born, err = identify(e.root, p.Prepared); err != nil {
			return fmt.Errorf("install pack: %w", err)
		}
		e.step("copied")
		if p.Backup != "" {
			dir := string(p.ID)
			if p.LegacyDir != "" {
				dir = p.LegacyDir
			}
			if err := e.backup(ctx, dir, p.Backup); err != nil {
				return spaceFault(err)
			}
		}
		e.step("backed up")
	}
	return folder.Sync(e.root)
}

func spaceFault(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fault.NoSpace("packs").Because(err)
	}
	return err
}

// finish installs the packs of a committed operation and removes what they replace. If one can't be installed, or the change
// can't be audited, all are undone: the folders that were replaced are back, and the error says why. Recover calls it for an
// operation that was interrupted; each step finds out by itself whether it was taken already.
func (e *Ecosystem) finish(ctx context.Context, op journal.Operation) (warnings []string, err error) {
	if op.State != journal.Installed {
		err := e.installAll(op)
		if err == nil {
			err = e.audit.WriteEach(ctx, completedEntry(op), packIDs(op))
		}
		if err != nil {
			return nil, errors.Join(err, e.undo(ctx, op))
		}
		op.State = journal.Installed
		if err := e.journal.SaveOperation(ctx, op); err != nil {
			e.log.WarnContext(ctx, "could not record in the journal that packs are in place; recovery finds them there", "operation", op.ID, "error", err)
		}
		e.step("audited")
	}
	var left []leftover
	for _, p := range op.Packs {
		left = append(left, e.removeHidden(p.Prepared)...) // after an exchange of names the replaced folder has this one
		left = append(left, e.removeHidden(aside(op, p))...)
		if p.LegacyDir == "" {
			continue
		}
		more, err := e.detach(p.LegacyDir, op.ID)
		if err != nil {
			warnings = append(warnings, message(err)) // it does no harm there: the pack in the ecosystem folder hides it
		}
		left = append(left, more...)
	}
	e.step("cleaned")
	if err := e.journal.EndOperation(ctx, op); err != nil {
		e.log.WarnContext(ctx, "could not remove an installation from the journal; the next change of the packs tries again", "operation", op.ID, "error", err)
		return append(warnings, e.leftoverWarning(left)...), nil
	}
	e.step("ended")
	for _, p := range op.Packs {
		if p.Backup != "" {
			e.prune(ctx, p.ID, path.Base(p.Backup), path.Base(p.Source))
		}
	}
	if isRollback(op) {
		return append(warnings, e.leftoverWarning(left)...), nil
	}
	if err := e.stages.Discard(ctx, op.StagingID); err != nil {
		e.log.WarnContext(ctx, "could not remove a staging that was applied", "staging_id", op.StagingID, "error", err)
	}
	return append(warnings, e.leftoverWarning(left)...), nil
}

// stuckError is in the error of undo where an operation could not be undone, and so stays in the journal.
type stuckError struct{ error }

func (e stuckError) Unwrap() error { return e.error }

// undo reverts whatever an operation did. The journal says first that it is being undone: otherwise a process that recovers it
// later could finish what was answered as failed. Prepared folders and backups that can't be removed now are left over, and
// removed later.
func (e *Ecosystem) undo(ctx context.Context, op journal.Operation) error {
	if op.State != journal.Undoing {
		op.State = journal.Undoing
		if err := e.journal.SaveOperation(ctx, op); err != nil {
			e.log.ErrorContext(ctx, "could not record in the journal that an installation failed", "operation", op.ID, "error", err)
		}
		e.step("failed")
	}
	if err := e.revertAll(op); err != nil {
		return stuckError{fmt.Errorf("undo installation: %w", err)}
	}
	for _, p := range op.Packs {
		e.removeHidden(p.Prepared)
		e.removeHidden(aside(op, p))
		if p.Backup == "" {
			continue
		}
		err := e.deleteBackup(path.Join(path.Dir(p.Backup), makingPrefix+path.Base(p.Backup)))
		if e.isUntouched(p) { // otherwise the installed folder was removed by another process, and the backup may be the only copy
			err = errors.Join(err, e.deleteBackup(p.Backup))
		}
		if err != nil {
			e.log.WarnContext(ctx, "could not remove the backup of an installation that failed", "backup", p.Backup, "error", err)
		}
	}
	e.step("undone")
	if err := e.journal.EndOperation(ctx, op); err != nil {
		return stuckError{fmt.Errorf("undo installation: %w", err)}
	}
	return nil
}

// isUntouched says whether the folder that was to be replaced is where it was.
func (e *Ecosystem) isUntouched(p journal.Pack) bool {
	dir := string(p.ID)
	if p.LegacyDir != "" {
		dir = p.LegacyDir
	}
	same, err := isFolder(e.root, dir, p.OldInode, p.OldBorn)
	return err == nil && same
}
