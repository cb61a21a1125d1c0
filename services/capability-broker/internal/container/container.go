// Package container runs packs: one container a pack, started by an operator, stopped as soon as its gate closes, started
// again where it ended and the pack's policy says so.
//
// Which containers there are is told by the engine; what is wanted of them, by Records. Nothing is done on what an event
// says: an event has a pack looked at, and what is there is compared with what should be (reconcile). So events may be lost
// or come twice, and any number of replicas of the broker on one host may do this work side by side: what is done to a pack's
// container is done under its lock file, and who comes second finds nothing left to do.
package container

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/flock"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/keylock"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/sandbox"
)

const (
	stopGrace       = 5 * time.Second        // between SIGTERM and SIGKILL, for an operator's stop
	socketsWait     = 3 * time.Second        // for the sockets of a pack that was approved a moment ago
	socketsPoll     = 50 * time.Millisecond  //
	leaseGrace      = 30 * time.Second       // how long containers outlive the lease of their gates
	requeueInterval = 500 * time.Millisecond // the backstop behind pushed changes
	scanInterval    = 30 * time.Second       // the backstop behind events
	sweepInterval   = time.Hour              // copies that nobody needs
	engineGrace     = 20 * time.Second       // how long an engine that goes may take to stop containers; Docker's default is 15 s

	reconcileTimeout = time.Minute
	reportTimeout    = 2 * time.Second // to tell approval which containers run
)

// Engine is what runs containers; *sandbox.Engine is one, and *unconfined.Engine stands in for it.
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

// Gates tells from memory which packs may run.
type Gates interface {
	Get(packID string) (gate.State, bool)
	GetLatest(ctx context.Context, packID string) (gate.State, bool)
	All() []gate.State
	Fresh() bool
}

// Trees gives read-only folders by digest.
type Trees interface {
	Get(ctx context.Context, digest string) (path string, err error)
	// Sweep removes those that keep doesn't want.
	Sweep(keep func(digest string) bool) error
}

// Packages are a pack's installed dependencies; the zero value is none.
type Packages struct {
	Dir    string // on this host, read-only
	Digest string
	Lock   string // the key of the lock that they were installed of: pack_id:relpath:sha256
}

// Environments gives what is installed of a pack's dependencies.
type Environments interface {
	For(ctx context.Context, packID string) (Packages, error)
	// Sweep removes copies that keep doesn't want.
	Sweep(keep func(digest string) bool) error
}

// Reporter is told whose containers run; approval shows it as the pack's state.
type Reporter interface {
	SetRunning(ctx context.Context, packID string, running bool) error
}

// Audit is where decisions are written.
type Audit interface {
	Write(ctx context.Context, e audit.Entry) error
}

// Config is what a Manager needs.
type Config struct {
	Engine       Engine
	Records      Records
	Gates        Gates
	Trees        Trees
	Environments Environments
	Reporter     Reporter
	Audit        Audit
	Log          *slog.Logger

	Required      bool           // nothing runs without Docker
	Image         string         // that packs run in
	Ceiling       sandbox.Limits // that no pack gets more than; 0 is the profile's
	DataDir       string         // holds a folder a pack, mounted as /data
	DataMax       int64          // bytes that it may hold; 0 for no limit
	RunsDir       string         // holds a folder a pack, with the output of its earlier runs
	DataKept      int            // folders of a pack's data that uninstalls put aside
	LockDir       string         // holds a lock file a pack; on this host, and the same for all replicas on it
	EgressDir     string         // holds the packs' egress sockets, as uds.Config.Dir
	CapabilityDir string         // holds their capability sockets
	SocketsOwned  func() error   // nil while both belong to this Rumi home; nothing of them is mounted otherwise
	Groups        []int          // that a container joins to use them
	Authorities   func() string  // a file of certificate authorities for the next container (package cabundle); nil where the image's own do
}

// Manager starts, stops and watches the containers of packs. It is safe for concurrent use.
type Manager struct {
	Config

	background context.Context // of what is done unasked; ends with Watch
	cancel     context.CancelFunc
	tasks      sync.WaitGroup

	packLocks keylock.Locks // each serialises what is done to one pack's container in this process

	recordsIO sync.Mutex // held while records are written or read, so that known never goes back

	reportedStopped map[string]bool // of Watch alone: the packs with closed gates of which approval was told that they stopped

	restartsDisabled atomic.Bool // nothing is started any more

	mu        sync.Mutex
	records   map[string]Record // by pack, as last read
	synced    bool              // known has what the engine had when it was asked first
	queue     map[string]*queued
	lastFresh time.Time                    // approval, last
	outage    struct{ from, to time.Time } // the last one; to is zero until the engine is back

	// starved has the containers in which the kernel killed something for their memory: an engine may tell that after it has
	// told, and kept, an end that knows nothing of it.
	oomSeen   map[string]bool
	lifetimes map[string]lifetime // containers that this process has seen alive, by id: their ends are not missed ones
}

// New makes a Manager that knows nothing until Watch has asked the engine.
func New(cfg Config) *Manager {
	m := &Manager{Config: cfg, records: make(map[string]Record), queue: make(map[string]*queued), oomSeen: make(map[string]bool), lifetimes: make(map[string]lifetime), reportedStopped: make(map[string]bool), lastFresh: time.Now()}
	m.background, m.cancel = context.WithCancel(context.Background())
	return m
}

// lockPack locks a pack, here and for other replicas.
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

// TreesLock is the file whose lock says who uses copies of trees and environments (shared) and who sweeps them (alone), in the folder
// of locks.
func TreesLock(lockDir string) string { return filepath.Join(lockDir, ".trees.lock") } // no pack's id begins with a dot

// Started is a running container.
type Started struct {
	ID       string
	ImageID  string
	Digest   string
	Warnings []string // of what the pack asked for and was not given
}

// Start has the approved tree of a pack run. Where it runs already nothing happens. Faults: not found for an unknown pack,
// denied `Pack not approved: <status>`, unavailable without Docker or without a service that is needed.
func (m *Manager) Start(ctx context.Context, packID string) (Started, error) {
	if _, err := pack.ParseID(packID); err != nil {
		return Started{}, err
	}
	release, err := m.lockPack(ctx, packID)
	if err != nil {
		return Started{}, fmt.Errorf("start %s: %w", packID, err)
	}
	defer release()
	state, err := m.checkGate(ctx, packID)
	if err != nil {
		return Started{}, err
	}
	found, err := m.observe(ctx, packID)
	if err = errors.Join(err, found.recordErr); err != nil {
		return Started{}, fmt.Errorf("start %s: %w", packID, err)
	}
	r := found.record
	if err := m.removeStrays(ctx, &r, found.strays); err != nil {
		return Started{}, fmt.Errorf("start %s: %w", packID, err)
	}
	if there := found.own; there != nil {
		if there.Running() && there.Digest == state.Digest {
			return Started{there.ID, there.ImageID, there.Digest, r.Warnings}, nil
		}
		m.keepRun(ctx, *there)
		if err := m.Engine.Remove(ctx, there.ID); err != nil {
			return Started{}, fmt.Errorf("start %s: %w", packID, err)
		}
	}
	r = Record{PackID: packID, Digest: state.Digest}
	made, err := m.launch(ctx, &r, nil)
	if err != nil {
		return Started{}, fmt.Errorf("start %s: %w", packID, err)
	}
	// The gate may have closed while the container was being made, and whoever was told had nothing to stop.
	if now, known := m.Gates.Get(packID); m.Gates.Fresh() && (!known || !now.Open || now.Digest != state.Digest) {
		if err := m.stopContainer(ctx, r, 0, "gate closed", false); err != nil {
			return Started{}, fmt.Errorf("start %s: %w", packID, err)
		}
		return Started{}, m.gateFault(packID, now)
	}
	return Started{made.ID, made.ImageID, state.Digest, r.Warnings}, nil
}

// checkGate judges the gate; a denial is audited.
func (m *Manager) checkGate(ctx context.Context, packID string) (gate.State, error) {
	state, known := m.Gates.GetLatest(ctx, packID)
	switch {
	case known && state.Open:
		return state, nil
	case !m.Gates.Fresh():
		return state, fault.ServiceUnavailable("approval")
	case !known:
		return state, fault.PackNotFound()
	}
	denied := m.gateFault(packID, state)
	err := m.Audit.Write(ctx, audit.Entry{Category: audit.Security, Severity: audit.Warning, Action: "container_start_denied",
		OwnerPack: packID, Details: map[string]any{"status": state.Status}, RejectionReason: denied.Message})
	if err != nil {
		return state, err
	}
	return state, denied
}

// gateFault is the answer to the start of a pack whose gate is closed, with the reason as far as it is known.
func (m *Manager) gateFault(packID string, state gate.State) *fault.Fault {
	why := m.parentReason(packID)
	if why == "" && state.Reason != "" {
		why = " (" + state.Reason + ")"
	}
	return fault.Denied("Pack not approved: %s%s", state.Status, why).With("pack_not_approved")
}

// parentReason says that a closed gate is the parent's, "" where it is the pack's own.
func (m *Manager) parentReason(packID string) string {
	parent, child := pack.Parent(pack.ID(packID))
	if !child {
		return ""
	}
	switch state, known := m.Gates.Get(string(parent)); {
	case !known:
		return fmt.Sprintf(" (its parent '%s' is not installed)", parent)
	case !state.Open:
		return fmt.Sprintf(" (its parent '%s' is %s)", parent, state.Status)
	}
	return ""
}

// launch starts a container for a pack that is held, the one that is there where it was made of the same Spec, else a new
// one. r, which names pack and digest, becomes what is so.
func (m *Manager) launch(ctx context.Context, r *Record, there *sandbox.Container) (sandbox.Container, error) {
	trees := flock.NewShared(TreesLock(m.LockDir))
	if err := trees.Lock(ctx); err != nil {
		return sandbox.Container{}, err
	}
	defer trees.Close() // what is mounted needs no lock
	spec, err := m.buildSpec(ctx, r)
	if err != nil {
		return sandbox.Container{}, err
	}
	after := context.WithoutCancel(ctx)
	undo := func(context.Context, string) error { return nil }
	if there == nil || there.SpecFingerprint != spec.Fingerprint() {
		if there != nil {
			m.keepRun(ctx, *there)
			if err := m.Engine.Remove(ctx, there.ID); err != nil {
				return *there, err
			}
		}
		made, err := m.Engine.Create(ctx, spec)
		if err != nil {
			return made, err
		}
		there, undo = &made, m.Engine.Remove
	}
	r.ContainerID, r.Wanted, r.Running, r.StartedAt, r.RestartAt = there.ID, true, true, time.Now().UTC(), time.Time{}
	if r.EngineID, err = m.Engine.ID(ctx); err != nil {
		return *there, errors.Join(err, undo(after, there.ID))
	}
	r.PreviousStart = there.Started
	m.markAlive(there.ID)
	if err := m.putRecord(ctx, *r); err != nil {
		return *there, errors.Join(err, undo(after, there.ID))
	}
	if err := m.Engine.Start(ctx, there.ID); err != nil {
		r.Running, r.Wanted = false, false
		return *there, errors.Join(err, m.putRecord(after, *r), undo(after, there.ID))
	}
	details := map[string]any{"digest": r.Digest, "image": spec.Image, "image_id": there.ImageID}
	if r.Restarts > 0 {
		details["restarts"] = r.Restarts
	}
	if len(r.Warnings) > 0 {
		details["warnings"] = r.Warnings
	}
	// Running without an entry must not be; an entry of what was ended at once may.
	if err := m.audit(ctx, "container_started", r.PackID, there.ID, details); err != nil {
		return *there, errors.Join(err, m.stopContainer(after, *r, 0, "audit log can't be written", false))
	}
	return *there, nil
}

func (m *Manager) audit(ctx context.Context, action, packID, id string, details map[string]any) error {
	details["container_id"] = id
	return m.Audit.Write(ctx, audit.Entry{Category: audit.System, Action: action, Success: true, OwnerPack: packID, Details: details})
}

// putRecord keeps a record.
func (m *Manager) putRecord(ctx context.Context, r Record) error {
	m.recordsIO.Lock()
	defer m.recordsIO.Unlock()
	err := m.Records.PutRecord(ctx, r)
	m.mu.Lock() // what is so is so, whether or not it could be written
	m.records[r.PackID] = r
	m.mu.Unlock()
	return err
}

// removeRecord removes a record.
func (m *Manager) removeRecord(ctx context.Context, packID string) error {
	m.recordsIO.Lock()
	defer m.recordsIO.Unlock()
	err := m.Records.RemoveRecord(ctx, packID)
	m.mu.Lock()
	delete(m.records, packID)
	m.mu.Unlock()
	return err
}

// stopContainer stops the container of a pack that is held. It stays, with its log, until it is deleted or started anew; with resume
// it is started again as soon as it may.
func (m *Manager) stopContainer(ctx context.Context, r Record, grace time.Duration, reason string, resume bool) error {
	// First what is wanted: who dies in between must not have it started again. A container is stopped all the same where
	// that can't be written, since its gate may be closed.
	r.Wanted, r.RestartAt = resume, time.Time{}
	wanted := m.putRecord(ctx, r)
	if err := m.Engine.Stop(ctx, r.ContainerID, grace); err != nil {
		return errors.Join(err, wanted)
	}
	r.Running, r.FinishedAt, r.Reason = false, time.Now().UTC(), reason
	if list, err := m.Engine.Find(ctx, sandbox.Pack, r.PackID); err == nil {
		for _, c := range list {
			if c.ID == r.ContainerID && !c.Finished.IsZero() {
				r.FinishedAt, r.Exit = c.Finished, &c.Exit
			}
		}
	}
	if resume {
		r.RestartAt = time.Now().UTC()
	}
	return errors.Join(m.putRecord(ctx, r), m.audit(ctx, "container_stopped", r.PackID, r.ContainerID, map[string]any{"reason": reason}))
}

// Stop ends a pack's container, or its waiting for a restart, and says whether one was running. A pack that nobody knows
// and that has no container is not found.
func (m *Manager) Stop(ctx context.Context, packID string) (bool, error) {
	if _, err := pack.ParseID(packID); err != nil {
		return false, err
	}
	release, err := m.lockPack(ctx, packID)
	if err != nil {
		return false, fmt.Errorf("stop %s: %w", packID, err)
	}
	defer release()
	found, err := m.observe(ctx, packID)
	if err == nil {
		err = m.checkKnown(packID, found)
	}
	if err != nil {
		return false, err
	}
	stopped := found.alive()
	r := found.record
	err = m.removeStrays(ctx, nil, found.strays)
	c := found.own
	if c == nil {
		if err = errors.Join(err, m.cancelRestarts(ctx, packID)); err != nil {
			return false, fmt.Errorf("stop %s: %w", packID, err)
		}
		return stopped, nil
	}
	r.ContainerID, r.Digest = c.ID, c.Digest
	switch {
	case c.Alive(): // also where the record can't be read
		err = errors.Join(err, m.stopContainer(ctx, r, stopGrace, "stopped by "+actor(ctx), false))
	case found.recordErr != nil:
		err = errors.Join(err, found.recordErr)
	case r.Wanted:
		r.Wanted, r.RestartAt = false, time.Time{}
		err = errors.Join(err, m.putRecord(ctx, r))
	}
	if err != nil {
		return false, fmt.Errorf("stop %s: %w", packID, err)
	}
	return stopped, nil
}

// Delete removes a pack's container with its log and says whether there was one, and whether it was running.
func (m *Manager) Delete(ctx context.Context, packID string) (removed, running bool, err error) {
	if _, err := pack.ParseID(packID); err != nil {
		return false, false, err
	}
	release, err := m.lockPack(ctx, packID)
	if err != nil {
		return false, false, fmt.Errorf("delete container of %s: %w", packID, err)
	}
	defer release()
	found, err := m.observe(ctx, packID)
	if err == nil {
		err = m.checkKnown(packID, found)
	}
	if err != nil {
		return false, false, err
	}
	if err := m.deleteAll(ctx, packID, found); err != nil {
		return false, false, fmt.Errorf("delete container of %s: %w", packID, err)
	}
	return found.any(), found.alive(), nil
}

// deleteAll removes whatever containers a pack has, or ends its waiting for a restart where it has none.
func (m *Manager) deleteAll(ctx context.Context, packID string, found observed) error {
	err := m.removeStrays(ctx, nil, found.strays)
	if found.own == nil {
		return errors.Join(err, m.cancelRestarts(ctx, packID))
	}
	return errors.Join(err, m.deleteContainer(ctx, packID, found.own.ID))
}

// deleteContainer removes a container. Its record goes first: without one nothing is started again.
func (m *Manager) deleteContainer(ctx context.Context, packID, id string) error {
	forgotten := m.removeRecord(ctx, packID)
	if err := m.Engine.Remove(ctx, id); err != nil {
		return errors.Join(err, forgotten)
	}
	return errors.Join(forgotten, m.audit(ctx, "container_deleted", packID, id, map[string]any{"actor": actor(ctx)}))
}

// cancelRestarts ends the restarts of a pack that has no container: the last one removed it and could make no other.
func (m *Manager) cancelRestarts(ctx context.Context, packID string) error {
	if err := m.removeRecord(ctx, packID); err != nil {
		return fmt.Errorf("end restarts of %s: %w", packID, err)
	}
	return nil
}

// ownContainer is the container of a pack, nil where a pack that is known has none.
func (m *Manager) ownContainer(ctx context.Context, packID string) (*sandbox.Container, error) {
	found, err := m.observe(ctx, packID)
	if err != nil {
		return nil, err
	}
	return found.own, m.checkKnown(packID, found)
}

// checkKnown is an error where a pack has no container and isn't known either.
func (m *Manager) checkKnown(packID string, found observed) error {
	if found.any() {
		return nil
	}
	if _, known := m.Gates.Get(packID); known {
		return nil
	}
	if !m.Gates.Fresh() {
		return fault.ServiceUnavailable("approval")
	}
	return fault.PackNotFound()
}

// Removed says what Remove has found of a pack.
type Removed struct {
	Container bool   // there was one
	Running   bool   // it was alive
	Data      string // where its data was put, relative to the Rumi home; "" where it had none
}

// Remove takes the containers of a pack that is uninstalled and puts its data aside.
func (m *Manager) Remove(ctx context.Context, packID string) (Removed, error) {
	release, err := m.lockPack(ctx, packID)
	if err != nil {
		return Removed{}, fmt.Errorf("remove container of %s: %w", packID, err)
	}
	defer release()
	found, err := m.observe(ctx, packID)
	if err == nil {
		err = m.deleteAll(ctx, packID, found)
	}
	if err != nil {
		return Removed{}, fmt.Errorf("remove container of %s: %w", packID, err)
	}
	done := Removed{Container: found.any(), Running: found.alive()}
	done.Data, err = m.archiveData(ctx, packID)
	return done, errors.Join(err, os.RemoveAll(m.runsOf(packID)))
}
