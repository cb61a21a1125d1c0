package container

import (
	"context"
	"time"

	"github.com/rumi-ai/rumi/libs/flock"
	"github.com/rumi-ai/rumi/libs/sandbox"
)

// sweepInterval is the time between two removals of unused copies.
const sweepInterval = time.Hour

// sweep removes copies of trees that no gate names and no container runs, copies of dependencies that no container of a pack or
// handler has, and records of packs that don't exist any more. It returns false if it could not: while a container is being made, here or by
// another replica, copies are in use of which the engine knows nothing yet (see TreesLock). Making one may take minutes, and
// nothing waits for this.
func (m *Manager) sweep(ctx context.Context) bool {
	alone := flock.New(TreesLock(m.LockDir))
	if err := alone.Try(); err != nil {
		return false
	}
	defer alone.Close()
	list, err := m.Engine.List(ctx, sandbox.Pack)
	if err != nil {
		return false // what is mounted isn't known
	}
	handlers, err := m.Engine.List(ctx, sandbox.Handler)
	if err != nil {
		return false
	}
	trees, packages, hasContainer := make(map[string]bool), make(map[string]bool), make(map[string]bool)
	for _, c := range list {
		trees[c.Digest], packages[c.Packages], hasContainer[c.PackID] = true, true, true
	}
	for _, c := range handlers {
		packages[c.Packages] = true
	}
	for _, state := range m.Gates.All() {
		trees[state.Digest] = true
	}
	if err := m.Trees.Sweep(func(digest string) bool { return trees[digest] }); err != nil {
		m.Log.ErrorContext(ctx, "could not remove unused copies of trees", "error", err)
	}
	if err := m.Environments.Sweep(func(digest string) bool { return packages[digest] }); err != nil {
		m.Log.ErrorContext(ctx, "could not remove unused copies of dependencies", "error", err)
	}
	m.sweepRecords(ctx, hasContainer)
	return true
}

// sweepRecords removes the records of packs that approval doesn't know and that have no container.
func (m *Manager) sweepRecords(ctx context.Context, hasContainer map[string]bool) {
	for _, r := range m.records.all() {
		if _, known := m.Gates.Get(r.PackID); known || hasContainer[r.PackID] || !m.Gates.Fresh() {
			continue
		}
		if err := m.records.remove(ctx, r.PackID); err != nil {
			m.Log.ErrorContext(ctx, "the record of an uninstalled pack's container could not be removed", "pack_id", r.PackID, "error", err)
		}
	}
}
