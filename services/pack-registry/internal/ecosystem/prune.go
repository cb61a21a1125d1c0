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

// prune removes the oldest backups of a pack, beyond the number that is kept. Those in keepNames stay however old they are: the
// new one, and the one that was just restored. The change that made the new one has succeeded, so a failure here is only
// logged, and the next change tries again. The caller holds the lock.
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

// removeBackups removes backups of a pack, and those whose removal was interrupted before. entry is written to the audit log
// before anything is removed: if that fails, nothing is.
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
