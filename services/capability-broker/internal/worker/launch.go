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

// removeTimeout bounds the removal of a container; what is left is swept at the next start of the broker.
const removeTimeout = 30 * time.Second

// Engine is what runs containers; *sandbox.Engine is one.
type Engine interface {
	Create(ctx context.Context, spec sandbox.Spec) (sandbox.Container, error)
	Attach(ctx context.Context, id string, stderr io.Writer) (*sandbox.Stream, error)
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
}

// Launch implements Launcher. The copy stays what it was proved to be until the start has mounted it.
func (c *Containers) Launch(ctx context.Context, t *handler.Trust, principal string) (Process, error) {
	p := &process{engine: c.Engine, log: c.Log}
	err := c.Folders.Use(ctx, *t, func(path string) error {
		made, err := c.Engine.Create(ctx, sandbox.Spec{
			Kind: sandbox.Handler, Name: strings.ToLower(rand.Text()), PackID: t.PackID, Principal: principal, Digest: t.FolderDigest,
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
		if p.id != "" {
			p.Kill()
		}
		return nil, fmt.Errorf("launch handler: %w", err)
	}
	return p, nil
}

// process is a worker's container.
type process struct {
	*sandbox.Stream
	engine Engine
	log    *slog.Logger
	id     string
	once   sync.Once
}

// Kill implements Process.
func (p *process) Kill() {
	p.once.Do(func() {
		if p.Stream != nil {
			_ = p.Stream.Close() // never fails
		}
		ctx, cancel := context.WithTimeout(context.Background(), removeTimeout)
		defer cancel()
		if err := p.engine.Remove(ctx, p.id); err != nil && !errors.Is(err, sandbox.ErrNotFound) {
			p.log.Error("removing a handler's container failed", "container_id", p.id, "error", err)
		}
	})
}
