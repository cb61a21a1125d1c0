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
	"github.com/rumi-ai/rumi/services/pack-registry/internal/staging"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/store"
)

// Applied says what an apply did.
type Applied struct {
	PackIDs  []string
	Backups  map[string]string // where each replaced pack was backed up, relative to the Rumi home, by id
	Warnings []string
}

// Refusal says why a pack was not applied.
type Refusal struct {
	PackID string `json:"pack_id"`
	Error  string `json:"error"`
}

// RefusedError has a reason for each pack that could not be applied; nothing was changed.
type RefusedError struct{ Refusals []Refusal }

func (e *RefusedError) Error() string { return e.Refusals[0].Error }

// Apply puts the packs of a staging into the ecosystem folder, all of them or none, and uses the staging up. What they replace is
// backed up first. Once it has been journalled that everything is prepared, it happens whatever comes: a process that is killed is
// followed by one that calls Recover. Errors are faults (404 without a staging), or *RefusedError.
func (e *Ecosystem) Apply(ctx context.Context, stagingID string) (Applied, error) {
	applied, err := e.apply(ctx, stagingID)
	if err != nil {
		return Applied{}, errors.Join(err, e.audit.Write(ctx, audit.Entry{
			Category: audit.System, Severity: audit.Warning, Action: "pack_apply_failed", Success: false,
			Details: map[string]any{"staging_id": stagingID}, Error: message(err),
		}))
	}
	return applied, nil
}

// message is what the operator is told of an error.
func message(err error) string {
	if refused, ok := errors.AsType[*RefusedError](err); ok {
		return refused.Error()
	}
	return fault.Of(err).Message
}

func (e *Ecosystem) apply(ctx context.Context, stagingID string) (Applied, error) {
	release, err := e.acquire(ctx, lockWait)
	if err != nil {
		return Applied{}, err
	}
	defer release()
	st, dir, err := e.stages.Find(ctx, stagingID)
	if err != nil {
		return Applied{}, err
	}
	defer dir.Close()
	payload, err := dir.OpenRoot(staging.Payload)
	if err != nil {
		return Applied{}, fmt.Errorf("open staging: %w", err)
	}
	defer payload.Close()

	op := store.Operation{ID: store.NewID(), StagingID: st.ID, StartedAt: time.Now().UTC().Truncate(time.Microsecond)}
	if op.Packs, err = e.plan(st, op, payload); err != nil {
		return Applied{}, err
	}
	if err := e.store.SaveOperation(ctx, op); err != nil {
		return Applied{}, err
	}
	e.step("begun")
	err = e.prepare(ctx, &op, payload)
	if err == nil {
		op.Committed = true
		err = e.store.SaveOperation(ctx, op)
	}
	// From here on it is not the caller's any more: it is undone or it is finished.
	ctx = context.WithoutCancel(ctx)
	if err != nil {
		op.Committed = false
		return Applied{}, errors.Join(err, e.undo(ctx, op))
	}
	e.step("committed")
	warnings, err := e.finish(ctx, op)
	if err != nil {
		return Applied{}, err
	}
	return Applied{PackIDs: ids(op), Backups: backupPaths(op), Warnings: warnings}, nil
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

// plan judges each pack of a staging and says what is to be done.
func (e *Ecosystem) plan(st store.Staging, op store.Operation, payload *os.Root) ([]store.OperationPack, error) {
	var plan []store.OperationPack
	var refused RefusedError
	for _, p := range st.Packs {
		one, err := e.planPack(st, p, op, payload)
		if refusal, ok := errors.AsType[*RefusedError](err); ok {
			refused.Refusals = append(refused.Refusals, refusal.Refusals...)
			continue
		}
		if err != nil {
			return nil, err
		}
		plan = append(plan, one)
	}
	if len(refused.Refusals) > 0 {
		return nil, &refused
	}
	return plan, nil
}

func (e *Ecosystem) planPack(st store.Staging, p store.StagedPack, op store.Operation, payload *os.Root) (store.OperationPack, error) {
	none := store.OperationPack{}
	refuse := func(format string, args ...any) error {
		return &RefusedError{[]Refusal{{PackID: p.Dir, Error: fmt.Sprintf(format, args...)}}}
	}
	inner, err := payload.OpenRoot(p.Dir)
	if err != nil {
		return none, fmt.Errorf("open staging: %w", err)
	}
	defer inner.Close()
	declared, err := pack.ReadDescriptor(inner)
	if err != nil {
		return none, fmt.Errorf("open staging: %w", err)
	}
	// The folder in the import had a name, and it may be that of an installed pack which is another one.
	if id, err := pack.ParseID(p.Folder); err == nil && id != declared.PackID {
		existing, err := pack.Find(e.root, id)
		switch {
		case err == nil && existing.Err == nil && existing.Descriptor.PackID != declared.PackID:
			return none, refuse("pack_id mismatch: existing='%s', new='%s'", existing.Descriptor.PackID, declared.PackID)
		case st.Multi, err == nil && existing.Err != nil:
			return none, refuse("pack_id mismatch: existing='%s', new='%s'", id, declared.PackID)
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return none, err
		}
	}
	one := store.OperationPack{ID: declared.PackID, From: p.Dir, New: newPrefix + op.ID + "-" + string(declared.PackID)}
	existing, err := pack.Find(e.root, declared.PackID)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := e.root.Lstat(string(one.ID)); !errors.Is(err, fs.ErrNotExist) {
			return none, refuse("ecosystem/%s is in the way: it is no pack. Move it away and apply again.", one.ID)
		}
		return one, nil
	}
	if err != nil {
		return none, err
	}
	was := existing.Descriptor
	switch {
	case errors.Is(existing.Err, fs.ErrPermission):
		return none, mend(existing.Dir, existing.Err)
	case existing.Err == nil && was.PackID != declared.PackID:
		return none, refuse("pack_id mismatch: existing='%s', new='%s'", was.PackID, declared.PackID)
	case was.PackIdentity == "" || was.PackIdentity != declared.PackIdentity:
		return none, refuse("pack_identity mismatch: existing pack_identity='%s', new pack_identity='%s' (pack_id='%s'). To replace, manually remove the existing pack first.",
			was.PackIdentity, declared.PackIdentity, declared.PackID)
	}
	one.Backup = stamp(one.ID, op.StartedAt, op.ID)
	if existing.Dir != string(one.ID) {
		one.Old = existing.Dir
	}
	return one, nil
}

// prepare makes everything that can fail: the new folders under hidden names, and the backups.
func (e *Ecosystem) prepare(ctx context.Context, op *store.Operation, payload *os.Root) error {
	for i := range op.Packs {
		p := &op.Packs[i]
		err := folder.Copy(ctx, payload, p.From, e.root, p.New, folder.Options{Modes: installModes, Limits: treeLimits})
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
	err = e.audit.Write(ctx, audit.Entry{
		Category: audit.System, Action: "pack_apply_completed", Success: true,
		Details: map[string]any{"staging_id": op.StagingID, "pack_ids": ids(op), "backup_paths": backupPaths(op)},
	})
	if err != nil {
		return nil, err
	}
	if err := e.store.EndOperation(ctx, op); err != nil {
		return nil, err
	}
	e.step("ended")
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
			making := path.Join(path.Dir(p.Backup), ".making-"+path.Base(p.Backup))
			problems = append(problems, e.dropBackup(making), e.dropBackup(p.Backup))
		}
	}
	if err := errors.Join(problems...); err != nil {
		return fmt.Errorf("undo apply: %w", err)
	}
	return e.store.EndOperation(ctx, op)
}

// Recover ends what a process that was killed has begun: a committed apply is finished, another one undone. Approval, which
// watches the folder, sees what that changes.
func (e *Ecosystem) Recover(ctx context.Context) error {
	release, err := e.acquire(ctx, lockWait)
	if err != nil {
		return err
	}
	defer release()
	operations, err := e.store.Operations(ctx)
	if err != nil {
		return err
	}
	for _, op := range operations {
		e.log.InfoContext(ctx, "ending an apply that was interrupted", "staging_id", op.StagingID, "pack_ids", ids(op), "committed", op.Committed)
		if op.Committed {
			_, err = e.finish(ctx, op)
		} else {
			err = e.undo(ctx, op)
		}
		if err != nil {
			return err
		}
	}
	_, err = e.clearLeftovers()
	return err
}

// inode identifies a folder as long as it exists.
func inode(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Ino
	}
	return 0
}
