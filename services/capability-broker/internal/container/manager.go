package container

import (
	"context"
	"iter"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/flock"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/keylock"
	"github.com/rumi-ai/rumi/libs/packtrace"
	"github.com/rumi-ai/rumi/libs/policy"
	"github.com/rumi-ai/rumi/libs/sandbox"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/runlog"
)

// Engine runs containers. *sandbox.Engine implements it for Docker, *unconfined.Engine for permissive mode.
type Engine interface {
	Create(ctx context.Context, spec sandbox.Spec) (sandbox.Container, error)
	Start(ctx context.Context, id string) error
	Stop(ctx context.Context, id string, grace time.Duration) error
	Remove(ctx context.Context, id string) error
	Find(ctx context.Context, kind sandbox.Kind, name string) ([]sandbox.Container, error)
	List(ctx context.Context, kind sandbox.Kind) ([]sandbox.Container, error)
	Stats(ctx context.Context, id string) (sandbox.Stats, error)
	Logs(ctx context.Context, id string, opts sandbox.LogOptions) iter.Seq2[sandbox.Line, error]
	Events(ctx context.Context, on func(sandbox.Event))
	Status(ctx context.Context) sandbox.Status
	ID(ctx context.Context) (string, error) // the engine's own; "" where it has none
}

// Gates answers from memory which packs may run; *gate.View implements it.
type Gates interface {
	Get(packID string) (gate.State, bool)
	GetLatest(ctx context.Context, packID string) (gate.State, bool)
	All() []gate.State
	Fresh() bool
}

// Trees provides read-only copies of approved trees by digest; *tree.Cache implements it.
type Trees interface {
	Get(ctx context.Context, digest string) (path string, err error)
	// Sweep removes the copies for which keep is false.
	Sweep(keep func(digest string) bool) error
}

// Packages are a pack's installed dependencies; the zero value is none.
type Packages struct {
	Dir    string // on this host, read-only
	Digest string
	Lock   string // the candidate key of the lock that they were installed from: pack_id:relpath:sha256
}

// Environments provides what is installed of a pack's dependencies.
type Environments interface {
	For(ctx context.Context, packID string) (Packages, error)
	// Sweep removes the copies for which keep is false.
	Sweep(keep func(digest string) bool) error
}

// Reporter is notified whose containers run; approval shows it as the pack's status.
type Reporter interface {
	SetRunning(ctx context.Context, packID string, running bool) error
}

// Audit is the audit log.
type Audit interface {
	Write(ctx context.Context, e audit.Entry) error
}

// Config has the parts that a Manager uses.
type Config struct {
	Engine       Engine
	Records      Records
	Gates        Gates
	Trees        Trees
	Environments Environments
	Reporter     Reporter
	Audit        Audit
	Log          *slog.Logger
	Policy       policy.Source
	Metrics      prometheus.Registerer

	Required      bool           // nothing runs without Docker
	Image         string         // that packs run in
	Ceiling       sandbox.Limits // that no pack gets more than; 0 is the profile's
	DataDir       string         // the data root of package packdata
	DataMax       int64          // bytes that a pack's data folder may hold; 0 for no limit
	RunsDir       string         // the folder of package runlog: the output of packs' earlier runs
	DataKept      int            // archives of data to keep of each uninstalled pack
	LockDir       string         // holds a lock file for each pack; on this host, and the same for all replicas on it
	EgressDir     string         // holds the packs' egress sockets, as uds.Config.Dir
	CapabilityDir string         // holds their capability sockets
	SocketsOwned  func() error   // nil while both belong to this Rumi home; nothing of them is mounted otherwise
	Groups        []int          // that a container joins to use the sockets
	Border        packtrace.Border
	Authorities   func() string // a file of certificate authorities for the next container (package cabundle); nil where the image's own do
}

// Manager starts, stops and watches the containers of packs. It is safe for concurrent use.
//
// Locks, in the order in which they are taken: a pack's lock (lockPack), then recordCache.io, then any of the small mutexes within
// records, exits, queue and approval, each of which guards the fields of its own struct and is never held over a call of anything
// else.
type Manager struct {
	Config

	// Work that no caller waits for. background ends when Watch does; Watch waits for tasks.
	background       context.Context
	cancel           context.CancelFunc
	tasks            sync.WaitGroup
	queue            *reconcileQueue
	restartsDisabled atomic.Bool // this process stops: nothing is started again by itself any more

	packLocks keylock.Locks // by pack id: the half of lockPack that excludes others in this process

	// What is known.
	records  recordCache // what was recorded, by this replica and others
	exits    exitTracker // what this process has seen of containers' ends and of the engine's
	approval contact     // when approval's gates were last fresh
	synced   atomic.Bool // records match what the engine had when it was first asked; before that nothing is reported

	// reportedStopped has the packs with a closed gate of which approval was notified that they stopped. Only Watch's goroutine
	// uses it.
	reportedStopped map[string]bool

	runs    runlog.Store
	metrics metrics
}

// New makes a Manager that knows nothing until Watch has asked the engine, and registers its metrics.
func New(cfg Config) *Manager {
	m := &Manager{Config: cfg, reportedStopped: make(map[string]bool), records: newRecordCache(cfg.Records), exits: newExitTracker(),
		runs: runlog.Store{Dir: cfg.RunsDir}}
	m.background, m.cancel = context.WithCancel(context.Background())
	m.queue = newReconcileQueue(m)
	m.metrics = newMetrics(m, cfg.Metrics)
	m.approval.touch(time.Now())
	return m
}

// contact is when another service was last in contact.
type contact struct {
	mu sync.Mutex
	at time.Time
}

func (c *contact) touch(now time.Time) { c.mu.Lock(); defer c.mu.Unlock(); c.at = now }

func (c *contact) age() time.Duration { c.mu.Lock(); defer c.mu.Unlock(); return time.Since(c.at) }

// lockPack locks a pack in this process and, by its lock file, for other replicas on this host. Whoever does anything to a
// pack's container, data or record holds this lock. It is held over calls of the engine, which may take a minute.
func (m *Manager) lockPack(ctx context.Context, packID string) (release func(), err error) {
	unlock, err := m.packLocks.Lock(ctx, packID)
	if err != nil {
		return nil, err
	}
	file := flock.New(filepath.Join(m.LockDir, packID+".lock"))
	if err := file.Lock(ctx); err != nil {
		unlock()
		return nil, err
	}
	return func() { file.Close(); unlock() }, nil
}

// TreesLock is the path of the lock file of all copies of trees and environments, in the folder of locks. A process that is
// about to mount a copy holds it shared, one that removes copies (sweep) holds it alone: otherwise a copy could be removed between
// being chosen and being mounted. No pack's id begins with a dot, so no pack's lock file has this name.
func TreesLock(lockDir string) string { return filepath.Join(lockDir, ".trees.lock") }
