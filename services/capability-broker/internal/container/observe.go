package container

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/sandbox"
)

// observed is what the engine has of a pack, and what is recorded of it.
type observed struct {
	own       *sandbox.Container  // the one that the record names; nil for none
	strays    []sandbox.Container // all others that have the pack's labels
	record    Record
	recordErr error // the record couldn't be read; record is then the last known one
}

// any says whether there is a container.
func (o observed) any() bool { return o.own != nil || len(o.strays) > 0 }

// alive says whether there is a container that runs or, being paused, may go on running.
func (o observed) alive() bool {
	return o.own != nil && o.own.Alive() || slices.ContainsFunc(o.strays, sandbox.Container.Alive)
}

// observe asks the engine and the store about a pack. Unless the pack's lock is held, the answer may be out of date.
//
// A container is the pack's own only if it is the very one whose id was recorded before its first start. Labels prove nothing:
// anybody who can use the engine can make a container with the same labels, whatever runs in it. An id can't be chosen. All
// others are strays, and so is one of an earlier version, whose labels say less than ours.
func (m *Manager) observe(ctx context.Context, packID string) (observed, error) {
	list, err := m.Engine.Find(ctx, sandbox.Pack, packID)
	if err != nil {
		return observed{}, fmt.Errorf("find containers of %s: %w", packID, err)
	}
	var o observed
	if o.record, o.recordErr = m.Records.Record(ctx, packID); o.recordErr != nil {
		// A container whose gate has closed must be stopped even if the database doesn't answer: the last known record does for that.
		o.record, _ = m.records.get(packID)
		o.record.PackID = packID
	}
	for _, c := range list {
		if c.ID == o.record.ContainerID && !c.Outdated && c.PackID == packID {
			o.own = &c
		} else {
			o.strays = append(o.strays, c)
		}
	}
	return o, nil
}

// observeKnown is observe for an operator: an unknown pack is a not-found fault.
func (m *Manager) observeKnown(ctx context.Context, packID string) (observed, error) {
	found, err := m.observe(ctx, packID)
	if err != nil {
		return found, err
	}
	return found, m.checkKnown(ctx, packID, found)
}

// ownContainer returns the container of a pack; nil if a known pack has none.
func (m *Manager) ownContainer(ctx context.Context, packID string) (*sandbox.Container, error) {
	found, err := m.observeKnown(ctx, packID)
	return found.own, err
}

// Reasons for the removal of a stray.
const (
	reasonNotOurs  = "it has the pack's labels and was not made by this broker"
	reasonOutdated = "it was made by an earlier version"
)

// removeStrays removes strays of a pack, whose lock is held. One that can't be removed is in the error; the others are removed all
// the same. If one of them was the pack's own, made by an earlier version, r (which may be nil) is updated: the pack is due to be
// started in a new container.
func (m *Manager) removeStrays(ctx context.Context, r *Record, strays []sandbox.Container) error {
	var failures []error
	for _, c := range strays {
		reason := reasonNotOurs
		if c.Outdated {
			reason = reasonOutdated
		}
		if err := m.removeStray(ctx, c, reason); err != nil {
			failures = append(failures, err)
			continue
		}
		if r != nil && c.ID == r.ContainerID && r.Running {
			r.Running, r.Reason = false, reasonOutdated
			if r.Wanted {
				r.RestartAt = now()
			}
			failures = append(failures, m.records.put(ctx, *r))
		}
	}
	return errors.Join(failures...)
}

// removeStray kills and removes a container that isn't a pack's own.
func (m *Manager) removeStray(ctx context.Context, c sandbox.Container, reason string) error {
	m.Log.WarnContext(ctx, "removing a container that no pack should have", "container_id", c.ID, "pack_id", c.PackID, "status", c.Status, "reason", reason)
	if err := m.Engine.Remove(ctx, c.ID); err != nil {
		return err
	}
	return m.Audit.Write(ctx, audit.Entry{Category: audit.Security, Severity: audit.Warning, Action: "stray_container_removed", Success: true, OwnerPack: c.PackID,
		Details: map[string]any{"container_id": c.ID, "status": c.Status, "digest": c.Digest, "reason": reason}})
}

// namesPack says whether a container's labels name a pack. Labels may be a stranger's, and the pack id becomes the name of a lock
// file: "../x" must not get there.
func namesPack(c sandbox.Container) bool {
	_, err := pack.ParseID(c.PackID)
	return err == nil && c.Name == c.PackID
}

// byPack sorts containers by pack. A container whose labels name no pack is removed.
func (m *Manager) byPack(ctx context.Context, list []sandbox.Container) map[string][]sandbox.Container {
	packs := make(map[string][]sandbox.Container)
	for _, c := range list {
		if namesPack(c) {
			packs[c.PackID] = append(packs[c.PackID], c)
			continue
		}
		if err := m.removeStray(ctx, c, reasonNotOurs); err != nil {
			m.Log.ErrorContext(ctx, "a container that no pack should have could not be removed; trying again", "container_id", c.ID, "error", err)
		}
	}
	return packs
}
