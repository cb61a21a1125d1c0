package worker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/rumi-ai/rumi/libs/sandbox"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/handler"
)

// removeTimeout bounds the removal of a container; what is left is for who asks Failed and Owns to sweep.
const removeTimeout = 30 * time.Second

// Engine is what runs containers; *sandbox.Engine is one, and *unconfined.Engine stands in for it.
type Engine interface {
	Create(ctx context.Context, spec sandbox.Spec) (sandbox.Container, error)
	Attach(ctx context.Context, id string, stderr io.Writer) (sandbox.Stream, error)
	Start(ctx context.Context, id string) error
	Remove(ctx context.Context, id string) error
}

// Containers launches workers in containers: the handler's copy at /pack, no other mount, no socket, no network.
type Containers struct {
	Engine  Engine
	Folders *handler.Folders
	Logs    *Logs
	Image   string
	Log     *slog.Logger

	mu     sync.Mutex
	named  map[string]bool // containers that run, start or are being removed, by name
	failed bool            // since Failed was asked
}

// Owns says whether a handler's container of this process is one that is in use. Another was left behind.
func (c *Containers) Owns(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.named[name]
}

// Failed says whether a container could not be removed since it was asked last.
func (c *Containers) Failed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	failed := c.failed
	c.failed = false
	return failed
}

// name gives a name to a container before it is there, so that nobody takes it for one that was left behind.
func (c *Containers) name() string {
	name := strings.ToLower(rand.Text())
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.named == nil {
		c.named = make(map[string]bool)
	}
	c.named[name] = true
	return name
}

func (c *Containers) disown(name string, removed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.named, name)
	c.failed = c.failed || !removed
}

// Launch implements Launcher. The copy stays what it was proved to be until the start has mounted it.
func (c *Containers) Launch(ctx context.Context, t *handler.Trust, principal string) (Process, error) {
	p := &process{owner: c, name: c.name()}
	err := c.Folders.Use(ctx, *t, func(path string) error {
		made, err := c.Engine.Create(ctx, sandbox.Spec{
			Kind: sandbox.Handler, Name: p.name, PackID: t.PackID, Principal: principal, Digest: t.FolderDigest,
			Image: c.Image, Command: []string{"rumi-runtime", "serve"}, Dir: "/pack", Stdin: true,
			Mounts: []sandbox.Mount{{Source: path, Target: "/pack"}},
		})
		if err != nil {
			return err
		}
		p.id = made.ID
		if p.Stream, err = c.Engine.Attach(ctx, made.ID, c.Logs.For(t.PackID, t.Slug)); err != nil {
			return err
		}
		return c.Engine.Start(ctx, made.ID)
	})
	if err != nil {
		p.Kill()
		return nil, fmt.Errorf("launch handler: %w", err)
	}
	return p, nil
}

// process is a worker's container.
type process struct {
	sandbox.Stream
	owner *Containers
	name  string
	id    string // "" where none could be made
	once  sync.Once
}

// Kill implements Process.
func (p *process) Kill() {
	p.once.Do(func() {
		if p.Stream != nil {
			_ = p.Stream.Close() // never fails
		}
		if p.id == "" {
			p.owner.disown(p.name, false) // it may have been made by an engine that could not say so any more
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
		p.owner.disown(p.name, err == nil)
	})
}
