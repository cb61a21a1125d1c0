package packdata

import (
	"cmp"
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

// archiveName is the folder beside the packs' own that keeps the data of uninstalled packs. In it each pack has a folder, and
// in that each uninstall has one, such as "000002-20260102T150405Z". The number decides which is the newest; the time is for
// people, since a clock may have been wrong. No pack's id begins with a dot, so the name collides with none.
const archiveName = ".uninstalled"

// shownDir is the data root as people know it: relative to the Rumi home.
const shownDir = "user_data/packs"

// shown is the path of an archive as people know it.
func shown(packID, name string) string { return path.Join(shownDir, archiveName, packID, name) }

// archive is one folder of data that an uninstall has put aside.
type archive struct {
	name   string
	number int // 0 for an archive of an earlier version, whose name is the time alone
}

// list returns the archives of a pack, the oldest first.
func list(root, packID string) ([]archive, error) {
	entries, err := os.ReadDir(filepath.Join(root, archiveName, packID))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list archived data of %s: %w", packID, err)
	}
	var archives []archive
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		a := archive{name: e.Name()}
		if digits, _, numbered := strings.Cut(e.Name(), "-"); numbered {
			a.number, _ = strconv.Atoi(digits) // not a number: 0, like those of an earlier version
		}
		archives = append(archives, a)
	}
	slices.SortFunc(archives, func(a, b archive) int {
		return cmp.Or(cmp.Compare(a.number, b.number), cmp.Compare(a.name, b.name))
	})
	return archives, nil
}

// Archive moves the data of a pack that is uninstalled into a new archive, so that a later pack of the same id doesn't find
// it. It returns the archive's path relative to the Rumi home; "" if there was no data, or only an empty folder, which is
// removed.
func Archive(root, packID string, now time.Time) (to string, err error) {
	dir := filepath.Join(root, packID)
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err := os.Remove(dir); err == nil { // succeeds for an empty folder only
		return "", nil
	}
	archives, err := list(root, packID)
	if err != nil {
		return "", err
	}
	number := 1
	if len(archives) > 0 {
		number = archives[len(archives)-1].number + 1
	}
	name := fmt.Sprintf("%06d-%s", number, now.UTC().Format("20060102T150405Z"))
	parent := filepath.Join(root, archiveName, packID)
	if err := os.MkdirAll(parent, 0o750); err != nil {
		return "", fmt.Errorf("archive data of %s: %w", packID, err)
	}
	if err := os.Rename(dir, filepath.Join(parent, name)); err != nil {
		return "", fmt.Errorf("archive data of %s: %w", packID, err)
	}
	return shown(packID, name), nil
}

// Prune removes all archives of a pack but the newest keep, and returns the names of those that it removed. An archive that can't
// be removed is in the error; the others are removed all the same.
func Prune(root, packID string, keep int) (pruned []string, err error) {
	archives, err := list(root, packID)
	if err != nil {
		return nil, err
	}
	var failures []error
	for _, old := range archives[:max(0, len(archives)-keep)] {
		if err := os.RemoveAll(filepath.Join(root, archiveName, packID, old.name)); err != nil {
			failures = append(failures, err)
			continue
		}
		pruned = append(pruned, old.name)
	}
	return pruned, errors.Join(failures...)
}

// Restore moves a pack's newest archive back to where its container finds it, and returns where that was, relative to the
// Rumi home. The caller has made sure that the pack doesn't run. Faults: not found (no_data_kept) if there is no archive,
// conflict (data_exists) if the pack has data already.
func Restore(root, packID string) (from string, err error) {
	archives, err := list(root, packID)
	if err != nil {
		return "", err
	}
	if len(archives) == 0 {
		return "", fault.NotFound("No data of an uninstalled pack '%s' is kept", packID).With("no_data_kept")
	}
	dir := filepath.Join(root, packID)
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) { // an empty folder may be replaced
		return "", fault.Conflict("Pack '%s' has data already: %s", packID, path.Join(shownDir, packID)).With("data_exists").Because(err)
	}
	newest := archives[len(archives)-1].name
	if err := os.Rename(filepath.Join(root, archiveName, packID, newest), dir); err != nil {
		return "", fmt.Errorf("restore data of %s: %w", packID, err)
	}
	return shown(packID, newest), nil
}
