// Package ecosystem owns the folder of installed packs: what is in it, putting packs there and taking them out.
//
// Whoever changes it holds one lock, across processes. A change is prepared beside what it replaces, under hidden names that
// are nobody's packs, journalled, and then made by renames, so that at any instant each pack is whole: the old or the new.
package ecosystem

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/tree"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/folder"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/staging"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/store"
)

// Hidden names in the ecosystem folder begin with these; no pack's can.
const (
	newPrefix = ".rumi-new-" // prepared by an apply
	oldPrefix = ".rumi-old-" // taken out, on its way to being removed
)

const (
	lockWait  = 20 * time.Second // for another change to end
	lockPause = 20 * time.Millisecond
)

// How packs are copied: in ecosystem/ the operator's group may change them, in backups it may read them.
var (
	installModes = folder.Modes{Folder: 0o775, File: 0o664, Executable: 0o775}
	backupModes  = folder.Modes{Folder: 0o750, File: 0o640, Executable: 0o750}
	treeLimits   = folder.Limits{Files: tree.MaxEntries, Folders: tree.MaxEntries, Bytes: tree.MaxBytes}
)

// Config says where an Ecosystem works.
type Config struct {
	Dir     string // the folder of installed packs
	Backups string // the folder of backups, made when it is missing
	Lock    string // a file to lock, made when it is missing; not in Dir, which is watched
	Keep    int    // backups of each pack, the newest; 0 keeps all

	// Retired lists the packs whose uninstall has begun and not ended. Nothing is installed in their place, since it could not be
	// approved before the uninstall has taken it away, too. An error hinders nothing: that is approval's to see to.
	Retired func(context.Context) ([]string, error)
}

// Ecosystem is the folder of installed packs. It is safe for concurrent use, and for use by several processes.
type Ecosystem struct {
	root    *os.Root
	packs   pack.Cache // of the packs in root
	backups *os.Root
	lock    *os.File
	keep    int // see Config, as are those of the same names
	retired func(context.Context) ([]string, error)
	inside  chan struct{} // holds one token; the lock among this process's goroutines
	stages  *staging.Area
	store   *store.Store
	audit   *audit.Log
	log     *slog.Logger

	step func(string) // called between the steps of a change; tests end the process there
}

// Open opens the folder, which must exist.
func Open(cfg Config, stages *staging.Area, st *store.Store, trail *audit.Log, log *slog.Logger) (*Ecosystem, error) {
	root, err := os.OpenRoot(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("open ecosystem: %w", err)
	}
	if err := os.MkdirAll(cfg.Backups, 0o750); err != nil {
		return nil, fmt.Errorf("open ecosystem: %w", err)
	}
	backups, err := os.OpenRoot(cfg.Backups)
	if err != nil {
		return nil, fmt.Errorf("open ecosystem: %w", err)
	}
	lock, err := os.OpenFile(cfg.Lock, os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, fmt.Errorf("open ecosystem: %w", err)
	}
	return &Ecosystem{
		root: root, backups: backups, lock: lock, keep: cfg.Keep, retired: cfg.Retired, inside: make(chan struct{}, 1),
		stages: stages, store: st, audit: trail, log: log, step: func(string) {},
	}, nil
}

// Close closes the folder.
func (e *Ecosystem) Close() error {
	return errors.Join(e.root.Close(), e.backups.Close(), e.lock.Close())
}

// acquire waits until no other change is under way, but not longer than wait: then it is a fault, 503.
func (e *Ecosystem) acquire(ctx context.Context, wait time.Duration) (release func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	busy := fault.Unavailable("Another change of the installed packs is under way").After(5 * time.Second)
	select {
	case e.inside <- struct{}{}:
	case <-ctx.Done():
		return nil, busy.Because(ctx.Err())
	}
	for {
		err := unix.Flock(int(e.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() {
				_ = unix.Flock(int(e.lock.Fd()), unix.LOCK_UN)
				<-e.inside
			}, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			<-e.inside
			return nil, fmt.Errorf("lock ecosystem: %w", err)
		}
		select {
		case <-time.After(lockPause):
		case <-ctx.Done():
			<-e.inside
			return nil, busy.Because(ctx.Err())
		}
	}
}

// takeOut removes a folder from the ecosystem folder: it is renamed, so that it is no pack at once, and then removed. What can't
// be removed stays under its hidden name and is a warning.
func (e *Ecosystem) takeOut(dir, operation string) (warning string, err error) {
	hidden := path.Join(path.Dir(dir), oldPrefix+operation+"-"+path.Base(dir))
	if err := e.root.Rename(dir, hidden); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return "", nil
		}
		return "", fmt.Errorf("take out pack: %w", mend(path.Dir(dir), err))
	}
	if err := folder.Sync(e.root); err != nil {
		return "", fmt.Errorf("take out pack: %w", err)
	}
	e.step("taken out")
	return e.clear(hidden), nil
}

// clear removes a hidden folder; what can't be removed is a warning that names the command.
func (e *Ecosystem) clear(hidden string) (warning string) {
	err := folder.Remove(e.root, hidden)
	if err == nil {
		return ""
	}
	e.log.Warn("could not remove what a pack has left", "folder", hidden, "error", err)
	return fmt.Sprintf("What is left of a pack could not be removed. Run in the Rumi home: sudo rm -rf %s", path.Join("ecosystem", hidden))
}

// clearLeftovers removes all hidden folders; no operation may be under way.
func (e *Ecosystem) clearLeftovers() (warnings []string, err error) {
	for _, place := range []string{".", pack.OldPlace} {
		entries, err := fs.ReadDir(e.root.FS(), place)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return warnings, fmt.Errorf("list ecosystem: %w", err)
		}
		for _, entry := range entries {
			name := entry.Name()
			if strings.HasPrefix(name, newPrefix) || strings.HasPrefix(name, oldPrefix) {
				if warning := e.clear(path.Join(place, name)); warning != "" {
					warnings = append(warnings, warning)
				}
			}
		}
	}
	return warnings, nil
}

// mend turns a lack of rights in the ecosystem folder into a fault that names the command that mends it. dir is relative to it.
func mend(dir string, err error) error {
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	name := filepath.Join("ecosystem", dir)
	return fault.Conflict("%s belongs to somebody else (permission denied). %s", name, mendCommand(dir)).With("permission_denied").Because(err)
}

// told is what the operator is told of an error about a folder of the ecosystem.
func told(dir string, err error) string {
	err = mend(dir, err)
	if f, ok := errors.AsType[*fault.Fault](err); ok {
		return f.Message
	}
	return err.Error()
}

func mendCommand(dir string) string {
	name := filepath.Join("ecosystem", dir)
	if dir == "." {
		return fmt.Sprintf("Run in the Rumi home: sudo chgrp %d %s && sudo chmod g+rwxs %s", os.Getgid(), name, name)
	}
	return fmt.Sprintf("Run in the Rumi home: sudo chgrp -R %d %s && sudo chmod -R g+rwX %s", os.Getgid(), name, name)
}
