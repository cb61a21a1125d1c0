package container

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
)

// uninstalledName is the folder, beside those of the packs, that keeps the data of packs that are gone: a folder a pack, and
// in it one an uninstall, "000002-20260102T150405Z". The number decides which is the newest, the time is for people: a clock
// may be wrong. No pack id begins with a dot.
const uninstalledName = ".uninstalled"

// shownDataDir is the data folder as people know it, relative to the Rumi home.
const shownDataDir = "user_data/packs"

// archivedData is one folder that an uninstall has put aside.
type archivedData struct {
	name   string
	number int // 0 for one of an earlier version, whose name is the time alone
}

// listArchived gives what is kept of a pack's data, the oldest first.
func listArchived(root, packID string) ([]archivedData, error) {
	entries, err := os.ReadDir(filepath.Join(root, uninstalledName, packID))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look for kept data of %s: %w", packID, err)
	}
	var list []archivedData
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		found := archivedData{name: e.Name()}
		if digits, _, numbered := strings.Cut(e.Name(), "-"); numbered {
			found.number, _ = strconv.Atoi(digits) // else 0
		}
		list = append(list, found)
	}
	slices.SortFunc(list, func(a, b archivedData) int {
		return cmp.Or(cmp.Compare(a.number, b.number), cmp.Compare(a.name, b.name))
	})
	return list, nil
}

// archive moves the data of a pack that is uninstalled out of the way of a later pack of the same name. It says
// where to, relative to the home; "" where there was none.
func archive(root, packID string, now time.Time) (string, error) {
	dir := filepath.Join(root, packID)
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err := os.Remove(dir); err == nil {
		return "", nil // it was empty
	}
	kept, err := listArchived(root, packID)
	if err != nil {
		return "", err
	}
	number := 1
	if len(kept) > 0 {
		number = kept[len(kept)-1].number + 1
	}
	name := fmt.Sprintf("%06d-%s", number, now.UTC().Format("20060102T150405Z"))
	parent := filepath.Join(root, uninstalledName, packID)
	if err := os.MkdirAll(parent, 0o750); err != nil {
		return "", fmt.Errorf("keep data of %s: %w", packID, err)
	}
	if err := os.Rename(dir, filepath.Join(parent, name)); err != nil {
		return "", fmt.Errorf("keep data of %s: %w", packID, err)
	}
	return path.Join(shownDataDir, uninstalledName, packID, name), nil
}

// pruneArchived removes all but the newest keep of what is kept of a pack's data. One that can't be removed keeps none of the
// others.
func pruneArchived(root, packID string, keep int) (pruned []string, err error) {
	kept, err := listArchived(root, packID)
	if err != nil {
		return nil, err
	}
	var failures []error
	for _, old := range kept[:max(0, len(kept)-keep)] {
		if err := os.RemoveAll(filepath.Join(root, uninstalledName, packID, old.name)); err != nil {
			failures = append(failures, err)
			continue
		}
		pruned = append(pruned, old.name)
	}
	return pruned, errors.Join(failures...)
}

// archiveData puts the data of a pack that is held aside, and removes what is too old.
func (m *Manager) archiveData(ctx context.Context, packID string) (string, error) {
	to, err := archive(m.DataDir, packID, time.Now())
	if err != nil || to == "" {
		return "", err
	}
	m.Log.InfoContext(ctx, "kept the data of an uninstalled pack", "pack_id", packID, "folder", to)
	pruned, err := pruneArchived(m.DataDir, packID, m.DataKept)
	if err != nil { // the uninstall is done
		m.Log.WarnContext(ctx, "old data of uninstalled packs could not be removed", "pack_id", packID, "error", err)
	}
	if len(pruned) > 0 {
		if err := m.audit(ctx, "pack_data_pruned", packID, "", map[string]any{"removed": pruned}); err != nil {
			m.Log.ErrorContext(ctx, "removed data could not be audited", "pack_id", packID, "removed", pruned, "error", err)
		}
	}
	return to, nil
}

// RestoreData gives a pack the data again that its last uninstall put aside, and says where that was, relative to the home.
// Faults: not found where none is kept, conflict where the pack has data already or runs.
func (m *Manager) RestoreData(ctx context.Context, packID string) (from string, err error) {
	release, err := m.lockPack(ctx, packID)
	if err != nil {
		return "", fmt.Errorf("restore data of %s: %w", packID, err)
	}
	defer release()
	found, err := m.observe(ctx, packID)
	if err != nil {
		return "", err
	}
	if found.alive() {
		return "", fault.Conflict("Pack '%s' runs. Run first: POST /api/containers/%s/stop", packID, packID).With("pack_running")
	}
	kept, err := listArchived(m.DataDir, packID)
	if err != nil {
		return "", err
	}
	if len(kept) == 0 {
		return "", fault.NotFound("No data of an uninstalled pack '%s' is kept", packID).With("no_data_kept")
	}
	dir := filepath.Join(m.DataDir, packID)
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) { // an empty one may go
		return "", fault.Conflict("Pack '%s' has data already: %s", packID, path.Join(shownDataDir, packID)).With("data_exists").Because(err)
	}
	newest := kept[len(kept)-1].name
	if err := os.Rename(filepath.Join(m.DataDir, uninstalledName, packID, newest), dir); err != nil {
		return "", fmt.Errorf("restore data of %s: %w", packID, err)
	}
	from = path.Join(shownDataDir, uninstalledName, packID, newest)
	return from, m.audit(ctx, "pack_data_restored", packID, "", map[string]any{"from": from})
}
