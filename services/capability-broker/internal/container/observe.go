package container

import (
	"context"
	"errors"
	"fmt"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/sandbox"
)

// observed is what the engine has of a pack, and what is recorded of it.
type observed struct {
	own       *sandbox.Container  // the one that the record names; nil for none
	strays    []sandbox.Container // all others that bear the pack's labels
	record    Record
	recordErr error // record is then what was read last
}

// any says whether there is a container.
func (s observed) any() bool { return s.own != nil || len(s.strays) > 0 }

// alive says whether there is a container that runs or can run on.
func (s observed) alive() bool {
	if s.own != nil && s.own.Alive() {
		return true
	}
	for _, c := range s.strays {
		if c.Alive() {
			return true
		}
	}
	return false
}

// observe looks for a pack's containers; the pack is held, or the answer may be old. A container is the pack's own if it is
// the very one that was recorded when it was made: its labels can be copied, its id can't. All others are strays.
func (m *Manager) observe(ctx context.Context, packID string) (observed, error) {
	list, err := m.Engine.Find(ctx, sandbox.Pack, packID)
	if err != nil {
		return observed{}, fmt.Errorf("find containers of %s: %w", packID, err)
	}
	var s observed
	if s.record, s.recordErr = m.Records.Record(ctx, packID); s.recordErr != nil {
		m.mu.Lock()
		s.record = m.records[packID]
		m.mu.Unlock()
		s.record.PackID = packID
	}
	for _, c := range list {
		if c.ID == s.record.ContainerID && !c.Outdated && c.PackID == packID {
			s.own = &c
		} else {
			s.strays = append(s.strays, c)
		}
	}
	return s, nil
}

// Reasons of the end of a stray.
const (
	reasonNotOurs  = "it has the pack's labels and was not made by this broker"
	reasonOutdated = "it was made by an earlier version"
)

// removeStrays removes strays. One that can't be removed keeps none of the others. Where one was the pack's own, made by an earlier
// version, r becomes what is so: it is due to be started anew.
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
			failures = append(failures, m.putRecord(ctx, *r))
		}
	}
	return errors.Join(failures...)
}

// removeStray ends and removes a container that is none of a pack's.
func (m *Manager) removeStray(ctx context.Context, c sandbox.Container, reason string) error {
	m.Log.WarnContext(ctx, "removing a container", "container_id", c.ID, "pack_id", c.PackID, "status", c.Status, "reason", reason)
	if err := m.Engine.Remove(ctx, c.ID); err != nil {
		return err
	}
	return m.Audit.Write(ctx, audit.Entry{Category: audit.Security, Severity: audit.Warning, Action: "stray_container_removed", Success: true, OwnerPack: c.PackID,
		Details: map[string]any{"container_id": c.ID, "status": c.Status, "digest": c.Digest, "reason": reason}})
}

// ofAPack says whether a container's labels name a pack. What they name is a stranger's to choose, and becomes a file's name.
func ofAPack(c sandbox.Container) bool {
	_, err := pack.ParseID(c.PackID)
	return err == nil && c.Name == c.PackID
}

// packsOf are the packs that containers are of. A container whose labels name none is removed.
func (m *Manager) packsOf(ctx context.Context, list []sandbox.Container) map[string][]sandbox.Container {
	packs := make(map[string][]sandbox.Container)
	for _, c := range list {
		if ofAPack(c) {
			packs[c.PackID] = append(packs[c.PackID], c)
			continue
		}
		if err := m.removeStray(ctx, c, reasonNotOurs); err != nil {
			m.Log.ErrorContext(ctx, "removing a container failed; trying again", "container_id", c.ID, "error", err)
		}
	}
	return packs
}
