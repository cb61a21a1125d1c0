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

// barred are packs that nothing may be done to, each with the reason.
type blockedPacks map[pack.ID]string

// Recover ends what a process that was killed has begun: what is committed is finished, the rest undone. Approval, which watches
// the folder, sees what that changes. What can't be ended bars its own packs; the log says why, and each later change tries again.
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

// enter acquires the lock and ends what others have begun and not ended: who holds the lock knows that nobody is still at it. What
// can't be ended bars its packs.
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

// endOperations ends the operations in the journal, each for itself. The error is that of a journal that can't be read.
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

// endOperation finishes an operation, or undoes it where that is impossible or it was not committed. The error says why it stays in
// the journal.
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

// bar is the fault of who wants to change a barred pack; nil for any other.
func (b blockedPacks) check(id pack.ID) error {
	if reason, ok := b[id]; ok {
		return fault.Conflict("Pack '%s' can't be changed: %s", id, reason).With("pack_barred")
	}
	return nil
}
