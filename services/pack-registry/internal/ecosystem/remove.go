package ecosystem

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"time"

	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/store"
)

// Removed says what Remove did.
type Removed struct {
	Backup   string // where the pack was backed up, relative to the Rumi home; "" where there was none
	Warnings []string
}

// Has says whether a pack is installed.
func (e *Ecosystem) Has(id pack.ID) (bool, error) {
	_, err := pack.Find(e.root, id)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Remove backs a pack up and takes its files out, in the old place too. A pack that is not there is removed already. It may be
// repeated when it was interrupted: the files are whole until they are gone.
func (e *Ecosystem) Remove(ctx context.Context, id pack.ID) (Removed, error) {
	release, err := e.enter(ctx, lockWait)
	if err != nil {
		return Removed{}, err
	}
	defer release()
	var removed Removed
	var made []string
	for {
		found, err := pack.Find(e.root, id)
		if errors.Is(err, fs.ErrNotExist) {
			if len(made) > 0 {
				e.prune(ctx, id, made...)
			}
			return removed, nil
		}
		if err != nil {
			return removed, err
		}
		operation := store.NewID()
		to := stamp(id, time.Now(), operation, ForUninstall)
		if err := e.backup(ctx, found.Dir, to); err != nil {
			return removed, spaceFault(err)
		}
		made = append(made, path.Base(to))
		e.step("backed up")
		warning, err := e.takeOut(found.Dir, operation)
		if err != nil {
			return removed, err
		}
		if removed.Backup == "" { // that of the place that counted
			removed.Backup = path.Join(BackupFolder, to)
		}
		if warning != "" {
			removed.Warnings = append(removed.Warnings, warning)
		}
	}
}
