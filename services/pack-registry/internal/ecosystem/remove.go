package ecosystem

import (
	"context"
	"errors"
	"fmt"
	"path"
	"time"

	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/staging"
)

// Removed is the result of Remove.
type Removed struct {
	Backup   string // where the pack was backed up, relative to the Rumi home; "" where there was none
	Warnings []string
}

// Has says whether a pack is installed, as far as its files can be seen.
func (e *Ecosystem) Has(id pack.ID) bool {
	_, err := pack.Find(e.root, id)
	return err == nil
}

// Descendants lists the installed packs that are children of a pack, or children of these, by id.
func (e *Ecosystem) Descendants(id pack.ID) (below []pack.ID) {
	all, _ := pack.Installed(e.root)
	for _, found := range all {
		for parent, child := pack.Parent(found.ID); child; parent, child = pack.Parent(parent) {
			if parent == id {
				below = append(below, found.ID)
				break
			}
		}
	}
	return below
}

// Remove backs a pack up and removes its files, also those in the legacy folder of packs. A pack that isn't there is no error.
// It may be repeated if it was interrupted: until the one step that removes the files, all of them are there.
func (e *Ecosystem) Remove(ctx context.Context, id pack.ID) (Removed, error) {
	release, blocked, err := e.lockAndRecover(ctx, lockWait)
	if err != nil {
		return Removed{}, err
	}
	defer release()
	if err := blocked.check(id); err != nil {
		return Removed{}, err
	}
	var removed Removed
	var made []string
	var left []leftover
	for {
		found, err := pack.Find(e.root, id)
		if err != nil { // fs.ErrNotExist
			if errors.Is(err, pack.ErrUnreadable) {
				removed.Warnings = append(removed.Warnings, fmt.Sprintf("It isn't known whether ecosystem/packs has a pack '%s', too: %v", id, err))
			}
			if len(made) > 0 {
				e.prune(ctx, id, made...)
			}
			removed.Warnings = append(removed.Warnings, e.leftoverWarning(left)...)
			return removed, nil
		}
		operation := staging.NewID()
		backup, more, err := e.removeFrom(ctx, found, operation)
		if err != nil {
			return removed, err
		}
		made, left = append(made, path.Base(backup)), append(left, more...)
		if removed.Backup == "" { // the backup of the folder that was in use: Find returns that one first
			removed.Backup = path.Join(BackupFolder, backup)
		}
	}
}

// removeFrom removes a pack's folder from one of the two folders of packs. After an error the folder is still there, and no
// backup is left of the attempt.
func (e *Ecosystem) removeFrom(ctx context.Context, found pack.Found, operation string) (backup string, left []leftover, err error) {
	if err := pack.Movable(e.root, found.Dir); err != nil {
		return "", nil, fmt.Errorf("take out pack: %w", e.adviseRename(found.Dir, err))
	}
	if backup, err = e.newBackup(found.ID, time.Now(), operation, ForUninstall); err != nil {
		return "", nil, err
	}
	if err := e.backup(ctx, found.Dir, backup); err != nil {
		return "", nil, spaceFault(err)
	}
	e.step("backed up")
	if left, err = e.detach(found.Dir, operation); err != nil {
		if _, gone := e.root.Lstat(found.Dir); gone != nil {
			return "", nil, err // the folder vanished: the backup may be the only copy, so it stays
		}
		return "", nil, errors.Join(err, e.deleteBackup(backup))
	}
	return backup, left, nil
}
