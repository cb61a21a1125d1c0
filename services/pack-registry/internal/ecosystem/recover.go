package ecosystem

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/journal"
)

// blockedPacks are packs that must not be changed, each with the reason.
type blockedPacks map[pack.ID]string

// Recover finishes or undoes the operations of a process that was killed: committed ones are finished, others undone. Approval
// watches the folder and sees what that changes. The packs of an operation that can be neither finished nor undone stay
// blocked; the log says why, and each later change tries again. It also removes unfinished backups and hidden folders.
func (e *Ecosystem) Recover(ctx context.Context) {
	release, _, err := e.lockAndRecover(ctx, lockWait)
	if err != nil {
		e.log.ErrorContext(ctx, "could not finish or undo interrupted installations; the next change of the packs tries again", "error", err)
		return
	}
	defer release()
	if err := e.clearUnfinishedBackups(); err != nil {
		e.log.WarnContext(ctx, "could not remove unfinished backups", "error", err)
	}
	e.clearLeftovers(ctx)
}

// lockAndRecover acquires the lock, and then finishes or undoes what the journal still has: as this process has the lock,
// no other one is working on it. The packs of an operation that can't be ended are blocked.
func (e *Ecosystem) lockAndRecover(ctx context.Context, wait time.Duration) (release func(), blocked blockedPacks, err error) {
	release, err = e.acquire(ctx, wait)
	if err != nil {
		return nil, nil, err
	}
	blocked, err = e.recoverOperations(ctx)
	if err != nil {
		release()
		return nil, nil, err
	}
	return release, blocked, nil
}

// recoverOperations ends the operations in the journal, each by itself. It fails only where the journal can't be read.
func (e *Ecosystem) recoverOperations(ctx context.Context) (blockedPacks, error) {
	operations, err := e.journal.Operations(ctx)
	if err != nil {
		return nil, err
	}
	blocked := blockedPacks{}
	for _, op := range operations {
		if op.Err != nil {
			e.log.ErrorContext(ctx, "an entry of the installation journal can't be read and was skipped", "operation", op.ID, "error", op.Err)
			continue
		}
		e.log.WarnContext(ctx, "finishing or undoing an interrupted installation", "staging_id", op.StagingID, "pack_ids", packIDs(op), "state", op.State)
		if err := e.recoverOperation(context.WithoutCancel(ctx), op); err != nil {
			e.log.ErrorContext(ctx, "could not finish or undo an interrupted installation", "operation", op.ID, "pack_ids", packIDs(op), "error", err)
			for _, p := range op.Packs {
				blocked[p.ID] = fmt.Sprintf("an installation of it was interrupted and can't be ended: %s", message(err))
			}
		}
	}
	return blocked, nil
}

// recoverOperation finishes a committed operation, or undoes it where that is impossible or it wasn't committed. On an error
// the operation stays in the journal.
func (e *Ecosystem) recoverOperation(ctx context.Context, op journal.Operation) error {
	if op.State == journal.Undoing {
		return e.undo(ctx, op)
	}
	_, err := e.finish(ctx, op)
	if err == nil {
		return nil
	}
	if stuck, ok := errors.AsType[stuckError](err); ok {
		return stuck
	}
	e.log.WarnContext(ctx, "an interrupted installation can't be finished and was undone", "operation", op.ID, "error", err)
	if err := e.audit.WriteEach(ctx, failedEntry(op, err), packIDs(op)); err != nil {
		e.log.ErrorContext(ctx, "could not audit that an installation failed", "operation", op.ID, "error", err)
	}
	return nil
}

// check is nil for a pack that may be changed, and otherwise a fault: 409.
func (b blockedPacks) check(id pack.ID) error {
	if reason, ok := b[id]; ok {
		return fault.Conflict("Pack '%s' can't be changed: %s", id, reason).With("pack_barred")
	}
	return nil
}
