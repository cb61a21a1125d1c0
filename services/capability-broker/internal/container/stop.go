package container

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/sandbox"
)

const (
	stopGrace          = 5 * time.Second // between SIGTERM and SIGKILL, for an operator's stop
	shutdownGrace      = 3 * time.Second // the same, if the whole suite stops; compose kills the broker after 20 s
	maxConcurrentStops = 16              // containers that StopAll stops side by side
)

// actor is the actor of a change, for the audit log.
func actor(ctx context.Context) string { return origin.Of(ctx).Actor }

// stopContainer stops the container that a record names; the pack's lock is held. The container stays, with its log, until it is
// deleted or replaced. With resume it is started again as soon as it may be. Without grace it is killed at once.
func (m *Manager) stopContainer(ctx context.Context, r Record, grace time.Duration, reason string, resume bool) error {
	// The record first: a broker that dies between the two steps must not start the container again. If the record can't be
	// written, the container is stopped all the same, since its gate may be closed.
	r.Wanted, r.RestartAt = resume, time.Time{}
	recordErr := m.records.put(ctx, r)
	if err := m.Engine.Stop(ctx, r.ContainerID, grace); err != nil {
		return errors.Join(err, recordErr)
	}
	m.metrics.ends[endStopped].Inc()
	r.Running, r.FinishedAt, r.Reason = false, now(), reason
	if list, err := m.Engine.Find(ctx, sandbox.Pack, r.PackID); err == nil {
		for _, c := range list {
			if c.ID == r.ContainerID && !c.Finished.IsZero() {
				r.FinishedAt, r.Exit = c.Finished, &c.Exit
			}
		}
	}
	if resume {
		r.RestartAt = now()
	}
	return errors.Join(m.records.put(ctx, r), m.audit(ctx, "container_stopped", r.PackID, r.ContainerID, map[string]any{"reason": reason}))
}

// Stop ends a pack's container, or its wait for a restart, for an operator, and says whether one was running. A pack that is unknown
// and has no container is a fault: not found.
func (m *Manager) Stop(ctx context.Context, packID string) (stopped bool, err error) {
	if _, err := pack.ParseID(packID); err != nil {
		return false, err
	}
	release, err := m.lockPack(ctx, packID)
	if err != nil {
		return false, fmt.Errorf("stop %s: %w", packID, err)
	}
	defer release()
	found, err := m.observeKnown(ctx, packID)
	if err != nil {
		return false, err
	}
	if err := errors.Join(m.removeStrays(ctx, nil, found.strays), m.stopOwn(ctx, packID, found)); err != nil {
		return false, fmt.Errorf("stop %s: %w", packID, err)
	}
	return found.alive(), nil
}

// stopOwn is Stop for the pack's own container.
func (m *Manager) stopOwn(ctx context.Context, packID string, found observed) error {
	c, r := found.own, found.record
	if c == nil {
		return m.cancelRestarts(ctx, packID)
	}
	r.ContainerID, r.Digest = c.ID, c.Digest
	switch {
	case c.Alive(): // also if the record can't be read
		return m.stopContainer(ctx, r, stopGrace, "stopped by "+actor(ctx), false)
	case found.recordErr != nil:
		return found.recordErr
	case r.Wanted:
		r.Wanted, r.RestartAt = false, time.Time{}
		return m.records.put(ctx, r)
	}
	return nil
}

// Delete removes a pack's container with its log for an operator. It says whether there was one, and whether it was alive.
func (m *Manager) Delete(ctx context.Context, packID string) (removed, running bool, err error) {
	if _, err := pack.ParseID(packID); err != nil {
		return false, false, err
	}
	release, err := m.lockPack(ctx, packID)
	if err != nil {
		return false, false, fmt.Errorf("delete container of %s: %w", packID, err)
	}
	defer release()
	found, err := m.observeKnown(ctx, packID)
	if err != nil {
		return false, false, err
	}
	if err := m.deleteAll(ctx, packID, found); err != nil {
		return false, false, fmt.Errorf("delete container of %s: %w", packID, err)
	}
	return found.any(), found.alive(), nil
}

// deleteAll removes all containers of a pack, or ends its wait for a restart if it has none.
func (m *Manager) deleteAll(ctx context.Context, packID string, found observed) error {
	err := m.removeStrays(ctx, nil, found.strays)
	if found.own == nil {
		return errors.Join(err, m.cancelRestarts(ctx, packID))
	}
	return errors.Join(err, m.deleteContainer(ctx, packID, found.own.ID))
}

// deleteContainer removes a container. Its record goes first: without a record nothing is started again.
func (m *Manager) deleteContainer(ctx context.Context, packID, id string) error {
	recordErr := m.records.remove(ctx, packID)
	if err := m.Engine.Remove(ctx, id); err != nil {
		return errors.Join(err, recordErr)
	}
	return errors.Join(recordErr, m.audit(ctx, "container_deleted", packID, id, map[string]any{"actor": actor(ctx)}))
}

// cancelRestarts ends the wait for a restart of a pack that has no container: its last restart removed the container and could
// make no other.
func (m *Manager) cancelRestarts(ctx context.Context, packID string) error {
	if err := m.records.remove(ctx, packID); err != nil {
		return fmt.Errorf("end restarts of %s: %w", packID, err)
	}
	return nil
}

// checkKnown is a fault (not found) for a pack that has no container and isn't known to approval either.
func (m *Manager) checkKnown(ctx context.Context, packID string, found observed) error {
	if found.any() {
		return nil
	}
	return gate.MustKnow(ctx, m.Gates, packID)
}

// Removed says which things of a pack Remove found, and removed.
type Removed struct {
	Container bool   // there was a container
	Running   bool   // it was alive
	Data      string // where its data was archived, relative to the Rumi home; "" if it had none
}

// Remove removes the containers of a pack that is uninstalled and what it printed, and archives its data. It can be called
// again after a failure.
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
	return done, errors.Join(err, m.runs.Remove(packID))
}

// DisableRestarts has nothing started again by itself from now on, since this process stops. It says whether any container runs.
func (m *Manager) DisableRestarts() (running bool) {
	m.restartsDisabled.Store(true)
	return slices.ContainsFunc(m.records.all(), func(r Record) bool { return r.Running })
}

// StopAll stops all packs' containers, for a reason that isn't the packs'. The next broker starts them again. One that can't be
// stopped is in the error; the others are stopped all the same.
func (m *Manager) StopAll(ctx context.Context, reason string) error {
	var stopping sync.WaitGroup
	var failures []error
	var mu sync.Mutex // guards failures
	slots := make(chan struct{}, maxConcurrentStops)
	for _, r := range m.records.all() {
		if !r.Running {
			continue
		}
		slots <- struct{}{}
		stopping.Go(func() {
			defer func() { <-slots }()
			if err := m.suspend(ctx, r.PackID, reason); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failures = append(failures, fmt.Errorf("stop %s: %w", r.PackID, err))
			}
		})
	}
	stopping.Wait()
	return errors.Join(failures...)
}

// suspend stops one pack's container, to be started again if it was wanted.
func (m *Manager) suspend(ctx context.Context, packID, reason string) error {
	release, err := m.lockPack(ctx, packID)
	if err != nil {
		return err
	}
	defer release()
	found, err := m.observe(ctx, packID)
	if err != nil || found.own == nil || !found.own.Alive() {
		return err
	}
	return m.stopContainer(ctx, found.record, shutdownGrace, reason, found.record.Wanted)
}
