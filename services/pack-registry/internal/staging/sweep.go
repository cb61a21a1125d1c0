package staging

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/flock"
	"github.com/rumi-ai/rumi/libs/periodic"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/folder"
)

// Sweep removes the stagings that expired a while ago, the files of imports that were killed, and folders without a record.
func (a *Area) Sweep(ctx context.Context) error {
	if err := a.ready(); err != nil {
		return fmt.Errorf("sweep stagings: %w", err)
	}
	entries, err := a.list()
	if err != nil {
		return fmt.Errorf("sweep stagings: %w", err)
	}
	all, err := a.store.StagingTimes(ctx)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	var problems []error
	for id, created := range all {
		if a.expired(id, created, Lifetime+applyGrace) {
			problems = append(problems, a.Discard(ctx, id))
		} else {
			known[id] = true
		}
	}
	a.forgetExcept(known)
	for _, e := range entries {
		name := e.Name()
		_, notID := ParseID(name)
		switch {
		case strings.HasPrefix(name, tempPrefix):
			problems = append(problems, a.sweepTemp(name))
		case notID == nil && !known[name]:
			if info, err := e.Info(); err == nil && time.Since(info.ModTime()) >= orphanAge {
				problems = append(problems, folder.Remove(a.root, name))
			}
		}
	}
	if err := errors.Join(problems...); err != nil {
		return fmt.Errorf("sweep stagings: %w", err)
	}
	return nil
}

// SweepHourly sweeps every hour until ctx ends. At first it removes only the files of imports that were killed: the clock of a
// machine that has just started may be wrong until it is set, and it is all that says how old an earlier process's staging is.
func (a *Area) SweepHourly(ctx context.Context) error {
	if a.ready() == nil {
		a.removeInterrupted(ctx)
	}
	return periodic.Run(ctx, time.Hour, func(ctx context.Context) {
		if err := a.Sweep(ctx); err != nil && ctx.Err() == nil {
			a.log.WarnContext(ctx, "could not remove expired stagings", "error", err)
		}
	})
}

// removeInterrupted removes the files of imports that were killed. Each import does this first, since a repeated import needs
// the space.
func (a *Area) removeInterrupted(ctx context.Context) {
	entries, err := a.list()
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tempPrefix) {
			err = errors.Join(err, a.sweepTemp(e.Name()))
		}
	}
	if err != nil {
		a.log.WarnContext(ctx, "could not remove the files of interrupted imports", "error", err)
	}
}

// sweepTemp removes the folder of an import, unless the import still runs: then it holds a lock on the folder.
func (a *Area) sweepTemp(name string) error {
	// An import holds the area's lock, shared, while it makes and locks its folder. With that lock held exclusively here, no folder can be
	// seen after it was made and before it is locked.
	leave, err := lock(a.root, flock.TryOpen, flock.Exclusive)
	if err != nil {
		return nil // an import is just beginning; the next sweep tries again
	}
	defer leave()
	dir, err := a.root.OpenRoot(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	release, err := lock(dir, flock.TryOpen, flock.Exclusive)
	if err != nil {
		return nil // held by the import
	}
	defer release()
	return folder.Remove(a.root, name)
}

// makeTemp makes the folder of an import, and locks it until release.
func (a *Area) makeTemp(name string) (dir *os.Root, release func(), err error) {
	leave, err := lock(a.root, flock.WaitOpen, flock.Shared)
	if err != nil {
		return nil, nil, err
	}
	defer leave()
	if err := a.root.Mkdir(name, 0o750); err != nil {
		return nil, nil, err
	}
	dir, err = a.root.OpenRoot(name)
	if err != nil {
		return nil, nil, err
	}
	release, err = lock(dir, flock.TryOpen, flock.Exclusive)
	if err != nil {
		dir.Close()
		return nil, nil, err
	}
	return dir, release, nil
}

func (a *Area) list() ([]fs.DirEntry, error) {
	dir, err := a.root.Open(".")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return dir.ReadDir(-1)
}

// lock locks a folder until release; a process that dies releases it, too. take is flock.TryOpen, which fails at once where
// another has the lock, or flock.WaitOpen.
func lock(dir *os.Root, take func(*os.File, flock.Mode) error, mode flock.Mode) (release func(), err error) {
	f, err := dir.Open(".")
	if err != nil {
		return nil, err
	}
	if err := take(f, mode); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// noSpace adds to an error of a full disk which stagings take the space; any other error is returned as it is.
func (a *Area) noSpace(ctx context.Context, err error) error {
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
		return err
	}
	f := fault.NoSpace("imports").Because(err)
	all, unlisted := a.List(context.WithoutCancel(ctx))
	var bytes int64
	for _, one := range all {
		bytes += one.Bytes
	}
	switch {
	case unlisted != nil:
	case len(all) == 0:
		f.Message += ": no staging takes any; make room on the disk of user_data/pack_staging"
	default:
		f.Message += fmt.Sprintf(": %d stagings take %d MiB. See GET /api/packs/staging, and DELETE /api/packs/staging/STAGING_ID those that aren't needed",
			len(all), (bytes+1<<20-1)>>20)
	}
	return f
}
