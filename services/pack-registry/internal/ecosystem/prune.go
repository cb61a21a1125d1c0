package ecosystem

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/folder"
)

// removingPrefix begins the name of a backup that is being removed.
const removingPrefix = ".removing-"

// prune removes the backups of a pack that were made first, beyond those that are to be kept; spared ones, the new one and what was
// put back among them, stay however old they are. The change that made the new one is done by now, so what fails is logged, and
// tried again when the next one is made. The lock is held.
func (e *Ecosystem) prune(ctx context.Context, id pack.ID, keepNames ...string) {
	if err := e.pruneBackups(ctx, id, keepNames); err != nil {
		e.log.WarnContext(ctx, "could not remove old backups", "pack_id", id, "error", err)
	}
}

func (e *Ecosystem) pruneBackups(ctx context.Context, id pack.ID, keepNames []string) error {
	if e.keep == 0 {
		return nil
	}
	backupNames, err := e.backupNames(id)
	if err != nil {
		return err
	}
	left := len(backupNames)
	var old []string
	for _, s := range backupNames {
		if left <= e.keep {
			break
		}
		if !slices.Contains(keepNames, s.name) {
			old = append(old, s.name)
			left--
		}
	}
	return e.removeBackups(ctx, id, old, audit.Entry{
		Category: audit.System, Action: "pack_backups_pruned", Success: true, OwnerPack: string(id),
		Details: map[string]any{"pack_id": id, "backups": old, "kept": left},
	})
}

// removeBackups removes backups of a pack, and those whose removal failed before. entry is what the audit log says of it, before
// anything is removed: what it can't say isn't done.
func (e *Ecosystem) removeBackups(ctx context.Context, id pack.ID, names []string, entry audit.Entry) error {
	backups, err := e.backups.open()
	if err != nil {
		return err
	}
	if len(names) > 0 {
		if err := e.audit.Write(ctx, entry); err != nil {
			return err
		}
		e.step("pruned")
	}
	var problems []error
	for _, name := range names {
		// Renamed first, so that no half of one is ever a backup.
		if err := backups.Rename(path.Join(string(id), name), path.Join(string(id), removingPrefix+name)); err != nil {
			problems = append(problems, fmt.Errorf("remove backup: %w", err))
		}
	}
	all, err := folder.Names(backups, string(id))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		problems = append(problems, fmt.Errorf("remove backup: %w", err))
	}
	for _, name := range all {
		if strings.HasPrefix(name, removingPrefix) {
			problems = append(problems, e.deleteBackup(path.Join(string(id), name)))
		}
	}
	return errors.Join(problems...)
}
