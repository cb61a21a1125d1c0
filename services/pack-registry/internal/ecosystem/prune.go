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

// prune removes the oldest backups of a pack beyond those that are to be kept; spared ones, the new one and what was put
// back among them, stay however old they are. The change that made the new one is done by now, so what fails is logged, and
// tried again when the next one is made. The lock is held.
func (e *Ecosystem) prune(ctx context.Context, id pack.ID, spared ...string) {
	if err := e.pruneBackups(ctx, id, spared); err != nil {
		e.log.WarnContext(ctx, "could not remove old backups", "pack_id", id, "error", err)
	}
}

func (e *Ecosystem) pruneBackups(ctx context.Context, id pack.ID, spared []string) error {
	if e.keep == 0 {
		return nil
	}
	entries, err := fs.ReadDir(e.backups.FS(), string(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list backups: %w", err)
	}
	var names []string // the oldest first: they begin with the time
	var doomed []string
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), removingPrefix) {
			doomed = append(doomed, entry.Name()) // its removal failed before
		} else if _, _, ok := parseStamp(entry.Name()); ok && entry.IsDir() {
			names = append(names, entry.Name())
		}
	}
	slices.Sort(names)
	left := len(names)
	var old []string
	for _, name := range names {
		if left <= e.keep {
			break
		}
		if slices.Contains(spared, name) {
			continue
		}
		// Renamed first, so that no half of one is ever a backup.
		if err := e.backups.Rename(path.Join(string(id), name), path.Join(string(id), removingPrefix+name)); err != nil {
			return fmt.Errorf("remove backup: %w", err)
		}
		old, doomed = append(old, name), append(doomed, removingPrefix+name)
		left--
	}
	var problems []error
	if len(old) > 0 {
		e.step("pruned")
		problems = append(problems, e.audit.Write(ctx, audit.Entry{
			Category: audit.System, Action: "pack_backups_pruned", Success: true, OwnerPack: string(id),
			Details: map[string]any{"pack_id": id, "backups": old, "kept": left},
		}))
	}
	for _, name := range doomed {
		problems = append(problems, folder.Remove(e.backups, path.Join(string(id), name)))
	}
	return errors.Join(problems...)
}
