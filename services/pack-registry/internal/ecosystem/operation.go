package ecosystem

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/folder"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/store"
)

// begin makes an operation that does nothing yet.
func begin() store.Operation {
	return store.Operation{ID: store.NewID(), StartedAt: time.Now().UTC().Truncate(time.Microsecond)}
}

// rollback says whether an operation puts a backup back; otherwise it applies a staging.
func rollback(op store.Operation) bool { return op.StagingID == "" }

// step is what op does to a pack: what lies in the folder from replaces existing, or nothing where that is nil.
func step(op store.Operation, id pack.ID, from string, existing *pack.Found) store.OperationPack {
	one := store.OperationPack{ID: id, From: from, New: newPrefix + op.ID + "-" + string(id)}
	if existing == nil {
		return one
	}
	reason := ForApply
	if rollback(op) {
		reason = ForRollback
	}
	one.Backup = stamp(id, op.StartedAt, op.ID, reason)
	if existing.Dir != string(id) {
		one.Old = existing.Dir
	}
	return one
}

func ids(op store.Operation) []string {
	all := make([]string, 0, len(op.Packs))
	for _, p := range op.Packs {
		all = append(all, string(p.ID))
	}
	return all
}

func backupPaths(op store.Operation) map[string]string {
	paths := map[string]string{}
	for _, p := range op.Packs {
		if p.Backup != "" {
			paths[string(p.ID)] = path.Join(BackupFolder, p.Backup)
		}
	}
	return paths
}

// completed is the audit entry of an operation that has ended well.
func completed(op store.Operation) audit.Entry {
	if !rollback(op) {
		return audit.Entry{
			Category: audit.System, Action: "pack_apply_completed", Success: true,
			Details: map[string]any{"staging_id": op.StagingID, "pack_ids": ids(op), "backup_paths": backupPaths(op)},
		}
	}
	p := op.Packs[0]
	entry := audit.Entry{
		Category: audit.System, Action: "pack_rollback_completed", Success: true, OwnerPack: string(p.ID),
		Details: map[string]any{"pack_id": p.ID, "backup": path.Base(p.From)},
	}
	if replaced := backupPaths(op)[string(p.ID)]; replaced != "" {
		entry.Details["backup_path"] = replaced
	}
	return entry
}

// carryOut does what was planned. from holds the folders that are installed.
func (e *Ecosystem) carryOut(ctx context.Context, op store.Operation, from *os.Root) (warnings []string, err error) {
	if err := e.store.SaveOperation(ctx, op); err != nil {
		return nil, err
	}
	e.step("begun")
	err = e.prepare(ctx, &op, from)
	if err == nil {
		op.Committed = true
		err = e.store.SaveOperation(ctx, op)
	}
	// From here on it is not the caller's any more: it is undone or it is finished.
	ctx = context.WithoutCancel(ctx)
	if err != nil {
		op.Committed = false
		return nil, errors.Join(err, e.undo(ctx, op))
	}
	e.step("committed")
	return e.finish(ctx, op)
}

// prepare makes everything that can fail: the new folders under hidden names, and the backups.
func (e *Ecosystem) prepare(ctx context.Context, op *store.Operation, from *os.Root) error {
	options := folder.Options{Modes: installModes, Limits: treeLimits, Lenient: rollback(*op)}
	for i := range op.Packs {
		p := &op.Packs[i]
		err := folder.Copy(ctx, from, p.From, e.root, p.New, options)
		if err == nil {
			err = folder.SyncAll(e.root, p.New)
		}
		if err != nil {
			return spaceFault(fmt.Errorf("install pack: %w", mend(".", err)))
		}
		info, err := e.root.Lstat(p.New)
		if err != nil {
			return fmt.Errorf("install pack: %w", err)
		}
		p.Inode = inode(info)
		e.step("copied")
		if p.Backup != "" {
			dir := string(p.ID)
			if p.Old != "" {
				dir = p.Old
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
		return fault.Unavailable("No space left for packs").Because(err)
	}
	return err
}

// finish makes the renames of a committed operation, those that have not been made yet, and cleans up.
func (e *Ecosystem) finish(ctx context.Context, op store.Operation) (warnings []string, err error) {
	for _, p := range op.Packs {
		if err := e.place(p); err != nil {
			return nil, fmt.Errorf("install pack: %w", mend(".", err))
		}
		e.step("placed")
	}
	if err := folder.Sync(e.root); err != nil {
		return nil, fmt.Errorf("install pack: %w", err)
	}
	for _, p := range op.Packs {
		warning := e.clear(p.New) // what was there before, if anything
		if warning == "" && p.Old != "" {
			if warning, err = e.takeOut(p.Old, op.ID); err != nil {
				warning = message(err) // the new place goes before the old one
			}
		}
		if warning != "" {
			warnings = append(warnings, warning)
		}
	}
	e.step("cleaned")
	if err := e.audit.Write(ctx, completed(op)); err != nil {
		return nil, err
	}
	if err := e.store.EndOperation(ctx, op); err != nil {
		return nil, err
	}
	e.step("ended")
	for _, p := range op.Packs {
		if p.Backup != "" {
			e.prune(ctx, p.ID, path.Base(p.Backup), path.Base(p.From))
		}
	}
	if rollback(op) {
		return warnings, nil
	}
	if err := e.stages.Discard(ctx, op.StagingID); err != nil {
		e.log.WarnContext(ctx, "could not remove a used up staging", "staging_id", op.StagingID, "error", err)
	}
	return warnings, nil
}

// place puts a prepared folder where it belongs, in one step. Which folder is where is told by the inode, so it may be called
// again, and a folder that somebody else has put there meanwhile stays.
func (e *Ecosystem) place(p store.OperationPack) error {
	prepared, err := e.root.Lstat(p.New)
	if errors.Is(err, fs.ErrNotExist) || err == nil && inode(prepared) != p.Inode {
		return nil
	}
	if err != nil {
		return err
	}
	dir, err := e.root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	fd, name := int(dir.Fd()), string(p.ID)
	err = unix.Renameat2(fd, p.New, fd, name, unix.RENAME_NOREPLACE)
	if errors.Is(err, fs.ErrExist) {
		err = unix.Renameat2(fd, p.New, fd, name, unix.RENAME_EXCHANGE)
	}
	return err
}

// undo removes what an operation has prepared that was not committed.
func (e *Ecosystem) undo(ctx context.Context, op store.Operation) error {
	var problems []error
	for _, p := range op.Packs {
		problems = append(problems, folder.Remove(e.root, p.New))
		if p.Backup != "" {
			making := path.Join(path.Dir(p.Backup), makingPrefix+path.Base(p.Backup))
			problems = append(problems, e.dropBackup(making), e.dropBackup(p.Backup))
		}
	}
	if err := errors.Join(problems...); err != nil {
		return fmt.Errorf("undo installation: %w", err)
	}
	return e.store.EndOperation(ctx, op)
}

// Recover ends what a process that was killed has begun: what is committed is finished, the rest undone. Approval, which watches
// the folder, sees what that changes.
func (e *Ecosystem) Recover(ctx context.Context) error {
	release, err := e.enter(ctx, lockWait)
	if err != nil {
		return err
	}
	defer release()
	if err := e.clearUnfinishedBackups(); err != nil {
		e.log.WarnContext(ctx, "could not remove backups that were not finished", "error", err)
	}
	_, err = e.clearLeftovers()
	return err
}

// enter acquires the lock and ends what others have begun and not ended: who holds the lock knows that nobody is still at it.
func (e *Ecosystem) enter(ctx context.Context, wait time.Duration) (release func(), err error) {
	release, err = e.acquire(ctx, wait)
	if err != nil {
		return nil, err
	}
	if err := e.endOperations(ctx); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

func (e *Ecosystem) endOperations(ctx context.Context) error {
	operations, err := e.store.Operations(ctx)
	if err != nil {
		return err
	}
	for _, op := range operations {
		e.log.WarnContext(ctx, "ending an installation that was interrupted", "staging_id", op.StagingID, "pack_ids", ids(op), "committed", op.Committed)
		if op.Committed {
			_, err = e.finish(ctx, op)
		} else {
			err = e.undo(ctx, op)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// inode identifies a folder as long as it exists.
func inode(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Ino
	}
	return 0
}
