package ecosystem

import (
	"context"
	"errors"
	"fmt"
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

// Has says whether a pack is installed, as far as its files can be seen.
func (e *Ecosystem) Has(id pack.ID) bool {
	_, err := pack.Find(e.root, id)
	return err == nil
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
		if err != nil { // fs.ErrNotExist
			if errors.Is(err, pack.ErrUnread) {
				removed.Warnings = append(removed.Warnings, fmt.Sprintf("Whether a pack '%s' lies in the old place too isn't known: %v", id, err))
			}
			if len(made) > 0 {
				e.prune(ctx, id, made...)
			}
			return removed, nil
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
