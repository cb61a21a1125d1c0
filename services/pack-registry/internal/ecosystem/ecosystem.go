// Package ecosystem owns the folder of installed packs: what is in it, putting packs there and taking them out.
//
// Whoever changes it holds one lock, across processes. A change is prepared beside what it replaces, under hidden names that
// are nobody's packs, journalled, and then made by renames, so that at any instant each pack is whole: the old or the new.
package ecosystem

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/tree"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/folder"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/journal"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/staging"
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

// How packs are copied: what an apply installs the operator's group may change. A backup keeps the modes of what it is of, and a
// rollback brings them back, so that the digest is again the one that was approved.
var (
	installModes = folder.Modes{Folder: 0o775, File: 0o664, Executable: 0o775}
	treeLimits   = folder.Limits{Files: tree.MaxEntries, Folders: tree.MaxEntries, Bytes: tree.MaxBytes}
)

// Journal keeps the operations that have begun and not ended. internal/store implements it. Every method may fail because the database
// can't be asked.
type Journal interface {
	// SaveOperation stores an operation as it is now. When it returns, the entry is on the disk.
	SaveOperation(ctx context.Context, op journal.Operation) error

	// EndOperation removes an operation and, unless it was undone, the staging that it used up, both or neither.
	EndOperation(ctx context.Context, op journal.Operation) error

	// Operations lists the operations that have not ended, the oldest first. One whose packs can't be read is listed with its Err.
	Operations(ctx context.Context) ([]journal.Operation, error)
}

// Config says where an Ecosystem works.
type Config struct {
	Dir     string // the folder of installed packs
	Backups string // the folder of backups, made when it is missing
	Lock    string // a file to lock, made when it is missing; not in Dir, which is watched
	Keep    int    // backups of each pack, the newest; 0 keeps all

	// Retired lists the packs whose uninstall has begun and not ended. Nothing is installed in their place, since it could not be
	// approved before the uninstall has taken it away, too. An error hinders nothing: that is approval's to see to.
	Retired func(context.Context) ([]string, error)

	// Approved says whether a pack was ever approved since it was last uninstalled.
	Approved func(ctx context.Context, packID string) (bool, error)
}

// Ecosystem is the folder of installed packs. It is safe for concurrent use, and for use by several processes.
type Ecosystem struct {
	root     *os.Root
	packs    pack.Cache // of the packs in root
	backups  backupFolder
	lockAt   string
	lock     *os.File // open on it; nil before the first change
	keep     int      // see Config, as are those of the same names
	retired  func(context.Context) ([]string, error)
	approved func(ctx context.Context, packID string) (bool, error)
	mutex    chan struct{} // holds one token; the lock among this process's goroutines
	stages   *staging.Area
	journal  Journal
	audit    *audit.Log
	log      *slog.Logger

	step func(string) // called between the steps of a change; tests end the process there
}

// Open opens the folder, which must exist.
func Open(cfg Config, stages *staging.Area, entries Journal, auditLog *audit.Log, log *slog.Logger) (*Ecosystem, error) {
	root, err := os.OpenRoot(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("open ecosystem: %w", err)
	}
	e := &Ecosystem{
		root: root, backups: backupFolder{path: cfg.Backups}, lockAt: cfg.Lock, keep: cfg.Keep, retired: cfg.Retired, approved: cfg.Approved, mutex: make(chan struct{}, 1),
		stages: stages, journal: entries, audit: auditLog, log: log, step: func(string) {},
	}
	if _, err := e.backups.open(); err != nil {
		log.Error("backups can't be made or listed; installed packs can't be replaced or removed until this is repaired", "error", err)
	}
	return e, nil
}

// Close closes the folder.
func (e *Ecosystem) Close() error {
	err := errors.Join(e.root.Close(), e.backups.close())
	if e.lock != nil {
		err = errors.Join(err, e.lock.Close())
	}
	return err
}

// acquire waits until no other change is under way, but not longer than wait: then it is a fault, 503.
func (e *Ecosystem) acquire(ctx context.Context, wait time.Duration) (release func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	busy := fault.Unavailable("Another change of the installed packs is under way").With("busy").After(5 * time.Second)
	select {
	case e.mutex <- struct{}{}:
	case <-ctx.Done():
		return nil, busy.Because(ctx.Err())
	}
	for {
		if err := e.openLock(); err != nil {
			<-e.mutex
			return nil, err
		}
		err := unix.Flock(int(e.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && !e.lockIsCurrent() { // replaced between the two: nobody else would wait for it
			continue
		}
		if err == nil {
			return func() {
				_ = unix.Flock(int(e.lock.Fd()), unix.LOCK_UN)
				<-e.mutex
			}, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			<-e.mutex
			return nil, fmt.Errorf("lock ecosystem: %w", err)
		}
		select {
		case <-time.After(lockPause):
		case <-ctx.Done():
			<-e.mutex
			return nil, busy.Because(ctx.Err())
		}
	}
}

// openLock opens the lock file, anew where it was removed or replaced meanwhile. The error is a fault.
func (e *Ecosystem) openLock() error {
	if e.lock != nil && e.lockIsCurrent() {
		return nil
	}
	if e.lock != nil {
		e.lock.Close()
		e.lock = nil
	}
	lock, err := os.OpenFile(e.lockAt, os.O_RDWR|os.O_CREATE|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0o640)
	if err != nil {
		return spaceFault(unusable("user_data/pack_staging/"+filepath.Base(e.lockAt), err))
	}
	e.lock = lock
	return nil
}

// lockStands says whether the lock file that is open is the one at its path.
func (e *Ecosystem) lockIsCurrent() bool {
	mine, err := e.lock.Stat()
	if err != nil {
		return false
	}
	now, err := os.Lstat(e.lockAt)
	return err == nil && os.SameFile(mine, now)
}
