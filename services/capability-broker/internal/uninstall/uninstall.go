// Package uninstall takes from the broker everything that it has of a pack: socket, workers, grants, trusted handlers, logs, container
// and data. pack-registry asks for it, after approval has retired the pack.
package uninstall

import (
	"context"
	"errors"

	api "github.com/rumi-ai/rumi/api/broker"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/container"
)

// Sockets are the capability sockets; *packsockets.Sockets is them.
type Sockets interface {
	Remove(packID string)
}

// Workers are the running handlers; *worker.Pool is them.
type Workers interface {
	// EndPack ends the workers of a pack's handlers, and those of other packs' handlers for it. Calls under way fail.
	EndPack(packID string)
}

// Gates are approval's decisions about packs; *gate.View is them.
type Gates interface {
	// CatchUp waits until this process knows what approval has decided about a pack before the call. An error means that it may not.
	CatchUp(ctx context.Context, packID string) error
}

// Grants are the capability grants; *grant.Cache is them.
type Grants interface {
	// RemovePrincipal deletes every grant of a pack and returns their number.
	RemovePrincipal(ctx context.Context, packID string) (int, error)
}

// Handlers are the trusted handlers; *handler.Service is them.
type Handlers interface {
	// RemovePack removes trust, copies and candidates of a pack, and says whether anything was trusted.
	RemovePack(ctx context.Context, packID string) (bool, error)
}

// Logs has the output of handlers. *worker.Logs implements it.
type Logs interface {
	RemovePack(packID string) error
}

// Containers are the packs' containers and data; *container.Manager is them.
type Containers interface {
	// Remove removes a pack's container, and puts its data aside.
	Remove(ctx context.Context, packID string) (container.Removed, error)
	// RestoreData brings back the data that was put aside last, and returns where that was; "" for nothing.
	RestoreData(ctx context.Context, packID string) (from string, err error)
}

// Service implements httpapi.Remover. All fields must be set.
type Service struct {
	Sockets    Sockets
	Workers    Workers
	Gates      Gates
	Grants     Grants
	Handlers   Handlers
	Logs       Logs
	Containers Containers
}

// Remove removes everything of a pack. Each step is taken whatever became of the steps before it, and each can be repeated: after an
// error, Remove is called again. The result says what this call has removed.
//
// The order matters. The socket and the workers go first, so that the pack can do nothing meanwhile. Then CatchUp makes sure that this
// process knows that the pack is retired: from there on no grant is made to it. Without that, an operator's grant that is under way could
// be stored after RemovePrincipal, and the next pack that is installed under the same name would have it.
func (s *Service) Remove(ctx context.Context, packID string) (api.Removal, error) {
	var done api.Removal
	s.Sockets.Remove(packID)
	s.Workers.EndPack(packID)
	behind := s.Gates.CatchUp(ctx, packID)
	grants, grantsErr := s.Grants.RemovePrincipal(ctx, packID)
	trusted, trustErr := s.Handlers.RemovePack(ctx, packID)
	done.GrantsRemoved = grants > 0 || trusted
	logsErr := s.Logs.RemovePack(packID)
	removed, containerErr := s.Containers.Remove(ctx, packID)
	done.ContainerRemoved, done.ContainerStopped, done.DataPath = removed.Container, removed.Running, removed.Data
	return done, errors.Join(grantsErr, trustErr, logsErr, containerErr, behind)
}

// RestoreData gives a pack the data back that the last Remove has put aside. The path is "" where there was none.
func (s *Service) RestoreData(ctx context.Context, packID string) (api.RestoredData, error) {
	from, err := s.Containers.RestoreData(ctx, packID)
	return api.RestoredData{Path: from}, err
}
