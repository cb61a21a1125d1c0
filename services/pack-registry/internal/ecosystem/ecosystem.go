// Package ecosystem owns the folder of installed packs: it lists what is in it, installs packs, rolls them back, and removes
// them.
//
// Every change runs under one lock, which other processes respect, too. It is prepared next to what it replaces, under hidden
// names that no pack can have; it is entered in the journal; then it is made by renames. At any instant each pack is whole, the
// old or the new, and after kill -9 at any step Recover finishes or undoes it (crash_test.go kills at each).
//
// Read apply.go first, then operation.go (the steps of a change), swap.go (the renames), recover.go (after a crash), backup.go
// and prune.go.
package ecosystem

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/flock"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/statecount"
	"github.com/rumi-ai/rumi/libs/tree"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/folder"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/journal"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/staging"
)

// Prefixes of the hidden names in the ecosystem folder. No pack's name can begin with a dot.
const (
	newPrefix = ".rumi-new-" // a folder that an operation prepares
	oldPrefix = ".rumi-old-" // a folder that was replaced or removed, and is being deleted
)

const lockWait = 20 * time.Second // how long a change waits for another one to end

// How packs are copied. The operator's group may write to what an apply installs. A backup keeps the modes of the folder that it copies,
// and a rollback restores them: the digest covers modes, and must again be the one that was approved.
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

	// Retired lists the packs whose uninstall has begun and not ended. Nothing is installed under their ids: it could not be approved, and
	// the uninstall would remove it, too. An error hinders nothing, because approval refuses a retired pack anyway.
	Retired func(context.Context) ([]string, error)

	// Approved says whether a pack was ever approved since it was last uninstalled.
	Approved func(ctx context.Context, packID string) (bool, error)

	Metrics prometheus.Registerer
}

// Ecosystem is the folder of installed packs. It is safe for concurrent use, and several processes may use the folder.
type Ecosystem struct {
	root     *os.Root
	packs    pack.Cache // of the packs in root
	backups  backupFolder
	lockAt   string // path of the lock file
	keep     int    // see Config, as are those of the same names
	retired  func(context.Context) ([]string, error)
	approved func(ctx context.Context, packID string) (bool, error)
	mutex    chan struct{} // holds one token; the lock among this process's goroutines
	stages   *staging.Area
	journal  Journal
	audit    *audit.Log
	log      *slog.Logger

	step func(string) // called between the steps of a change; tests end the process there
}

// Open opens the folder of installed packs, which must exist. The folder of backups may be unusable: the log says so, and only
// calls that need it fail. Open registers metrics.
func Open(cfg Config, stages *staging.Area, entries Journal, auditLog *audit.Log, log *slog.Logger) (*Ecosystem, error) {
	root, err := os.OpenRoot(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("open ecosystem: %w", err)
	}
	e := &Ecosystem{
		root: root, backups: backupFolder{path: cfg.Backups}, lockAt: cfg.Lock, keep: cfg.Keep, retired: cfg.Retired, approved: cfg.Approved, mutex: make(chan struct{}, 1),
		stages: stages, journal: entries, audit: auditLog, log: log, step: func(string) {},
	}
	cfg.Metrics.MustRegister(statecount.NewTotal("rumi_pack_changes_unfinished",
		"Changes of the installed packs that have begun and not ended, also those that a crash has left.", statecount.Cached(func(ctx context.Context) (statecount.Counts, error) {
			all, err := entries.Operations(ctx)
			return statecount.Counts{"": len(all)}, err
		})))
	if _, err := e.backups.open(); err != nil {
		log.Error("backups can't be made or listed; installed packs can't be replaced or removed until this is repaired", "error", err)
	}
	return e, nil
}

// Close closes the folders.
func (e *Ecosystem) Close() error {
	return errors.Join(e.root.Close(), e.backups.close())
}

// acquire waits until no other change is under way, in this process or another. After wait it gives up with a fault, 503. It gets a lock
// that is free whatever wait is, 0 included: a short wait that is over before the first attempt, on a busy machine, must not look like
// another change.
func (e *Ecosystem) acquire(ctx context.Context, wait time.Duration) (release func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	busy := fault.Unavailable("Another change of the installed packs is under way").With("busy").After(5 * time.Second)
	select {
	case e.mutex <- struct{}{}:
	default:
		select {
		case e.mutex <- struct{}{}:
		case <-ctx.Done():
			return nil, busy.Because(ctx.Err())
		}
	}
	lock := flock.New(e.lockAt) // removed or replaced meanwhile, it is made and waited for anew
	if err := lock.Lock(ctx); err != nil {
		<-e.mutex
		if over := ctx.Err(); over != nil && errors.Is(err, over) {
			return nil, busy.Because(err)
		}
		return nil, spaceFault(unusable("user_data/pack_staging/"+filepath.Base(e.lockAt), err))
	}
	return func() { lock.Close(); <-e.mutex }, nil
}
