package container

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/flock"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/policy"
	"github.com/rumi-ai/rumi/libs/sandbox"
	"github.com/rumi-ai/rumi/libs/tracing/step"
)

// Started is a running container.
type Started struct {
	ID       string
	ImageID  string
	Digest   string   // of the tree that it runs
	Warnings []string // of what the pack asked for and was not given
}

// Start runs the approved tree of a pack for an operator. If the pack runs this tree already, nothing happens; another or an
// ended container is replaced. Faults: not found for an unknown pack, denied `Pack not approved: <status>`, unavailable without
// Docker or without a service that is needed.
func (m *Manager) Start(ctx context.Context, packID string) (Started, error) {
	if _, err := pack.ParseID(packID); err != nil {
		return Started{}, err
	}
	release, err := m.lockPack(ctx, packID)
	if err != nil {
		return Started{}, fmt.Errorf("start %s: %w", packID, err)
	}
	defer release()
	state, err := m.checkGate(ctx, packID)
	if err != nil {
		return Started{}, err
	}
	running, err := m.clearForStart(ctx, packID, state.Digest)
	if err != nil {
		return Started{}, fmt.Errorf("start %s: %w", packID, err)
	}
	if running != nil {
		return *running, nil
	}
	r := Record{PackID: packID, Digest: state.Digest, Role: origin.Of(ctx).Role}
	made, err := m.launch(ctx, &r, nil)
	if err != nil {
		if fault.Of(err).Code == policy.Code {
			err = errors.Join(err, m.auditStartDenied(ctx, packID, map[string]any{"status": state.Status}, fault.Of(err).Message))
		}
		return Started{}, fmt.Errorf("start %s: %w", packID, err)
	}
	// Race: the gate may have closed while the container was being made. GateChanged then found no container that runs, and
	// did nothing. So the gate is asked once more, now that the container is recorded as running: from here on
	// GateChanged sees it.
	if now, known := m.Gates.Get(packID); m.Gates.Fresh() && (!known || !now.Open || now.Digest != state.Digest) {
		if err := m.stopContainer(ctx, r, 0, "gate closed", false); err != nil {
			return Started{}, fmt.Errorf("start %s: %w", packID, err)
		}
		return Started{}, m.gateFault(packID, now)
	}
	return Started{made.ID, made.ImageID, state.Digest, r.Warnings}, nil
}

// clearForStart removes what is in the way of a new container: strays and the container of an earlier run, whose output is
// kept. If the pack runs the tree of that digest already, this container is returned.
func (m *Manager) clearForStart(ctx context.Context, packID, digest string) (running *Started, err error) {
	found, err := m.observe(ctx, packID)
	if err = errors.Join(err, found.recordErr); err != nil {
		return nil, err
	}
	r := found.record
	if err := m.removeStrays(ctx, &r, found.strays); err != nil {
		return nil, err
	}
	own := found.own
	if own == nil {
		return nil, nil
	}
	if own.Running() && own.Digest == digest {
		return &Started{own.ID, own.ImageID, own.Digest, r.Warnings}, nil
	}
	m.saveOutput(ctx, *own)
	return nil, m.Engine.Remove(ctx, own.ID)
}

// checkGate returns the state of a pack's gate if it is open. Otherwise the error is Start's; that the pack was denied is in
// the audit log. The contract wants 404 for a pack that isn't known and 403 for one that may not run, where gate.Check has 409 for both.
func (m *Manager) checkGate(ctx context.Context, packID string) (gate.State, error) {
	state, known := m.Gates.GetLatest(ctx, packID)
	refused := gate.Check(packID, state, known, m.Gates.Fresh())
	switch {
	case refused == nil, fault.Is(refused, fault.KindUnavailable):
		return state, refused
	case !known:
		return state, fault.PackNotFound()
	}
	m.metrics.denied.Inc()
	denied := m.gateFault(packID, state)
	if err := m.auditStartDenied(ctx, packID, map[string]any{"status": state.Status}, denied.Message); err != nil {
		return state, err
	}
	return state, denied
}

func (m *Manager) auditStartDenied(ctx context.Context, packID string, details map[string]any, reason string) error {
	return m.Audit.Write(ctx, audit.Entry{Category: audit.Security, Severity: audit.Warning, Action: "container_start_denied",
		OwnerPack: packID, Details: details, RejectionReason: reason})
}

// gateFault is the answer to the start of a pack whose gate is closed, with the reason if it is known.
func (m *Manager) gateFault(packID string, state gate.State) *fault.Fault {
	why := m.parentReason(packID)
	if why == "" && state.Reason != "" {
		why = " (" + state.Reason + ")"
	}
	return fault.Denied("Pack not approved: %s%s", state.Status, why).With("pack_not_approved")
}

// parentReason says that a child's gate is closed because of its parent; "" if it isn't.
func (m *Manager) parentReason(packID string) string {
	parent, child := pack.Parent(pack.ID(packID))
	if !child {
		return ""
	}
	switch state, known := m.Gates.Get(string(parent)); {
	case !known:
		return fmt.Sprintf(" (its parent '%s' is not installed)", parent)
	case !state.Open:
		return fmt.Sprintf(" (its parent '%s' is %s)", parent, state.Status)
	}
	return ""
}

// launch starts a container for a pack, whose lock is held: existing, if that was made of the same Spec, or else a new one. r
// names pack and digest; launch sets the rest of it to what is so.
//
// The order of the steps is what survives a broker that is killed between any two of them:
//
//  1. The container is made, and does not run yet.
//  2. The record names its id. From here on no other container can be taken for the pack's own, and if the broker dies, the
//     next one sees by PreviousStart whether step 3 was reached.
//  3. The engine starts it.
//  4. The start is audited. A container that runs without an audit entry must not be, so it is stopped if that fails;
//     an entry of a container that was stopped at once may be.
func (m *Manager) launch(ctx context.Context, r *Record, existing *sandbox.Container) (c sandbox.Container, err error) {
	ctx, end := step.Begin(ctx, "container.start", step.Internal, attribute.String("rumi.pack_id", r.PackID))
	defer func(began time.Time) { m.metrics.started(ctx, began, err); end(err) }(time.Now())
	trees := flock.NewShared(TreesLock(m.LockDir))
	if err := trees.Lock(ctx); err != nil {
		return sandbox.Container{}, err
	}
	defer trees.Close() // a copy that is mounted needs no lock: the kernel keeps it
	spec, err := m.buildSpec(ctx, r)
	if err != nil {
		return sandbox.Container{}, err
	}
	c, undo, err := m.createOrReuse(ctx, spec, existing)
	if err != nil {
		return c, err
	}
	after := context.WithoutCancel(ctx) // a caller that gives up must not keep us from cleaning up
	r.ContainerID, r.Wanted, r.Running, r.StartedAt, r.RestartAt = c.ID, true, true, now(), time.Time{}
	if r.EngineID, err = m.Engine.ID(ctx); err != nil {
		return c, errors.Join(err, undo(after, c.ID))
	}
	r.PreviousStart = c.Started
	m.exits.markAlive(c.ID)
	if err := m.records.put(ctx, *r); err != nil {
		return c, errors.Join(err, undo(after, c.ID))
	}
	if err := m.Engine.Start(ctx, c.ID); err != nil {
		r.Running, r.Wanted = false, false
		return c, errors.Join(err, m.records.put(after, *r), undo(after, c.ID))
	}
	if err := m.auditStart(ctx, *r, spec.Image, c); err != nil {
		return c, errors.Join(err, m.stopContainer(after, *r, 0, "audit log can't be written", false))
	}
	return c, nil
}

// createOrReuse returns existing if it was made of spec, or replaces it by a new container. undo removes the container if it is new.
func (m *Manager) createOrReuse(ctx context.Context, spec sandbox.Spec, existing *sandbox.Container) (c sandbox.Container, undo func(context.Context, string) error, err error) {
	if existing != nil {
		if existing.SpecFingerprint == spec.Fingerprint() {
			return *existing, func(context.Context, string) error { return nil }, nil
		}
		m.saveOutput(ctx, *existing)
		if err := m.Engine.Remove(ctx, existing.ID); err != nil {
			return *existing, nil, err
		}
	}
	c, err = m.Engine.Create(ctx, spec)
	return c, m.Engine.Remove, err
}

func (m *Manager) auditStart(ctx context.Context, r Record, image string, c sandbox.Container) error {
	details := map[string]any{"digest": r.Digest, "image": image, "image_id": c.ImageID}
	if r.Restarts > 0 {
		details["restarts"] = r.Restarts
	}
	if len(r.Warnings) > 0 {
		details["warnings"] = r.Warnings
	}
	return m.audit(ctx, "container_started", r.PackID, c.ID, details)
}

// audit writes an entry about a pack's container.
func (m *Manager) audit(ctx context.Context, action, packID, containerID string, details map[string]any) error {
	details["container_id"] = containerID
	return m.Audit.Write(ctx, audit.Entry{Category: audit.System, Action: action, Success: true, OwnerPack: packID, Details: details})
}
