// Package engine opens what runs packs and handlers: Docker, or in permissive mode processes that nothing confines.
package engine

import (
	"context"
	"log/slog"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/sandbox"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/container"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/orphan"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/unconfined"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/worker"
)

// Audit is where decisions and what bears on security are written; *audit.Log is one.
type Audit interface {
	Write(ctx context.Context, e audit.Entry) error
}

// Engine has the methods of a container engine that the packages container, worker, orphan and mount use.
type Engine interface {
	container.Engine
	worker.Engine
	orphan.Engine
	// HostPath is the path on the host of a path in this process: it is the host that mounts folders into containers.
	HostPath(ctx context.Context, path string) (string, error)
	// Watch keeps what is known of the engine up to date, until ctx ends.
	Watch(ctx context.Context) error
	// Ready is nil where the engine can be used.
	Ready(ctx context.Context) error
	Close() error
}

// Config has the parts that Open uses.
type Config struct {
	Permissive bool   // processes instead of Docker
	RuntimeDir string // holds the runtime's lib/ and worker/; for permissive mode

	DockerSocket string   // path
	Instance     string   // keeps suites on one Docker apart; "" for the compose project
	Runtime      string   // of every container, by the name Docker knows it; "" for Docker's own
	Home         string   // the Rumi home
	HomeDirs     []string // folders of which containers may get parts, as this process sees them

	Node         string                    // of this host: see replica.Node
	Replica      string                    // of this process
	ReplicaAlive func(replica string) bool // says whether another one runs

	Audit Audit
	Log   *slog.Logger
}

// Open connects to Docker, or prepares the processes of permissive mode. A Docker that can't be reached is no error: Ready says so, and
// Watch connects once it can be.
func Open(ctx context.Context, cfg Config) (Engine, error) {
	if cfg.Permissive {
		processes, err := unconfined.Open(ctx, unconfined.Config{
			RuntimeDir: cfg.RuntimeDir, DockerSocket: cfg.DockerSocket, Node: cfg.Node, Replica: cfg.Replica, Alive: cfg.ReplicaAlive,
			Audit: cfg.Audit, Log: cfg.Log,
		})
		if err != nil {
			return nil, err
		}
		return permissive{processes}, nil
	}
	docker, err := sandbox.Connect(ctx, sandbox.Config{
		Host: "unix://" + cfg.DockerSocket, Instance: cfg.Instance, Runtime: cfg.Runtime, Replica: cfg.Replica, ImageMoved: cfg.imageMoved,
		Home: cfg.Home, HomeDirs: cfg.HomeDirs,
	})
	if err != nil {
		return nil, err
	}
	return docker, nil
}

// permissive is an engine of processes of this host, which are always there.
type permissive struct{ *unconfined.Engine }

// HostPath implements Engine: processes see what this process sees.
func (permissive) HostPath(_ context.Context, path string) (string, error) { return path, nil }

// Watch implements Engine.
func (permissive) Watch(ctx context.Context) error { <-ctx.Done(); return nil }

// Ready implements Engine.
func (permissive) Ready(context.Context) error { return nil }

// imageMoved is called when the image that packs and handlers run in is another one than before, under the same name. That may be an update,
// or somebody who has replaced what confines packs; the operator must be able to find out when it was.
func (cfg Config) imageMoved(ctx context.Context, name, from, to string) {
	err := cfg.Audit.Write(ctx, audit.Entry{Category: audit.Security, Severity: audit.Warning, Action: "image_moved", Success: true,
		Details: map[string]any{"image": name, "from": from, "to": to}})
	if err != nil {
		cfg.Log.ErrorContext(ctx, "another image behind an image's name could not be entered in the audit log", "image", name, "error", err)
	}
	cfg.Log.WarnContext(ctx, "an image's name leads to another image than before", "image", name, "from", from, "to", to)
}
