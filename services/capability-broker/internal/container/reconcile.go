package container

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/sandbox"
)

// now is the time as records have it.
func now() time.Time { return time.Now().UTC() }

// queued is a pack that is being looked at, or whose last look failed.
type queued struct {
	running, again bool
	failed         string // the last error, so that it is logged once
}

// enqueue has a pack looked at, soon and once for however many kicks come meanwhile. It returns at once.
func (m *Manager) enqueue(packID string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := m.queue[packID]
	if k == nil {
		k = &queued{}
		m.queue[packID] = k
	}
	k.again = true
	if k.running || m.background.Err() != nil {
		return
	}
	k.running = true
	m.tasks.Go(func() {
		for {
			m.mu.Lock()
			if !k.again || m.background.Err() != nil {
				k.running = false
				if k.failed == "" {
					delete(m.queue, packID)
				}
				m.mu.Unlock()
				return
			}
			k.again = false
			m.mu.Unlock()
			ctx, cancel := context.WithTimeout(m.background, reconcileTimeout)
			err := m.reconcile(ctx, packID)
			cancel()
			text := ""
			if err != nil && m.background.Err() == nil {
				text = err.Error()
			}
			m.mu.Lock()
			news := text != k.failed
			k.failed = text
			m.mu.Unlock()
			if news && text != "" {
				m.Log.Error("looking after a container failed; trying again", "pack_id", packID, "error", err)
			}
		}
	})
}

// stopReason says why a container of that digest must not run, "" where it may. Where approval is silent it may for a while.
func (m *Manager) stopReason(packID, digest string) (reason string, temporary bool) {
	state, known := m.Gates.Get(packID)
	m.mu.Lock()
	silent := time.Since(m.lastFresh)
	m.mu.Unlock()
	switch {
	case !m.Gates.Fresh():
		if silent < leaseGrace {
			return "", false
		}
		return "gate closed: approval does not answer", true
	case !known:
		return reasonUninstalled, false
	case !state.Open:
		return "gate closed: the pack is " + string(state.Status), false
	case state.Digest != digest:
		return "another version was approved", false
	}
	return "", false
}

const reasonUninstalled = "gate closed: the pack is uninstalled"

// reconcile compares a pack's container with what should be, and does what is to be done.
func (m *Manager) reconcile(ctx context.Context, packID string) error {
	release, err := m.lockPack(ctx, packID)
	if err != nil {
		return err
	}
	defer release()
	found, err := m.observe(ctx, packID)
	if err != nil {
		return err
	}
	r, recordErr := found.record, found.recordErr
	straysErr := m.removeStrays(ctx, &r, found.strays)
	c, there := sandbox.Container{}, found.own != nil
	if there {
		c = *found.own
	}
	return errors.Join(straysErr, m.reconcileOwn(ctx, r, recordErr, c, there))
}

// reconcileOwn does what is to be done about the container c, where there is one.
func (m *Manager) reconcileOwn(ctx context.Context, r Record, recordErr error, c sandbox.Container, there bool) (err error) {
	packID := r.PackID
	if there && c.Alive() {
		m.markAlive(c.ID)
		// At once: whoever closed a gate does not wait for the pack to agree.
		switch reason, temporary := m.stopReason(packID, c.Digest); {
		case reason == reasonUninstalled: // nobody will ever ask for its log
			return errors.Join(recordErr, m.deleteContainer(ctx, packID, c.ID))
		case reason != "":
			return errors.Join(recordErr, m.stopContainer(ctx, r, 0, reason, temporary && r.Wanted))
		}
	}
	if recordErr != nil {
		return recordErr
	}
	switch {
	case there && c.Alive():
		return m.adopt(ctx, r, c)
	case r.Running:
		err = m.handleExit(ctx, &r, c, there)
	case r.Exit != nil && !r.Exit.OOMKilled && m.killedForMemory(r.ContainerID, *r.Exit):
		exit := *r.Exit
		exit.OOMKilled, r.Reason = true, reasonOutOfMemory
		r.Exit = &exit
		err = m.putRecord(ctx, r)
	case there && r.Wanted && r.RestartAt.IsZero() && m.endedInOutage(r.ContainerID): // its end was told before the engine's was
		r.RestartAt, r.Reason = now(), reasonWithEngine
		err = m.putRecord(ctx, r)
	}
	if err != nil || !r.due(time.Now()) {
		return err
	}
	return m.restart(ctx, r, c, there)
}

// adopt takes note of a container that runs and may.
func (m *Manager) adopt(ctx context.Context, r Record, c sandbox.Container) error {
	if r.Running && r.Wanted && r.StartedAt.Equal(c.Started) && r.RestartAt.IsZero() {
		m.mu.Lock()
		_, known := m.records[r.PackID]
		m.mu.Unlock()
		if known {
			return nil
		}
	}
	if !r.Running {
		m.Log.InfoContext(ctx, "found a running container", "pack_id", r.PackID, "container_id", c.ID)
	}
	r.Running, r.Wanted, r.RestartAt, r.StartedAt = true, true, time.Time{}, c.Started
	return m.putRecord(ctx, r)
}

const reasonOutOfMemory = "out of memory"

// killedForMemory says whether the kernel ended a container for its memory, as far as the engine has told.
func (m *Manager) killedForMemory(id string, exit sandbox.Exit) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.oomSeen[id] && exit.Code == 128+int(unix.SIGKILL)
}

// reasonWithEngine is the reason of an end that was not the pack's own doing.
const reasonWithEngine = "ended with the container engine"

// lifetime is what this process has seen of a container. Its times are compared with each other and with those of the outage
// only: all are this process's own and monotonic, so that it doesn't matter to what the host's clock was set meanwhile.
type lifetime struct {
	alive time.Time // last seen alive
	died  time.Time // the engine told its end, or it was found ended; zero for neither
}

// endedInOutage says whether a container ended while the engine was away, or stopping containers in order to go. The order in which
// the engine told things says so, not the time that the engine wrote beside the end: a container was alive before the outage
// and wasn't after, and its end was told either not at all or shortly before the engine went.
func (m *Manager) endedInOutage(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, seen := m.lifetimes[id]
	switch {
	case !seen, m.outage.from.IsZero(), m.outage.to.IsZero():
		return false
	case !s.died.IsZero():
		return s.died.After(m.outage.from) && !s.died.After(m.outage.to)
	}
	return s.alive.Before(m.outage.to)
}

// markAlive notes that this process sees a container alive.
func (m *Manager) markAlive(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lifetimes[id] = lifetime{alive: time.Now()}
}

// markEnded notes that a container has ended, where that isn't noted yet. Of one that this process never saw alive there is
// nothing to note.
func (m *Manager) markEnded(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s, seen := m.lifetimes[id]; seen && s.died.IsZero() {
		s.died = time.Now()
		m.lifetimes[id] = s
	}
}

// endedWithEngine says whether a container ended because its engine or host did. Where nobody was watching, an end by a signal
// counts as that, since packs end by an exit.
func (m *Manager) endedWithEngine(c sandbox.Container) bool {
	if m.endedInOutage(c.ID) {
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	_, seen := m.lifetimes[c.ID]
	return !seen && c.Exit.Code >= 128 && !c.Exit.OOMKilled
}

const (
	reasonMoved       = "moved to another container engine"
	reasonInterrupted = "its start was interrupted"
)

// handleMissing takes note of a container that the engine doesn't have any more. One of another engine, which was brought here with
// the home, is due to be made anew; any other was removed with Docker's own tools.
func (m *Manager) handleMissing(ctx context.Context, r *Record) error {
	id, err := m.Engine.ID(ctx)
	if err != nil {
		return fmt.Errorf("look for the container of %s: %w", r.PackID, err)
	}
	if r.EngineID != "" && r.EngineID != id {
		r.Running, r.Reason, r.RestartAt = false, reasonMoved, now()
		return errors.Join(m.audit(ctx, "container_stopped", r.PackID, r.ContainerID, map[string]any{"reason": reasonMoved}), m.putRecord(ctx, *r))
	}
	r.Wanted = false
	return errors.Join(m.audit(ctx, "container_stopped", r.PackID, r.ContainerID, map[string]any{"reason": "removed from outside"}),
		m.removeRecord(ctx, r.PackID))
}

// handleExit takes note of a container that ran when it was last looked at and that nobody here has stopped.
func (m *Manager) handleExit(ctx context.Context, r *Record, c sandbox.Container, there bool) error {
	if !there {
		return m.handleMissing(ctx, r)
	}
	r.Running = false
	if c.Started.Equal(r.PreviousStart) { // by the engine's own word: it has not been started since
		r.RestartAt, r.Reason = now(), reasonInterrupted
		return m.putRecord(ctx, *r)
	}
	exit := c.Exit
	r.StartedAt = c.Started
	exit.OOMKilled = exit.OOMKilled || m.killedForMemory(c.ID, exit)
	r.FinishedAt, r.Exit, r.Reason, r.RestartAt = c.Finished, &exit, "exited", time.Time{}
	if exit.OOMKilled && exit.Code != 0 { // with 0 it lost a child, and could go on without
		r.Reason = reasonOutOfMemory
	}
	switch {
	case m.endedWithEngine(c):
		r.Reason, r.RestartAt = reasonWithEngine, now()
	case r.Wanted && r.restartsAfter(exit):
		r.RestartAt = now().Add(r.nextPause())
	}
	m.markEnded(c.ID)
	details := map[string]any{"reason": "exited", "exit_code": exit.Code, "oom_killed": exit.OOMKilled}
	if r.Reason == reasonWithEngine {
		details["reason"] = reasonWithEngine
	}
	if r.Wanted && !r.RestartAt.IsZero() {
		details["restart_at"] = r.RestartAt.Format(time.RFC3339Nano)
	}
	m.Log.InfoContext(ctx, "a container ended by itself", "pack_id", r.PackID, "details", details)
	// The entry first: written twice is better than not at all.
	return errors.Join(m.audit(ctx, "container_stopped", r.PackID, c.ID, details), m.putRecord(ctx, *r))
}

// restart starts a container again that is due, if its gate still lets it.
func (m *Manager) restart(ctx context.Context, r Record, c sandbox.Container, there bool) error {
	if !m.Gates.Fresh() || m.restartsDisabled.Load() {
		return nil // the next tick asks again
	}
	if reason, _ := m.stopReason(r.PackID, r.Digest); reason != "" {
		r.Wanted, r.RestartAt, r.Reason = false, time.Time{}, reason
		return m.putRecord(ctx, r)
	}
	before := &c
	if !there {
		before = nil
	}
	next := r
	next.Restarts++
	if _, err := m.launch(ctx, &next, before); err != nil {
		r.RestartAt = now().Add(r.nextPause())
		return errors.Join(fmt.Errorf("start %s again: %w", r.PackID, err), m.putRecord(context.WithoutCancel(ctx), r))
	}
	return nil
}
