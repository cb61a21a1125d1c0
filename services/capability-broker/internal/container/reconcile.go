package container

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rumi-ai/rumi/libs/sandbox"
)

// leaseGrace is how long containers may run on while approval doesn't answer. The gates' own lease is shorter: nothing is started
// and no call is answered meanwhile, but a short outage of approval must not end every pack's work.
const leaseGrace = 30 * time.Second

// Reasons of ends that were not the pack's own doing.
const (
	reasonUninstalled = "gate closed: the pack is uninstalled"
	reasonOutOfMemory = "out of memory"
	reasonWithEngine  = "ended with the container engine"
	reasonMoved       = "moved to another container engine"
	reasonInterrupted = "its start was interrupted"
)

// now is the time as records have it.
func now() time.Time { return time.Now().UTC() }

// stopReason says why a container of that digest must not run; "" if it may. temporary says that the reason may pass by itself:
// such a container is started again afterwards.
func (m *Manager) stopReason(packID, digest string) (reason string, temporary bool) {
	state, known := m.Gates.Get(packID)
	switch {
	case !m.Gates.Fresh():
		if m.approval.age() < leaseGrace {
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

// reconcile compares a pack's container with what should be, and does what is to be done about it: strays go, a container that
// must not run is stopped, an end is recorded, a restart that is due is made.
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
	straysErr := m.removeStrays(ctx, &found.record, found.strays)
	return errors.Join(straysErr, m.reconcileOwn(ctx, found))
}

// reconcileOwn is reconcile without the strays.
func (m *Manager) reconcileOwn(ctx context.Context, found observed) error {
	r, c := found.record, found.own
	alive := c != nil && c.Alive()
	if alive {
		m.exits.markAlive(c.ID)
		// Before anything that needs the record: a closed gate stops a container even if the database doesn't answer. And without
		// a grace period: a pack whose gate is closed must not go on, not even to end in order.
		switch reason, temporary := m.stopReason(r.PackID, c.Digest); {
		case reason == reasonUninstalled: // nobody will ever ask for its log
			return errors.Join(found.recordErr, m.deleteContainer(ctx, r.PackID, c.ID))
		case reason != "":
			return errors.Join(found.recordErr, m.stopContainer(ctx, r, 0, reason, temporary && r.Wanted))
		}
	}
	if found.recordErr != nil {
		return found.recordErr
	}
	if alive {
		return m.adopt(ctx, r, *c)
	}
	if err := m.recordEnd(ctx, &r, c); err != nil || !r.due(time.Now()) {
		return err
	}
	return m.restart(ctx, r, c)
}

// adopt records that a container runs, and may.
func (m *Manager) adopt(ctx context.Context, r Record, c sandbox.Container) error {
	if r.Running && r.Wanted && r.StartedAt.Equal(c.Started) && r.RestartAt.IsZero() {
		if _, known := m.records.get(r.PackID); known {
			return nil
		}
	}
	if !r.Running {
		m.Log.InfoContext(ctx, "found a container that runs though its record said that it doesn't", "pack_id", r.PackID, "container_id", c.ID)
	}
	r.Running, r.Wanted, r.RestartAt, r.StartedAt = true, true, time.Time{}, c.Started
	return m.records.put(ctx, r)
}

// recordEnd updates the record of a pack whose container isn't alive, or is missing (nil).
func (m *Manager) recordEnd(ctx context.Context, r *Record, c *sandbox.Container) error {
	switch {
	case r.Running && c == nil:
		return m.handleMissing(ctx, r)
	case r.Running:
		return m.handleExit(ctx, r, *c)
	case r.Exit != nil && !r.Exit.OOMKilled && m.exits.killedForMemory(r.ContainerID, *r.Exit):
		// The engine reported the lack of memory after the end that it caused.
		exit := *r.Exit
		exit.OOMKilled, r.Reason = true, reasonOutOfMemory
		r.Exit = &exit
		return errors.Join(m.audit(ctx, "container_out_of_memory", r.PackID, r.ContainerID, map[string]any{"exit_code": exit.Code}), m.records.put(ctx, *r))
	case c != nil && r.Wanted && r.RestartAt.IsZero() && m.exits.endedInOutage(r.ContainerID):
		// The container's end was reported, and recorded as the pack's own, before the engine's.
		r.RestartAt, r.Reason = now(), reasonWithEngine
		return m.records.put(ctx, *r)
	}
	return nil
}

// handleMissing records that the engine doesn't have a container any more. If it was another engine's, the home was moved here
// with its records, and the pack is due to be started in a new container. Otherwise somebody removed the container with Docker's own
// tools, and means that it should stay away.
func (m *Manager) handleMissing(ctx context.Context, r *Record) error {
	id, err := m.Engine.ID(ctx)
	if err != nil {
		return fmt.Errorf("look for the container of %s: %w", r.PackID, err)
	}
	if r.EngineID != "" && r.EngineID != id {
		r.Running, r.Reason, r.RestartAt = false, reasonMoved, now()
		return errors.Join(m.audit(ctx, "container_stopped", r.PackID, r.ContainerID, map[string]any{"reason": reasonMoved}), m.records.put(ctx, *r))
	}
	r.Wanted = false
	return errors.Join(m.audit(ctx, "container_stopped", r.PackID, r.ContainerID, map[string]any{"reason": "removed from outside"}),
		m.records.remove(ctx, r.PackID))
}

// handleExit records that a container has ended which no broker stopped, and when it is due to be started again.
func (m *Manager) handleExit(ctx context.Context, r *Record, c sandbox.Container) error {
	r.Running = false
	if c.Started.Equal(r.PreviousStart) {
		// The engine's last start of it is the one before the start that was recorded: a broker was killed between its record
		// and the engine's start. Both times are the engine's, so it doesn't matter what ours was.
		r.RestartAt, r.Reason = now(), reasonInterrupted
		return m.records.put(ctx, *r)
	}
	exit := c.Exit
	r.StartedAt = c.Started
	exit.OOMKilled = exit.OOMKilled || m.exits.killedForMemory(c.ID, exit)
	r.FinishedAt, r.Exit, r.Reason, r.RestartAt = c.Finished, &exit, "exited", time.Time{}
	if exit.OOMKilled && exit.Code != 0 { // with code 0 it lost a child process, and could do its work without
		r.Reason = reasonOutOfMemory
	}
	switch {
	case m.exits.endedWithEngine(c):
		r.Reason, r.RestartAt = reasonWithEngine, now()
	case r.Wanted && r.restartsAfter(exit):
		r.RestartAt = now().Add(r.nextPause())
	}
	m.exits.markEnded(c.ID)
	m.metrics.ended(r)
	details := map[string]any{"reason": "exited", "exit_code": exit.Code, "oom_killed": exit.OOMKilled}
	if r.Reason == reasonWithEngine {
		details["reason"] = reasonWithEngine
	}
	if r.Wanted && !r.RestartAt.IsZero() {
		details["restart_at"] = r.RestartAt.Format(time.RFC3339Nano)
	}
	m.Log.InfoContext(ctx, "a container ended by itself", "pack_id", r.PackID, "details", details)
	// The entry first: if the broker dies in between, the end is audited twice, which is better than not at all.
	return errors.Join(m.audit(ctx, "container_stopped", r.PackID, c.ID, details), m.records.put(ctx, *r))
}

// restart starts a container again whose restart is due, if its gate still allows it. c is nil if there is none.
func (m *Manager) restart(ctx context.Context, r Record, c *sandbox.Container) error {
	if !m.Gates.Fresh() || m.restartsDisabled.Load() {
		return nil // requeueDue asks again
	}
	if reason, _ := m.stopReason(r.PackID, r.Digest); reason != "" {
		r.Wanted, r.RestartAt, r.Reason = false, time.Time{}, reason
		return m.records.put(ctx, r)
	}
	next := r
	next.Restarts++
	if _, err := m.launch(ctx, &next, c); err != nil {
		r.RestartAt = now().Add(r.nextPause())
		return errors.Join(fmt.Errorf("start %s again: %w", r.PackID, err), m.records.put(context.WithoutCancel(ctx), r))
	}
	m.metrics.restarts.Inc()
	return nil
}
