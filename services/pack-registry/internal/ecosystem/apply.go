package ecosystem

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/journal"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/staging"
)

// Applied is the result of an apply.
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

// RefusedError has a reason for each pack of a staging that could not be applied. Nothing was changed.
type RefusedError struct{ Refusals []Refusal }

func (e *RefusedError) Error() string { return e.Refusals[0].Error }

// Apply installs the packs of a staging, all of them or none, and uses the staging up. What they replace is backed up first.
// Once the journal says that everything is prepared, the change happens whatever comes: if this process is killed, the next one
// finishes it in Recover. Errors are faults (404 without a staging) or a *RefusedError.
func (e *Ecosystem) Apply(ctx context.Context, stagingID string) (Applied, error) {
	applied, err := e.apply(ctx, stagingID)
	if err != nil {
		entry := failedEntry(journal.Operation{StagingID: stagingID}, err)
		return Applied{}, errors.Join(err, e.audit.WriteEach(context.WithoutCancel(ctx), entry, applied.PackIDs))
	}
	return applied, nil
}

// internal is what message says of an error that isn't a fault.
const internal = "Internal server error"

// message is the operator's text of an error.
func message(err error) string {
	if refused, ok := errors.AsType[*RefusedError](err); ok {
		return refused.Error()
	}
	return fault.Of(err).Message
}

// apply is Apply without the audit entry of a failure. After an error only PackIDs is set, as far as it is known which packs
// the staging has.
func (e *Ecosystem) apply(ctx context.Context, stagingID string) (applied Applied, err error) {
	blocked := e.uninstallBlocks(ctx)
	release, interrupted, err := e.lockAndRecover(ctx, lockWait)
	if err != nil {
		return applied, err
	}
	defer release()
	maps.Copy(blocked, interrupted)
	st, payload, err := e.stages.FindPayload(ctx, stagingID)
	if err != nil {
		return applied, err
	}
	defer payload.Close()
	applied.PackIDs = staging.Declared(st)
	op := newOperation()
	op.StagingID = st.ID
	if op.Packs, err = e.plan(ctx, st, op, payload, blocked); err != nil {
		return applied, err
	}
	warnings, err := e.execute(ctx, op, payload)
	if err != nil {
		return applied, err
	}
	for _, p := range st.Packs {
		if p.Identity == "" {
			warnings = append(warnings, p.Dir+": "+pack.NoIdentity)
		}
	}
	return Applied{PackIDs: packIDs(op), Backups: backupPaths(op), Warnings: warnings}, nil
}

// plan checks each pack of a staging and plans its installation.
func (e *Ecosystem) plan(ctx context.Context, st staging.Staging, op journal.Operation, payload *os.Root, blocked blockedPacks) ([]journal.Pack, error) {
	var plan []journal.Pack
	var refused RefusedError
	for _, p := range st.Packs {
		one, err := e.planPack(ctx, st, p, op, payload, blocked)
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

// planPack checks one pack of a staging and plans its installation.
func (e *Ecosystem) planPack(ctx context.Context, st staging.Staging, p staging.StagedPack, op journal.Operation, payload *os.Root, blocked blockedPacks) (journal.Pack, error) {
	declared, err := describe(payload, p.Dir)
	if err != nil {
		return journal.Pack{}, fmt.Errorf("open staging: %w", err)
	}
	existing, err := e.checkInstall(ctx, st, p, declared, blocked)
	if err != nil {
		return journal.Pack{}, err
	}
	return e.planReplacement(op, declared.PackID, p.Dir, existing)
}

// checkInstall says whether a pack of a staging may be installed, and which installed pack it replaces: nil for a new one. If
// it may not, the error is a *RefusedError. An import must never replace a pack by another one that only has its id: pack_id
// and pack_identity must be the same.
func (e *Ecosystem) checkInstall(ctx context.Context, st staging.Staging, p staging.StagedPack, declared pack.Descriptor, blocked blockedPacks) (existing *pack.Found, err error) {
	refuse := newRefusal(p.Dir)
	// The folder had another name in the import. If that is the id of an installed pack, the operator probably means to replace that pack,
	// and the descriptor says otherwise.
	if id, err := pack.ParseID(p.Folder); err == nil && id != declared.PackID {
		existing, err := pack.Find(e.root, id)
		switch {
		case err == nil && existing.Err == nil && existing.Descriptor.PackID != declared.PackID:
			return nil, refuse("pack_id mismatch: existing='%s', new='%s'", existing.Descriptor.PackID, declared.PackID)
		case st.Multi, err == nil && existing.Err != nil:
			return nil, refuse("pack_id mismatch: existing='%s', new='%s'", id, declared.PackID)
		}
	}
	existing, err = e.existingPack(p.Dir, declared.PackID, blocked)
	if err == nil && existing != nil && (declared.PackIdentity == "" || !e.neverIdentified(ctx, *existing)) {
		err = mismatch(p.Dir, *existing, declared)
	}
	return existing, err
}

// neverIdentified says whether an installed pack has no pack_identity, and was never approved. Its author has forgotten the
// identity and now adds it: the pack may be replaced by the one that has it. A pack that was approved has grants that another
// pack could take over. If approval can't be asked, the answer is no.
func (e *Ecosystem) neverIdentified(ctx context.Context, existing pack.Found) bool {
	if existing.Err != nil || existing.Descriptor.PackIdentity != "" || existing.Descriptor.PackID != existing.ID {
		return false
	}
	approved, err := e.approved(ctx, string(existing.ID))
	if err != nil {
		e.log.WarnContext(ctx, "could not ask whether a pack was ever approved", "pack_id", existing.ID, "error", err)
		return false
	}
	return !approved
}

// uninstallBlocks are the packs whose uninstall has begun and not ended.
func (e *Ecosystem) uninstallBlocks(ctx context.Context) blockedPacks {
	packIDs, err := e.retired(ctx)
	if err != nil {
		e.log.WarnContext(ctx, "could not ask which packs are being uninstalled", "error", err)
	}
	blocked := make(blockedPacks, len(packIDs))
	for _, id := range packIDs {
		blocked[pack.ID(id)] = gate.UninstallIncomplete(id)
	}
	return blocked
}

// existingPack is the installed pack that another is going to replace; nil where there is none. The error is a *RefusedError,
// about shown, where nothing may be installed under the id.
func (e *Ecosystem) existingPack(shown string, id pack.ID, blocked blockedPacks) (*pack.Found, error) {
	refuse := newRefusal(shown)
	if reason, ok := blocked[id]; ok {
		return nil, refuse("Cannot install pack '%s': %s", id, reason)
	}
	existing, err := pack.Find(e.root, id)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := e.root.Lstat(string(id)); !errors.Is(err, fs.ErrNotExist) {
			return nil, refuse("ecosystem/%s is in the way: it is no pack. Move it away and repeat the call.", id)
		}
		return nil, nil
	case err != nil:
		return nil, err
	case existing.Err != nil:
		// A folder that can't be read can't be backed up, so it can't be replaced. A wrong descriptor can.
		if advised := pack.Advise(e.root, existing.Dir, existing.Err); fault.Is(advised, fault.KindConflict) {
			return nil, advised
		}
	}
	return &existing, nil
}

// mismatch is the *RefusedError where an installed pack is another one than the pack that is going to replace it; nil where it
// is the same. An empty identity never matches.
func mismatch(shown string, existing pack.Found, declared pack.Descriptor) error {
	refuse, was := newRefusal(shown), existing.Descriptor
	switch {
	case existing.Err == nil && was.PackID != declared.PackID:
		return refuse("pack_id mismatch: existing='%s', new='%s'", was.PackID, declared.PackID)
	case was.PackIdentity == "" || was.PackIdentity != declared.PackIdentity:
		return refuse("pack_identity mismatch: existing pack_identity='%s', new pack_identity='%s' (pack_id='%s'). To replace, manually remove the existing pack first.",
			was.PackIdentity, declared.PackIdentity, declared.PackID)
	}
	return nil
}

// newRefusal returns a function that makes the *RefusedError of one pack.
func newRefusal(shown string) func(format string, args ...any) error {
	return func(format string, args ...any) error {
		return &RefusedError{[]Refusal{{PackID: shown, Error: fmt.Sprintf(format, args...)}}}
	}
}

// describe reads the descriptor of a pack in a folder.
func describe(root *os.Root, dir string) (pack.Descriptor, error) {
	inner, err := root.OpenRoot(dir)
	if err != nil {
		return pack.Descriptor{}, err
	}
	defer inner.Close()
	return pack.ReadDescriptor(inner)
}
