// Package container runs packs: one container a pack, started by an operator, stopped as soon as its gate closes.
//
// Which containers there are is told by Docker; this package remembers only what Docker forgets or is too slow to ask.
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
	"time"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/sandbox"
	"github.com/rumi-ai/rumi/libs/uds"
)

const (
	stopGrace   = 5 * time.Second        // between SIGTERM and SIGKILL, for an operator's stop
	socketsWait = 3 * time.Second        // for the sockets of a pack that was approved a moment ago
	socketsPoll = 50 * time.Millisecond  //
	leaseGrace  = 30 * time.Second       // how long containers outlive the lease of their gates
	tendEvery   = 500 * time.Millisecond // the backstop behind pushed changes
	sweepEvery  = time.Hour              // trees that nobody needs

	reportTimeout = 2 * time.Second // to tell approval which containers run
)

// Engine is what runs containers; *sandbox.Engine is one.
type Engine interface {
	Create(ctx context.Context, spec sandbox.Spec) (sandbox.Container, error)
	Start(ctx context.Context, id string) error
	Stop(ctx context.Context, id string, grace time.Duration) error
	Remove(ctx context.Context, id string) error
	Find(ctx context.Context, kind sandbox.Kind, name string) (sandbox.Container, error)
	List(ctx context.Context, kind sandbox.Kind) ([]sandbox.Container, error)
	Wait(ctx context.Context, id string) (sandbox.Exit, error)
	Logs(ctx context.Context, id string, opts sandbox.LogOptions) iter.Seq2[sandbox.Line, error]
	Events(ctx context.Context, on func(sandbox.Event))
	Status(ctx context.Context) sandbox.Status
}

// Gates tells from memory which packs may run.
type Gates interface {
	Get(packID string) (gate.State, bool)
	All() []gate.State
	Fresh() bool
}

// Trees gives read-only folders by digest.
type Trees interface {
	Get(ctx context.Context, digest string) (path string, err error)
	// Sweep removes those that keep doesn't want.
	Sweep(keep func(digest string) bool) error
}

// Environments gives the folder of a pack's installed dependencies, "" where it has none.
type Environments interface {
	For(ctx context.Context, packID string) (path string, err error)
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
	Gates        Gates
	Trees        Trees
	Environments Environments
	Reporter     Reporter
	Audit        Audit
	Log          *slog.Logger

	Image         string // that packs run in
	DataDir       string // holds a folder a pack, mounted as /data
	EgressDir     string // holds the packs' egress sockets, as uds.Config.Dir
	CapabilityDir string // holds their capability sockets
	Groups        []int  // that a container joins to use them
	Authorities   string // a file that WriteAuthorities made; "" where the image's own do
}

// Manager starts, stops and watches the containers of packs. It is safe for concurrent use.
type Manager struct {
	Config
	mu     sync.Mutex
	known  map[string]*record // by pack
	looked bool               // known has what Docker had when it was asked first
	busy   map[string]*lock

	starting sync.RWMutex // shared while a container is made out of a tree, held alone while trees are removed
}

// record is what is remembered of a pack's container.
type record struct {
	id       string
	digest   string
	running  bool
	stopping bool // we are at it: its end is no surprise
	started  time.Time
	ended    time.Time
	exit     *sandbox.Exit
}

// lock serialises what is done to one pack's container.
type lock struct {
	sync.Mutex
	users int
}

// New makes a Manager that knows nothing until Watch has asked Docker.
func New(cfg Config) *Manager {
	return &Manager{Config: cfg, known: make(map[string]*record), busy: make(map[string]*lock)}
}

// hold locks a pack.
func (m *Manager) hold(packID string) (release func()) {
	m.mu.Lock()
	l := m.busy[packID]
	if l == nil {
		l = &lock{}
		m.busy[packID] = l
	}
	l.users++
	m.mu.Unlock()
	l.Lock()
	return func() {
		l.Unlock()
		m.mu.Lock()
		if l.users--; l.users == 0 {
			delete(m.busy, packID)
		}
		m.mu.Unlock()
	}
}

// Started is a running container.
type Started struct {
	ID     string
	Digest string
}

// Start has the approved tree of a pack run. Where it runs already nothing happens. Faults: not found for an unknown pack,
// denied `Pack not approved: <status>`, unavailable without Docker or without a service that is needed.
func (m *Manager) Start(ctx context.Context, packID string) (Started, error) {
	if _, err := pack.ParseID(packID); err != nil {
		return Started{}, err
	}
	defer m.hold(packID)()
	state, err := m.permitted(ctx, packID)
	if err != nil {
		return Started{}, err
	}
	there, err := m.Engine.Find(ctx, sandbox.Pack, packID)
	switch {
	case errors.Is(err, sandbox.ErrNotFound):
	case err != nil:
		return Started{}, fmt.Errorf("start %s: %w", packID, err)
	case there.Running() && there.Digest == state.Digest:
		return Started{there.ID, there.Digest}, nil
	default:
		if err := m.Engine.Remove(ctx, there.ID); err != nil {
			return Started{}, fmt.Errorf("start %s: %w", packID, err)
		}
	}
	m.starting.RLock()
	defer m.starting.RUnlock()
	spec, err := m.spec(ctx, packID, state.Digest)
	if err != nil {
		return Started{}, fmt.Errorf("start %s: %w", packID, err)
	}
	made, err := m.run(ctx, packID, spec)
	if err != nil {
		return Started{}, fmt.Errorf("start %s: %w", packID, err)
	}
	// The gate may have closed while the container was being made, and whoever was told had nothing to stop.
	if now, known := m.Gates.Get(packID); m.Gates.Fresh() && (!known || !now.Open || now.Digest != state.Digest) {
		if err := m.end(ctx, packID, made.ID, 0, "gate closed"); err != nil {
			return Started{}, fmt.Errorf("start %s: %w", packID, err)
		}
		return Started{}, fault.Denied("Pack not approved: %s", now.Status)
	}
	return Started{made.ID, state.Digest}, nil
}

// permitted judges the gate; a denial is audited.
func (m *Manager) permitted(ctx context.Context, packID string) (gate.State, error) {
	state, known := m.Gates.Get(packID)
	switch {
	case known && state.Open:
		return state, nil
	case !m.Gates.Fresh():
		return state, fault.Unavailable("Service unavailable: approval")
	case !known:
		return state, fault.NotFound("Pack not found")
	}
	reason := "Pack not approved: " + state.Status
	err := m.Audit.Write(ctx, audit.Entry{Category: audit.Security, Severity: audit.Warning, Action: "container_start_denied",
		OwnerPack: packID, Details: map[string]any{"status": state.Status}, RejectionReason: reason})
	if err != nil {
		return state, err
	}
	return state, fault.Denied("%s", reason)
}

// spec says what a pack's container is: its code, its data, its two sockets and nothing else.
func (m *Manager) spec(ctx context.Context, packID, digest string) (sandbox.Spec, error) {
	code, err := m.Trees.Get(ctx, digest)
	if err != nil {
		return sandbox.Spec{}, err
	}
	command, err := command(code)
	if err != nil {
		return sandbox.Spec{}, err
	}
	data, err := prepareData(m.DataDir, packID)
	if err != nil {
		return sandbox.Spec{}, err
	}
	egress := filepath.Join(m.EgressDir, uds.DirName(packID))
	capability := filepath.Join(m.CapabilityDir, uds.DirName(packID))
	for _, wait := range []struct{ dir, owner string }{{capability, "capability-broker"}, {egress, "egress-proxy"}} {
		if err := present(ctx, wait.dir); err != nil {
			return sandbox.Spec{}, fault.Unavailable("Service unavailable: %s has made no socket for the pack yet", wait.owner).Because(err)
		}
	}
	mounts := []sandbox.Mount{
		{Source: code, Target: "/pack"},
		{Source: data, Target: "/data", Writable: true},
		{Source: egress, Target: "/run/rumi/egress"},
		{Source: capability, Target: "/run/rumi/capability"},
	}
	environment, err := m.Environments.For(ctx, packID)
	if err != nil {
		return sandbox.Spec{}, err
	}
	if environment != "" {
		mounts = append(mounts, sandbox.Mount{Source: environment, Target: "/site-packages"})
	}
	variables := map[string]string{
		"RUMI_PACK_ID":           packID,
		"RUMI_EGRESS_SOCKET":     "/run/rumi/egress/" + uds.SocketName,
		"RUMI_CAPABILITY_SOCKET": "/run/rumi/capability/" + uds.SocketName,
		"PYTHONUNBUFFERED":       "1",
	}
	if m.Authorities != "" {
		mounts = append(mounts, sandbox.Mount{Source: m.Authorities, Target: authoritiesTarget})
		variables["RUMI_EGRESS_CA_FILE"] = authoritiesTarget // PID 1 tells the program, in the names that tools know
	}
	return sandbox.Spec{
		Kind: sandbox.Pack, Name: packID, PackID: packID, Principal: packID, Digest: digest, Image: m.Image,
		Command: command, Dir: "/pack", Mounts: mounts, Groups: m.Groups, Stdin: true, Env: variables,
	}, nil
}

// command is what PID 1 is told: to run the pack's entrypoint, or to wait for calls where it has none.
func command(code string) ([]string, error) {
	root, err := os.OpenRoot(code)
	if err != nil {
		return nil, fmt.Errorf("open pack: %w", err)
	}
	defer root.Close()
	d, err := pack.ReadDescriptor(root)
	if err != nil {
		return nil, fault.Conflict("Pack can't be started: %v", err)
	}
	switch {
	case d.Entrypoint.IsZero():
		return []string{"rumi-runtime", "serve"}, nil
	case d.Entrypoint.File != "":
		return []string{"rumi-runtime", "run", "--", d.Entrypoint.File}, nil
	}
	return append([]string{"rumi-runtime", "run", "--"}, d.Entrypoint.Argv...), nil
}

// present waits for a folder to be there.
func present(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, socketsWait)
	defer cancel()
	for {
		_, err := os.Lstat(filepath.Join(dir, uds.SocketName))
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(socketsPoll):
		}
	}
}

func (m *Manager) run(ctx context.Context, packID string, spec sandbox.Spec) (sandbox.Container, error) {
	made, err := m.Engine.Create(ctx, spec)
	if err != nil {
		return made, err
	}
	m.mu.Lock()
	m.known[packID] = &record{id: made.ID, digest: spec.Digest, running: true, started: time.Now().UTC()}
	m.mu.Unlock()
	if err := m.Engine.Start(ctx, made.ID); err != nil {
		m.forget(packID, made.ID)
		return made, errors.Join(err, m.Engine.Remove(context.WithoutCancel(ctx), made.ID))
	}
	// Running without an entry must not be; an entry of what was ended at once may.
	if err := m.audit(ctx, "container_started", packID, made.ID, map[string]any{"digest": spec.Digest, "image": spec.Image}); err != nil {
		return made, errors.Join(err, m.end(context.WithoutCancel(ctx), packID, made.ID, 0, "audit log can't be written"))
	}
	return made, nil
}

func (m *Manager) audit(ctx context.Context, action, packID, id string, details map[string]any) error {
	details["container_id"] = id
	return m.Audit.Write(ctx, audit.Entry{Category: audit.System, Action: action, Success: true, OwnerPack: packID, Details: details})
}

func (m *Manager) forget(packID, id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := m.known[packID]; r != nil && r.id == id {
		delete(m.known, packID)
	}
}

// end stops a container whose pack is held. It stays, with its log, until it is deleted or started anew.
func (m *Manager) end(ctx context.Context, packID, id string, grace time.Duration, reason string) error {
	m.note(packID, id, func(r *record) { r.stopping = true })
	if err := m.Engine.Stop(ctx, id, grace); err != nil {
		m.note(packID, id, func(r *record) { r.stopping = false })
		return err
	}
	m.note(packID, id, func(r *record) { r.running, r.stopping, r.ended = false, false, time.Now().UTC() })
	return m.audit(ctx, "container_stopped", packID, id, map[string]any{"reason": reason})
}

// note changes what is remembered of a container, if anything is.
func (m *Manager) note(packID, id string, change func(*record)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := m.known[packID]; r != nil && r.id == id {
		change(r)
	}
}

// Stop ends a pack's container and says whether one was running. A pack that nobody knows and that has no container is
// not found.
func (m *Manager) Stop(ctx context.Context, packID string) (bool, error) {
	if _, err := pack.ParseID(packID); err != nil {
		return false, err
	}
	defer m.hold(packID)()
	c, err := m.find(ctx, packID)
	if err != nil || c == nil || !c.Running() {
		return false, err
	}
	if err := m.end(ctx, packID, c.ID, stopGrace, "stopped by "+actor(ctx)); err != nil {
		return false, fmt.Errorf("stop %s: %w", packID, err)
	}
	return true, nil
}

// Delete removes a pack's container with its log and says whether there was one, and whether it was running.
func (m *Manager) Delete(ctx context.Context, packID string) (removed, running bool, err error) {
	if _, err := pack.ParseID(packID); err != nil {
		return false, false, err
	}
	defer m.hold(packID)()
	c, err := m.find(ctx, packID)
	if err != nil || c == nil {
		return false, false, err
	}
	if err := m.delete(ctx, packID, c.ID); err != nil {
		return false, false, fmt.Errorf("delete container of %s: %w", packID, err)
	}
	return true, c.Running(), nil
}

func (m *Manager) delete(ctx context.Context, packID, id string) error {
	m.note(packID, id, func(r *record) { r.stopping = true })
	if err := m.Engine.Remove(ctx, id); err != nil {
		return err
	}
	m.forget(packID, id)
	return m.audit(ctx, "container_deleted", packID, id, map[string]any{"actor": actor(ctx)})
}

// find is the container of a pack, nil where a pack that is known has none.
func (m *Manager) find(ctx context.Context, packID string) (*sandbox.Container, error) {
	c, err := m.Engine.Find(ctx, sandbox.Pack, packID)
	if err == nil {
		return &c, nil
	}
	if !errors.Is(err, sandbox.ErrNotFound) {
		return nil, fmt.Errorf("find container of %s: %w", packID, err)
	}
	if _, known := m.Gates.Get(packID); known {
		return nil, nil
	}
	if !m.Gates.Fresh() {
		return nil, fault.Unavailable("Service unavailable: approval")
	}
	return nil, fault.NotFound("Pack not found")
}

// Remove takes the container of a pack that is uninstalled and puts its data aside.
func (m *Manager) Remove(ctx context.Context, packID string) (removed, running bool, err error) {
	defer m.hold(packID)()
	c, err := m.Engine.Find(ctx, sandbox.Pack, packID)
	switch {
	case errors.Is(err, sandbox.ErrNotFound):
	case err != nil:
		return false, false, fmt.Errorf("remove container of %s: %w", packID, err)
	default:
		if err := m.delete(ctx, packID, c.ID); err != nil {
			return false, false, fmt.Errorf("remove container of %s: %w", packID, err)
		}
		removed, running = true, c.Running()
	}
	to, err := retireData(m.DataDir, packID, time.Now())
	if err != nil {
		return removed, running, err
	}
	if to != "" {
		m.Log.InfoContext(ctx, "kept the data of an uninstalled pack", "pack_id", packID, "folder", to)
	}
	return removed, running, nil
}
