package worker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/libs/sandbox"
	"github.com/rumi-ai/rumi/libs/uds"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/handler"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/mount"
)

// removeTimeout bounds the removal of a container. A container that is left is swept later: see TakeRemovalFailed and InUse.
const removeTimeout = 30 * time.Second

// Engine runs containers. *sandbox.Engine implements it for Docker, *unconfined.Engine for permissive mode.
type Engine interface {
	Create(ctx context.Context, spec sandbox.Spec) (sandbox.Container, error)
	Attach(ctx context.Context, id string, stderr io.Writer) (sandbox.Stream, error)
	Start(ctx context.Context, id string) error
	Remove(ctx context.Context, id string) error
}

// Environments provides what is installed for packs from their requirements.lock.
type Environments interface {
	// Use calls fn with the folder of what is installed for a pack and its digest, both "" if nothing is. The folder isn't removed before
	// fn returns; what a container has mounted by then stays there for it.
	Use(ctx context.Context, packID string, fn func(path, digest string) error) error
	// Current is the digest of what is installed for a pack now, "" for nothing.
	Current(ctx context.Context, packID string) (digest string, err error)
}

// sitePackages is where a container has what is installed for its pack. Python searches it last (runtime/python/lib).
const sitePackages = "/site-packages"

// The worker's own call, and when it wants to be replaced: see runtime/PROTOCOL.md.
const (
	statCall      = ":stat"
	mountVariable = "RUMI_MOUNT_" // and a number from 0
)

// environ says from which use of memory and processes on a worker asks to be recycled: three quarters and half of its limits.
func environ(l sandbox.Limits) map[string]string {
	return map[string]string{
		"RUMI_RETIRE_BYTES": strconv.FormatInt(l.Memory/4*3, 10), "RUMI_RETIRE_TASKS": strconv.FormatInt(l.PIDs/2, 10),
	}
}

// Containers launches workers in containers: the handler's copy at /pack, what is installed for its pack at /site-packages, the
// folders that are granted, no socket, no network.
type Containers struct {
	Engine       Engine
	Folders      *handler.Folders
	Environments Environments // nil for none
	Mounts       *mount.Folders
	Ceiling      Ceiling
	Logs         *Logs
	Image        string
	Log          *slog.Logger

	mu     sync.Mutex
	ids    map[string]string // ids of containers that run, start or are being removed, by name; "" while one is being made
	failed bool              // since TakeRemovalFailed was asked
}

// InUse says whether a container with this process's labels is in use. One that isn't was left behind, or somebody copied the labels.
// While a container is being made, only its name is known; from then on its id decides, since the name is in the labels, too, and can be
// copied.
func (c *Containers) InUse(made sandbox.Container) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	id, named := c.ids[made.Name]
	return named && (id == "" || id == made.ID)
}

// setID notes the id of the container that was made under a name.
func (c *Containers) setID(name, id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ids[name] = id
}

// TakeRemovalFailed says whether a container could not be removed since the last call.
func (c *Containers) TakeRemovalFailed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	failed := c.failed
	c.failed = false
	return failed
}

// reserveName chooses the name of a container before it is made. Without the reservation a sweep that runs between the making
// and setID would take the container for one that was left behind.
func (c *Containers) reserveName() string {
	name := strings.ToLower(rand.Text())
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ids == nil {
		c.ids = make(map[string]string)
	}
	c.ids[name] = ""
	return name
}

// release forgets a container. removed is false if it may still be there.
func (c *Containers) release(name string, removed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.ids, name)
	c.failed = c.failed || !removed
}

// readOnlyPermission is the permission whose mounts are read-only, whatever its grant says.
const readOnlyPermission = "fs.read"

// Launch implements Launcher. The handler's copy is verified and locked (Folders.Use) until the container that mounts it has been started,
// so that what was verified is what runs.
func (c *Containers) Launch(ctx context.Context, spec Spec) (Process, error) {
	folders, err := c.Mounts.Find(ctx, spec.Mounts, spec.Trust.PermissionID == readOnlyPermission)
	if err != nil {
		return nil, fmt.Errorf("launch handler: %w: %w", ErrMount, err)
	}
	defer func() {
		for _, f := range folders {
			f.Close()
		}
	}()
	p := &process{owner: c, name: c.reserveName(), capture: newCapture(c.Logs.of(spec.Trust.PackID, spec.Trust.Slug))}
	limits := c.Ceiling.of(spec.Limits)
	container := sandbox.Spec{
		Kind: sandbox.Handler, Name: p.name, PackID: spec.Trust.PackID, Principal: spec.Principal, Digest: spec.Trust.FolderDigest,
		Image: c.Image, Command: []string{"rumi-runtime", "serve"}, Dir: "/pack", Stdin: true, Limits: limits, Env: environ(limits),
	}
	for i, f := range folders {
		container.Mounts = append(container.Mounts, f.Mount)
		container.Env[mountVariable+strconv.Itoa(i)] = f.Target
	}
	err = c.withPackages(ctx, spec.Trust.PackID, func(installed, digest string) error {
		if p.packages = digest; installed != "" {
			container.Packages = digest
			container.Mounts = append(container.Mounts, sandbox.Mount{Source: installed, Target: sitePackages})
		}
		return c.Folders.Use(ctx, *spec.Trust, func(path string) error {
			container.Mounts = append([]sandbox.Mount{{Source: path, Target: "/pack"}}, container.Mounts...)
			return p.start(ctx, container)
		})
	})
	if err == nil && len(folders) > 0 {
		if err = p.verifyMounts(ctx, folders); err != nil {
			err = fmt.Errorf("%w: %w", ErrMount, err)
		}
	}
	if err != nil {
		p.Kill()
		return nil, fmt.Errorf("launch handler: %w", err)
	}
	return p, nil
}

// withPackages calls fn with what is installed for a pack; see Environments.Use.
func (c *Containers) withPackages(ctx context.Context, packID string, fn func(path, digest string) error) error {
	if c.Environments == nil {
		return fn("", "")
	}
	return c.Environments.Use(ctx, packID, fn)
}

// start makes and starts the container. Once it has returned, the sources of its mounts may be removed.
func (p *process) start(ctx context.Context, spec sandbox.Spec) error {
	made, err := p.owner.Engine.Create(ctx, spec)
	if err != nil {
		return err
	}
	p.id = made.ID
	p.owner.setID(p.name, p.id)
	if p.Stream, err = p.owner.Engine.Attach(ctx, made.ID, p.capture); err != nil {
		return err
	}
	return p.owner.Engine.Start(ctx, made.ID)
}

// verifyMounts closes a race between check and use: Mounts.Find has checked and opened the granted folders, but the engine mounts by path, and
// a pack that may write nearby could have put a link or another folder there in between. So the worker, which has loaded nothing of
// the handler's code yet, is asked for the device and inode of what it sees at each target, and these must be those of the
// folders that were checked.
func (p *process) verifyMounts(ctx context.Context, folders []*mount.Found) error {
	stop := context.AfterFunc(ctx, p.Kill)
	defer stop()
	call := wireCall{ID: rand.Text(), Call: statCall, Args: []any{}}
	raw, err := json.Marshal(call)
	if err != nil {
		return fmt.Errorf("compare mounts: %w", err)
	}
	if err := uds.WriteFrame(p, raw); err != nil {
		return fmt.Errorf("compare mounts: %w", err)
	}
	frame, err := uds.ReadFrame(p, maxAnswer)
	if err != nil {
		return fmt.Errorf("compare mounts: %w", err)
	}
	output, _, err := parseAnswer(frame, call.ID)
	if err != nil {
		return fmt.Errorf("compare mounts: %w", err)
	}
	var seen [][2]uint64
	if err := json.Unmarshal(output, &seen); err != nil || len(seen) != len(folders) {
		return errors.New("compare mounts: the worker broke the protocol")
	}
	for i, f := range folders {
		if !f.Is(seen[i][0], seen[i][1]) {
			return fmt.Errorf("compare mounts: the container has another folder at %s than %s, which was replaced meanwhile", f.Target, f.Source)
		}
	}
	return nil
}

// process is a worker's container as a Process.
type process struct {
	sandbox.Stream
	owner   *Containers
	name    string
	id      string // "" if none could be made
	capture *capture
	once    sync.Once

	packages string // the digest of what is installed for its pack; "" for nothing
}

// Packages implements Packaged.
func (p *process) Packages() string { return p.packages }

// Announce implements Announcer.
func (p *process) Announce(call, request string) { p.capture.announce(call, request) }

// Note implements Announcer.
func (p *process) Note(request, text string) { p.capture.note(request, text) }

// Kill implements Process.
func (p *process) Kill() {
	p.once.Do(func() {
		defer p.capture.Close()
		if p.Stream != nil {
			_ = p.Stream.Close() // never fails
		}
		if p.id == "" {
			p.owner.release(p.name, false) // the engine may have made it though its answer was lost
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), removeTimeout)
		defer cancel()
		err := p.owner.Engine.Remove(ctx, p.id)
		if errors.Is(err, sandbox.ErrNotFound) {
			err = nil
		}
		if err != nil {
			p.owner.Log.Error("removing a handler's container failed; trying again", "container_id", p.id, "error", err)
		}
		p.owner.release(p.name, err == nil)
	})
}
