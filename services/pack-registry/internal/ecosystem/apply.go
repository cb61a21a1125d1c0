package ecosystem

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/pack"
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
	retired := e.uninstalling(ctx)
	release, err := e.enter(ctx, lockWait)
	if err != nil {
		return Applied{}, err
	}
	defer release()
	st, payload, err := e.stages.FindPayload(ctx, stagingID)
	if err != nil {
		return Applied{}, err
	}
	defer payload.Close()
	op := begin()
	op.StagingID = st.ID
	if op.Packs, err = e.plan(st, op, payload, retired); err != nil {
		return Applied{}, err
	}
	warnings, err := e.carryOut(ctx, op, payload)
	if err != nil {
		return Applied{}, err
	}
	for _, p := range st.Packs {
		if p.Identity == "" {
			warnings = append(warnings, p.Dir+": "+pack.Anonymous)
		}
	}
	return Applied{PackIDs: ids(op), Backups: backupPaths(op), Warnings: warnings}, nil
}

// plan judges each pack of a staging and says what is to be done.
func (e *Ecosystem) plan(st store.Staging, op store.Operation, payload *os.Root, retired map[string]bool) ([]store.OperationPack, error) {
	var plan []store.OperationPack
	var refused RefusedError
	for _, p := range st.Packs {
		one, err := e.planPack(st, p, op, payload, retired)
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

// planPack judges one pack of a staging.
func (e *Ecosystem) planPack(st store.Staging, p store.StagedPack, op store.Operation, payload *os.Root, retired map[string]bool) (store.OperationPack, error) {
	declared, err := describe(payload, p.Dir)
	if err != nil {
		return store.OperationPack{}, fmt.Errorf("open staging: %w", err)
	}
	existing, err := e.judge(st, p, declared, retired)
	if err != nil {
		return store.OperationPack{}, err
	}
	return step(op, declared.PackID, p.Dir, existing), nil
}

// judge says whether a pack of a staging may be installed, and what it replaces: nil where it is new. What it may not be is a
// *RefusedError.
func (e *Ecosystem) judge(st store.Staging, p store.StagedPack, declared pack.Descriptor, retired map[string]bool) (existing *pack.Found, err error) {
	refuse := refuser(p.Dir)
	// The folder in the import had a name, and it may be that of an installed pack which is another one.
	if id, err := pack.ParseID(p.Folder); err == nil && id != declared.PackID {
		existing, err := pack.Find(e.root, id)
		switch {
		case err == nil && existing.Err == nil && existing.Descriptor.PackID != declared.PackID:
			return nil, refuse("pack_id mismatch: existing='%s', new='%s'", existing.Descriptor.PackID, declared.PackID)
		case st.Multi, err == nil && existing.Err != nil:
			return nil, refuse("pack_id mismatch: existing='%s', new='%s'", id, declared.PackID)
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
	existing, err = e.standing(p.Dir, declared.PackID, retired)
	if err == nil && existing != nil {
		err = differs(p.Dir, *existing, declared)
	}
	return existing, err
}

// uninstalling are the packs in whose place nothing may be installed.
func (e *Ecosystem) uninstalling(ctx context.Context) map[string]bool {
	ids, err := e.retired(ctx)
	if err != nil {
		e.log.WarnContext(ctx, "could not ask which packs are being uninstalled", "error", err)
	}
	retired := make(map[string]bool, len(ids))
	for _, id := range ids {
		retired[id] = true
	}
	return retired
}

// standing is the installed pack in whose place another is to be put; nil without one. shown names the new one in a *RefusedError
// where nothing may be put there.
func (e *Ecosystem) standing(shown string, id pack.ID, retired map[string]bool) (*pack.Found, error) {
	refuse := refuser(shown)
	if retired[string(id)] {
		return nil, refuse("Cannot install pack '%s': %s", id, gate.UninstallIncomplete(string(id)))
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
	case errors.Is(existing.Err, fs.ErrPermission):
		return nil, mend(existing.Dir, existing.Err)
	}
	return &existing, nil
}

// differs is the *RefusedError where an installed pack is another one than that which is to be put in its place. An empty identity
// never matches.
func differs(shown string, existing pack.Found, declared pack.Descriptor) error {
	refuse, was := refuser(shown), existing.Descriptor
	switch {
	case existing.Err == nil && was.PackID != declared.PackID:
		return refuse("pack_id mismatch: existing='%s', new='%s'", was.PackID, declared.PackID)
	case was.PackIdentity == "" || was.PackIdentity != declared.PackIdentity:
		return refuse("pack_identity mismatch: existing pack_identity='%s', new pack_identity='%s' (pack_id='%s'). To replace, manually remove the existing pack first.",
			was.PackIdentity, declared.PackIdentity, declared.PackID)
	}
	return nil
}

// refuser makes refusals of one pack.
func refuser(shown string) func(format string, args ...any) error {
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
