// Package unconfined runs packs and handlers as child processes of the broker, for RUMI_SECURITY_MODE=permissive: for developing packs on a
// machine without Docker. It takes the Specs of libs/sandbox and confines nothing. What it starts runs as the broker's user, sees the whole
// file system and the network, has no limits, and could use every pack's socket. So each start is logged as a warning and audited.
//
// There is no file system of its own either, so mounts are imitated: a variable, an argument or a working directory that names a mount's
// target is changed to name the source (hostPath).
//
// What the package does see to is that nothing outlives the broker. The kernel kills a child with the thread that started it
// (startAll); what a child has started carries a tag in its environment and is found by it (orphans.go), at the end of the child
// and, for brokers that were killed, at the next start.
//
// Package engine of the broker chooses between this and libs/sandbox. Read engine.go, child.go (one process), output.go (what it
// printed), orphans.go, stats.go.
package unconfined

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/sandbox"
)

// The programs of the pack image: as a Spec names them, and their files in RuntimeDir.
const (
	imageRuntime = "rumi-runtime"
	workerFile   = "worker/rumi_worker.py"
	modules      = "lib"
)

// Audit is the audit log; starts are written there.
type Audit interface {
	Write(ctx context.Context, e audit.Entry) error
}

// Config has the parts that an Engine uses.
type Config struct {
	RuntimeDir   string // holds lib/ and worker/ of runtime/python
	DockerSocket string // only to warn if what is started could use it
	Node         string // the name of this host among those that share a database
	Replica      string // of this process, as sandbox.Config has it
	Alive        func(replica string) bool
	Audit        Audit
	Log          *slog.Logger
}

// Engine runs Specs as processes, which end with it. It is safe for concurrent use.
type Engine struct {
	Config
	python   string
	warnings []sandbox.Warning
	starts   chan func()   // run by the thread of startAll
	closing  chan struct{} // nothing more is started
	closed   chan struct{} // nothing runs any more
	close    sync.Once

	mu          sync.Mutex        // guards the following, and child.info
	children    map[string]*child // by id
	subscribers []chan sandbox.Event
}

// Open finds Python and the runtime's files, and says in log and audit that nothing is confined.
func Open(ctx context.Context, cfg Config) (*Engine, error) {
	python, err := exec.LookPath("python3")
	if err != nil {
		return nil, fmt.Errorf("run packs without Docker: python3 is not here (RUMI_SECURITY_MODE=permissive is for services that run on the host; unset RUMI_SECURITY_MODE for docker compose; on a host install python3): %w", err)
	}
	for _, needed := range []string{workerFile, modules} {
		if _, err := os.Stat(filepath.Join(cfg.RuntimeDir, needed)); err != nil {
			return nil, fmt.Errorf("run packs without Docker: RUMI_RUNTIME_DIR must name runtime/python: %w", err)
		}
	}
	if cfg.RuntimeDir, err = filepath.Abs(cfg.RuntimeDir); err != nil {
		return nil, fmt.Errorf("run packs without Docker: %w", err)
	}
	e := &Engine{Config: cfg, python: python, starts: make(chan func()), closing: make(chan struct{}), closed: make(chan struct{}), children: make(map[string]*child)}
	e.warnings = []sandbox.Warning{{Code: "permissive",
		Message: "RUMI_SECURITY_MODE=permissive: packs and handlers run as processes of the broker's user, confined by nothing"}}
	if unix.Access(cfg.DockerSocket, unix.W_OK) == nil {
		e.warnings = append(e.warnings, sandbox.Warning{Code: "docker_socket_reachable",
			Message: "packs may use Docker's socket " + cfg.DockerSocket + ", which makes root of them"})
	}
	for _, w := range e.warnings {
		cfg.Log.WarnContext(ctx, w.Message, "code", w.Code)
	}
	err = cfg.Audit.Write(ctx, audit.Entry{Category: audit.Security, Severity: audit.Critical, Action: "permissive_mode", Success: true})
	if err != nil {
		return nil, err
	}
	if err := e.endOrphans(ctx); err != nil {
		return nil, err
	}
	go e.startAll()
	return e, nil
}

// startAll runs the functions of starts, all on one thread. The kernel sends a child its parent's death signal (prctl(2),
// PR_SET_PDEATHSIG) when the thread that forked it ends, not the process. Go ends idle threads at times, and a child would die with one: so one
// thread forks all children and is never ended before the last of them.
func (e *Engine) startAll() {
	runtime.LockOSThread()
	for {
		select {
		case start := <-e.starts:
			start()
		case <-e.closing:
			<-e.closed // until there are no children any more
			return
		}
	}
}

// Close kills every process.
func (e *Engine) Close() error {
	var failures []error
	e.close.Do(func() {
		close(e.closing)
		_, err := e.Sweep(context.Background(), "", nil)
		failures = append(failures, err)
		close(e.closed)
	})
	return errors.Join(failures...)
}

// Status says that there is no engine, and warns of what that means.
func (e *Engine) Status(context.Context) sandbox.Status { return sandbox.Status{Warnings: e.warnings} }

// ID is "": there is no engine.
func (e *Engine) ID(context.Context) (string, error) { return "", nil }

// Create notes what Start is to run. A name that is taken is sandbox.ErrExists.
func (e *Engine) Create(_ context.Context, spec sandbox.Spec) (sandbox.Container, error) {
	argv, err := e.command(spec)
	if err != nil {
		return sandbox.Container{}, fmt.Errorf("create process: %w", err)
	}
	var id [32]byte
	rand.Read(id[:])
	c := &child{
		spec: spec, argv: argv, output: newOutput(),
		info: sandbox.Container{
			ID: hex.EncodeToString(id[:]), Kind: spec.Kind, Name: spec.Name, PackID: spec.PackID, Principal: spec.Principal, Digest: spec.Digest,
			Packages: spec.Packages, Image: spec.Image, Replica: e.Replica, SpecFingerprint: spec.Fingerprint(), Status: "created", Created: time.Now().UTC(),
		},
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, other := range e.children {
		if other.info.Kind == spec.Kind && other.info.Name == spec.Name {
			return sandbox.Container{}, fmt.Errorf("create process %s: %w", spec.Name, sandbox.ErrExists)
		}
	}
	e.children[c.info.ID] = c
	return c.info, nil
}

// command translates a Spec's command for the pack image into an argv for this host.
func (e *Engine) command(spec sandbox.Spec) ([]string, error) {
	argv := spec.Command
	if len(argv) == 0 || argv[0] != imageRuntime {
		return nil, fmt.Errorf("%q is not run by %s", argv, imageRuntime)
	}
	switch argv = argv[1:]; {
	case len(argv) == 1 && argv[0] == "serve":
		return []string{e.python, "-u", filepath.Join(e.RuntimeDir, workerFile)}, nil
	case len(argv) > 1 && argv[0] == "run":
		if argv = argv[1:]; argv[0] == "--" {
			argv = argv[1:]
		}
	default:
		argv = nil
	}
	if len(argv) == 0 || argv[0] == "" {
		return nil, fmt.Errorf("%q names no program", spec.Command)
	}
	argv = slices.Clone(argv)
	for i, arg := range argv {
		argv[i] = hostPath(spec.Mounts, arg)
	}
	if strings.HasSuffix(argv[0], ".py") {
		if !filepath.IsAbs(argv[0]) {
			argv[0] = filepath.Join(hostPath(spec.Mounts, spec.Dir), argv[0])
		}
		return append([]string{e.python, "-u"}, argv...), nil
	}
	return argv, nil
}

// hostPath translates a path at or under a mount's target into one at or under its source. Anything else is returned unchanged.
func hostPath(mounts []sandbox.Mount, path string) string {
	for _, m := range mounts {
		if rest, under := strings.CutPrefix(path, m.Target); under && (rest == "" || rest[0] == '/') {
			return m.Source + rest
		}
	}
	return path
}

// environ is the whole environment of a process. Of the broker's own it has PATH only: the others may hold secrets.
func (e *Engine) environ(spec sandbox.Spec, id, scratch string) []string {
	vars := map[string]string{
		"PATH": os.Getenv("PATH"), "HOME": scratch, "TMPDIR": scratch, "LANG": "C.UTF-8",
		"PYTHONPATH": filepath.Join(e.RuntimeDir, modules), "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1",
		"RUMI_PACK_DIR": "/pack", "RUMI_DATA_DIR": "/data", "RUMI_SITE_PACKAGES": "/site-packages",
	}
	for name, value := range spec.Env {
		vars[name] = value
	}
	vars[tagVariable] = e.tag(id)
	list := make([]string, 0, len(vars))
	for name, value := range vars {
		list = append(list, name+"="+hostPath(spec.Mounts, value))
	}
	slices.Sort(list)
	return list
}

func (e *Engine) child(id string) (*child, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c := e.children[id]; c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("find process %.12s: %w", id, sandbox.ErrNotFound)
}

// Find returns the processes of that kind and name: one or none.
func (e *Engine) Find(_ context.Context, kind sandbox.Kind, name string) ([]sandbox.Container, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.children {
		if c.info.Kind == kind && c.info.Name == name {
			return []sandbox.Container{c.info}, nil
		}
	}
	return nil, nil
}

// List returns the processes, running or not, of one kind or, with "", of all.
func (e *Engine) List(_ context.Context, kind sandbox.Kind) ([]sandbox.Container, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var list []sandbox.Container
	for _, c := range e.children {
		if kind == "" || c.info.Kind == kind {
			list = append(list, c.info)
		}
	}
	return list, nil
}

// Remove kills a process and forgets it and its output. It is no error if the process has ended already.
func (e *Engine) Remove(_ context.Context, id string) error {
	c, err := e.child(id)
	if err != nil {
		return nil
	}
	c.kill()
	e.mu.Lock()
	delete(e.children, id)
	info := c.info
	e.mu.Unlock()
	c.discard()
	e.publish(sandbox.Event{Action: "destroy", Container: info})
	return nil
}

// Sweep removes the processes of a kind for which keep is false (all, if keep is nil). It also kills what brokers that were killed have
// left running, of every kind.
func (e *Engine) Sweep(ctx context.Context, kind sandbox.Kind, keep func(sandbox.Container) bool) ([]sandbox.Container, error) {
	all, err := e.List(ctx, kind)
	if err != nil {
		return nil, err
	}
	var removed []sandbox.Container
	for _, c := range all {
		if keep != nil && keep(c) {
			continue
		}
		if err := e.Remove(ctx, c.ID); err != nil {
			return removed, err
		}
		removed = append(removed, c)
	}
	return removed, e.endOrphans(ctx)
}

// Events calls on for each event, one at a time, until ctx ends.
func (e *Engine) Events(ctx context.Context, on func(sandbox.Event)) {
	events := make(chan sandbox.Event, 1024)
	e.mu.Lock()
	e.subscribers = append(e.subscribers, events)
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		e.subscribers = slices.DeleteFunc(e.subscribers, func(c chan sandbox.Event) bool { return c == events })
		e.mu.Unlock()
	}()
	on(sandbox.Event{Action: sandbox.Resync})
	for {
		select {
		case <-ctx.Done():
			return
		case event := <-events:
			on(event)
		}
	}
}

// publish sends an event to all subscribers. A subscriber that is 1,024 events behind misses this one; its next scan of the list finds what it
// missed.
func (e *Engine) publish(event sandbox.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, events := range e.subscribers {
		select {
		case events <- event:
		default:
		}
	}
}

// Attach returns the stdin and stdout that a process will have once it is started. What it writes to stderr goes to the writer.
func (e *Engine) Attach(_ context.Context, id string, stderr io.Writer) (sandbox.Stream, error) {
	c, err := e.child(id)
	if err != nil {
		return nil, err
	}
	return c.attach(stderr)
}
