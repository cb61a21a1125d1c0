package ecosystem

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/folder"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/staging"
)

// Inspected is a staging with the details of its packs.
type Inspected struct {
	staging.Staging
	Details []InspectedPack // of each of its Packs
}

// InspectedPack is one pack of a staging.
type InspectedPack struct {
	Descriptor pack.Descriptor
	Files      []File // sorted by path

	// What Apply would do now: refuse it for a reason, or else replace a pack, or else install a new one.
	Refused  string
	Replaces *pack.Found
}

// File is a file of a staged pack.
type File struct {
	Path string // relative to the pack's folder
	Size int64  // in bytes
	Mode fs.FileMode
}

// Inspect reads what is in a staging, and says of each pack what Apply would do. Without a staging the error is a fault, 404.
func (e *Ecosystem) Inspect(ctx context.Context, stagingID string) (Inspected, error) {
	st, payload, err := e.stages.FindPayload(ctx, stagingID)
	if err != nil {
		return Inspected{}, err
	}
	blocked := e.uninstallBlocks(ctx)
	defer payload.Close()
	inspected := Inspected{Staging: st}
	for _, p := range st.Packs {
		one, err := e.inspectPack(ctx, st, p, payload, blocked)
		if errors.Is(err, fs.ErrNotExist) { // it has been applied or discarded meanwhile
			return Inspected{}, staging.NotFound(stagingID).Because(err)
		}
		if err != nil {
			return Inspected{}, fmt.Errorf("inspect staging: %w", err)
		}
		inspected.Details = append(inspected.Details, one)
	}
	return inspected, nil
}

func (e *Ecosystem) inspectPack(ctx context.Context, st staging.Staging, p staging.StagedPack, payload *os.Root, blocked blockedPacks) (InspectedPack, error) {
	declared, err := describe(payload, p.Dir)
	if err != nil {
		return InspectedPack{}, err
	}
	one := InspectedPack{Descriptor: declared}
	err = folder.Each(ctx, payload, p.Dir, func(path string, info fs.FileInfo) {
		one.Files = append(one.Files, File{path, info.Size(), info.Mode().Perm()})
	})
	if err != nil {
		return InspectedPack{}, err
	}
	one.Replaces, err = e.checkInstall(ctx, st, p, declared, blocked)
	if _, refused := errors.AsType[*RefusedError](err); refused || fault.Is(err, fault.KindConflict) {
		one.Refused, err = message(err), nil
	}
	return one, err
}

// Discard removes a staging, when no apply of it is under way. Without one the error is a fault, 404.
func (e *Ecosystem) Discard(ctx context.Context, stagingID string) error {
	release, _, err := e.lockAndRecover(ctx, lockWait)
	if err != nil {
		return err
	}
	defer release()
	st, payload, err := e.stages.FindPayload(ctx, stagingID)
	switch {
	case err == nil:
		payload.Close()
	case fault.Is(err, fault.KindNotFound):
		return err
	default: // what can't be read can be discarded all the same
		e.log.WarnContext(ctx, "discarding a staging that can't be read", "staging_id", stagingID, "error", err)
		st.ID = stagingID
	}
	if err := e.stages.Discard(ctx, stagingID); err != nil {
		return err
	}
	return e.audit.WriteEach(context.WithoutCancel(ctx), audit.Entry{
		Category: audit.System, Action: "pack_staging_discarded", Success: true,
		Details: map[string]any{"staging_id": st.ID, "pack_ids": staging.PackIDs(st), "source_path": st.SourcePath},
	}, staging.Declared(st))
}
