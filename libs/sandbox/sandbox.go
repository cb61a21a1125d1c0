// Package sandbox runs untrusted code in Docker containers, all with one hardened profile (profile.go). It is the only package that
// imports the Docker client.
//
// Whoever may use Docker's socket is root on the host. A service that has the socket, and uses it through this package only,
// can't make a privileged container, mount the host's folders or join its network by a mistake: Spec has no field that says so.
//
// What stands against which attack:
//
//   - Code in a container: no capabilities, no new privileges, a read-only image, limits, a seccomp profile (seccomp.go), no network but
//     for builders.
//   - Other containers on the engine: only containers of this Rumi home are listed, started, stopped or removed (owner.go).
//   - Sources of mounts that lead elsewhere: no links, no sockets, no devices (self.go).
//   - An engine that hangs, doesn't run, restarts or repeats events: bounds on each call (bounded), Watch, Events with Resync and Lost,
//     logs that are read again (logs.go, replay.go).
//   - An engine with known holes: warnings in Status (advisory.go).
//
// The broker and pip-installer use it; package unconfined of the broker implements the same methods without containers.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/system"
	"github.com/docker/docker/client"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/rumi-ai/rumi/libs/fault"
)

// Kind is the purpose of a container. It decides its network and where its output goes; the rest is the same for all.
type Kind string

// The kinds, as the label io.rumi.kind has them.
const (
	Pack    Kind = "pack"    // a pack's own program; output kept in rotated files, read with Logs
	Handler Kind = "handler" // a capability handler's worker; output kept nowhere, read with Attach
	Builder Kind = "builder" // a dependency build, the only kind with a network
)

// UID and GID are the user and group that everything in a container runs as: nobody and nogroup, which own no file.
const (
	UID = 65534
	GID = 65534
)

// Spec is all that a caller may choose about a container. Everything else is in profile.
type Spec struct {
	Kind      Kind
	Name      string            // tells it from others of its kind, ^[a-zA-Z0-9_.-]{1,128}$; the container is rumi-<instance>-<kind>-<name>
	PackID    string            // label io.rumi.pack_id; "" for none
	Principal string            // label io.rumi.principal; "" for none
	Digest    string            // label io.rumi.digest: the tree it runs; "" for none
	Packages  string            // label io.rumi.packages: the tree of its dependencies; "" for none
	Image     string            // the engine must have it, nothing is pulled; each Create resolves the name to an id
	Command   []string          // the whole argv, instead of the image's entrypoint and command
	Dir       string            // working directory; "" for the image's
	Env       map[string]string // beside the image's
	Mounts    []Mount
	Groups    []int // further groups of the process, for the sockets it may use
	Limits    Limits
	Stdin     bool // keep stdin open for Attach; a handler's or builder's ends with the first Attach, a pack's stays
}

// Mount shows a folder or a regular file of this process in the container. Mounts below the source don't come along: what the operator
// mounts somewhere below a pack's folder later is not for the pack.
type Mount struct {
	Source   string // absolute, as this process sees it; without links below the mount that it lies in
	Target   string // absolute
	Writable bool
}

// Container is one container of this instance.
type Container struct {
	ID              string // Docker's, 64 hex
	Kind            Kind
	Name            string // Spec.Name
	PackID          string
	Principal       string
	Digest          string
	Packages        string
	Image           string // Spec.Image
	ImageID         string // "sha256:…", what that name meant when it was made
	Replica         string // Config.Replica of the process that made it
	SpecFingerprint string // Fingerprint of the Spec that it was made of
	Status          string // Docker's word: created, running, paused, restarting, removing, exited, dead
	Created         time.Time
	Outdated        bool // made by a version that labelled containers otherwise: to be ended, not to be started

	// Of Inspect and Find only.
	Started  time.Time // last; zero before
	Finished time.Time // last; zero before
	Exit     Exit      // of the last run, where Finished isn't zero
}

// Running says whether code runs in it.
func (c Container) Running() bool { return c.Status == "running" }

// Alive says whether there are processes in it. A paused container is alive: its code runs on as soon as anybody unpauses it,
// without a start that could be refused.
func (c Container) Alive() bool {
	switch c.Status {
	case "running", "paused", "restarting":
		return true
	}
	return false
}

var (
	// ErrNotFound says that this home has no such container. The answer is the same for a container of another home.
	ErrNotFound = errors.New("no such container")
	// ErrNotRunning says that the container is there, but no code runs in it.
	ErrNotRunning = errors.New("the container is not running")
	// ErrExists says that a container of that kind and name is there already.
	ErrExists = errors.New("a container of that name exists")
)

// Config says which engine to use, and which containers on it are ours.
type Config struct {
	// Host is the engine's address; "" means DOCKER_HOST or Docker's usual socket.
	Host string
	// Home is the identity of the home whose containers these are, 32 hexadecimal digits. It alone decides what is ours.
	// A process without one ("") owns the containers without one that have its Instance.
	Home string
	// HomeDirs are folders of this process that only containers of this home have mounted. A container without the label of a home
	// that has one of them mounted, or something in it, was made by an older version and is ours.
	HomeDirs []string
	// Instance is in the names of containers and in a label, for people, ^[a-z0-9][a-z0-9_-]{0,62}$. "" means the compose
	// project of the container this process runs in, or "local" outside one.
	Instance string
	// BuilderNetwork is the Docker network that builders join; "" means "bridge".
	BuilderNetwork string
	// Runtime is the OCI runtime that containers run in, by the name the engine knows it ("runsc", "kata"); "" means the
	// engine's default. With one that it doesn't know no container is made.
	Runtime string
	// Replica distinguishes the containers of several processes of one instance, ^[a-zA-Z0-9_.-]{1,128}$; "" for none.
	Replica string
	// ImageMoved, if not nil, is called by a Create that finds another image behind a name than the Create before.
	ImageMoved func(ctx context.Context, name, from, to string)
}

// Engine is a Docker engine as this instance sees it. It is safe for concurrent use. If the engine doesn't answer, its methods
// return a fault of kind unavailable, "Docker is required but not available".
type Engine struct {
	api     client.APIClient
	network string
	proc    string // where procfs is

	home       string
	homeDirs   []string
	configured string // Config.Instance
	runtime    string
	replica    string
	socket     string // the path of the engine's Unix socket, "" if it has another address
	imageMoved func(ctx context.Context, name, from, to string)

	negotiation chan struct{} // has a token while a call of negotiate is under way
	negotiated  atomic.Bool

	mu       sync.Mutex // guards all of the following; but for findSelf never held over a call of the engine
	outage   outage
	self     *self  // found once, kept
	cpus     int    // of the engine's machine; 0 until it matters
	engineID string // "" until it matters
	images   map[string]string
}

var (
	validInstance = regexp.MustCompile(`\A[a-z0-9][a-z0-9_-]{0,62}\z`)
	validHome     = regexp.MustCompile(`\A[0-9a-f]{32}\z`)
	validName     = regexp.MustCompile(`\A[a-zA-Z0-9_.-]{1,128}\z`)
	validEnv      = regexp.MustCompile(`\A[a-zA-Z_][a-zA-Z0-9_]*\z`)
)

// Connect makes an Engine. It fails for a wrong Config only. That the engine is absent is said by Status and by each call, since it may
// come later.
func Connect(_ context.Context, cfg Config) (*Engine, error) {
	if cfg.Instance != "" && !validInstance.MatchString(cfg.Instance) {
		return nil, fmt.Errorf("connect to Docker: instance %q is not %s", cfg.Instance, validInstance)
	}
	if cfg.Home != "" && !validHome.MatchString(cfg.Home) {
		return nil, fmt.Errorf("connect to Docker: home %q is not %s", cfg.Home, validHome)
	}
	for what, name := range map[string]string{"runtime": cfg.Runtime, "replica": cfg.Replica} {
		if name != "" && !validName.MatchString(name) {
			return nil, fmt.Errorf("connect to Docker: %s %q is not %s", what, name, validName)
		}
	}
	switch network := cfg.BuilderNetwork; {
	case network == "":
		cfg.BuilderNetwork = "bridge"
	case network == "host" || !validName.MatchString(network): // the latter catches container:<id>
		return nil, fmt.Errorf("connect to Docker: network %q is none that a builder may join", network)
	}
	host := client.WithHostFromEnv()
	if cfg.Host != "" {
		host = client.WithHost(cfg.Host)
	}
	// The client's own spans have container ids in their names. Create and Start have spans of their own.
	api, err := client.NewClientWithOpts(host, client.WithAPIVersionNegotiation(), client.WithTraceProvider(noop.NewTracerProvider()))
	if err != nil {
		return nil, fmt.Errorf("connect to Docker: %w", err)
	}
	socket, _ := strings.CutPrefix(api.DaemonHost(), "unix://")
	if !path.IsAbs(socket) {
		socket = ""
	}
	return &Engine{api: api, network: cfg.BuilderNetwork, proc: "/proc", home: cfg.Home, homeDirs: cfg.HomeDirs, configured: cfg.Instance, runtime: cfg.Runtime,
		replica: cfg.Replica, socket: socket, imageMoved: cfg.ImageMoved, images: make(map[string]string), negotiation: make(chan struct{}, 1)}, nil
}

// Close drops idle connections.
func (e *Engine) Close() error { return e.api.Close() }

// negotiate agrees with the engine on a version of the API before anything else is asked. Race: left to itself, the client negotiates in the
// middle of its first call and writes the version, while other calls read it without a lock.
func (e *Engine) negotiate(ctx context.Context) error {
	if e.negotiated.Load() {
		return nil
	}
	select {
	case e.negotiation <- struct{}{}:
		defer func() { <-e.negotiation }()
	case <-ctx.Done():
		return fmt.Errorf("ask the engine for its version: %w", ctx.Err())
	}
	if e.negotiated.Load() {
		return nil
	}
	ctx, cancel := bounded(ctx, answerWait)
	defer cancel()
	ping, err := e.api.Ping(ctx)
	if err != nil {
		return clientError(ctx, "ask the engine for its version", err)
	}
	e.api.NegotiateAPIVersionPing(ping)
	e.negotiated.Store(true)
	return nil
}

// Image returns the id ("sha256:…") of an image that the engine has. One that it hasn't is a fault of kind unavailable.
func (e *Engine) Image(ctx context.Context, name string) (id string, err error) {
	found, err := e.inspectImage(ctx, name)
	return found.id, err
}

// localImage is an image that the engine has.
type localImage struct {
	id     string
	labels map[string]string
}

func (e *Engine) inspectImage(ctx context.Context, name string) (localImage, error) {
	if err := e.negotiate(ctx); err != nil {
		return localImage{}, err
	}
	ctx, cancel := bounded(ctx, answerWait)
	defer cancel()
	image, err := e.api.ImageInspect(ctx, name)
	if cerrdefs.IsNotFound(err) {
		return localImage{}, fault.Unavailable("Image %s is missing; build it with: docker compose build", name).With("image_missing").Because(err)
	}
	if err != nil {
		return localImage{}, clientError(ctx, "inspect image "+name, err)
	}
	found := localImage{id: image.ID}
	if image.Config != nil {
		found.labels = image.Config.Labels
	}
	return found, nil
}

// resolveImage is inspectImage for a container that is about to be made. It notices if the name stands for another image than last time.
// The attack: someone who can replace the image that all packs run in can read and change everything that they do.
func (e *Engine) resolveImage(ctx context.Context, name string) (localImage, error) {
	found, err := e.inspectImage(ctx, name)
	if err != nil {
		return localImage{}, err
	}
	e.mu.Lock()
	before := e.images[name]
	e.images[name] = found.id
	e.mu.Unlock()
	if before != "" && before != found.id && e.imageMoved != nil {
		e.imageMoved(ctx, name, before, found.id)
	}
	return found, nil
}

// ID returns the engine's own id. The engine keeps it over restarts, so another id is another engine.
func (e *Engine) ID(ctx context.Context) (string, error) {
	e.mu.Lock()
	id := e.engineID
	e.mu.Unlock()
	if id != "" {
		return id, nil
	}
	if err := e.negotiate(ctx); err != nil {
		return "", err
	}
	info, err := e.info(ctx)
	if err != nil {
		return "", err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.engineID = info.ID
	return info.ID, nil
}

func (e *Engine) info(ctx context.Context) (system.Info, error) {
	ctx, cancel := bounded(ctx, answerWait)
	defer cancel()
	info, err := e.api.Info(ctx)
	if err != nil {
		return system.Info{}, clientError(ctx, "ask the engine what it is", err)
	}
	return info, nil
}

// Instance returns the instance of this process: Config.Instance, or the compose project of the container that it runs in.
func (e *Engine) Instance(ctx context.Context) (string, error) {
	if err := e.negotiate(ctx); err != nil { // here, since most methods begin with Instance
		return "", err
	}
	if e.configured != "" {
		return e.configured, nil
	}
	me, err := e.findSelf(ctx)
	if err != nil {
		return "", err
	}
	return me.instance, nil
}

// HostPath returns where the engine's host has what this process sees at an absolute path. Outside a container that is the path itself,
// inside one the source of the mount that it lies in. A path in no mount of this container is an error.
func (e *Engine) HostPath(ctx context.Context, name string) (string, error) {
	me, err := e.findSelf(ctx)
	if err != nil {
		return "", err
	}
	host, _, err := me.hostPath(path.Clean(name))
	return host, err
}

// How long an engine may take for an answer. One that takes longer hangs, and counts as absent.
const (
	answerWait = 7 * time.Second // to answer a question
	changeWait = time.Minute     // to make, start, end or remove a container
)

// errHung is the cause of a context that ended because the engine did not answer in time.
var errHung = errors.New("the engine does not answer")

// bounded is ctx for one call of the engine.
func bounded(ctx context.Context, bound time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, bound, errHung)
}

// clientError wraps an error of the Docker client. If the engine can't be reached or hangs, it becomes a fault of kind unavailable. ctx is
// the one that the client was called with.
func clientError(ctx context.Context, what string, err error) error {
	because := fmt.Errorf("%s: %w", what, err)
	switch {
	case errors.Is(context.Cause(ctx), errHung):
		return fault.Unavailable("Docker is required but not available: %v", errHung).With("docker_unavailable").Because(because)
	case client.IsErrConnectionFailed(err):
		return fault.DockerUnavailable().Because(because)
	}
	return because
}
