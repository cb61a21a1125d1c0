package container

import (
	"context"
	"errors"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/sandbox"
)

// actor is who asks, for the audit log.
func actor(ctx context.Context) string { return origin.Of(ctx).Actor }

// GateChanged stops the container of a pack whose gate has closed or whose approved tree is another one now. It
// returns at once, as gate.View wants it. Gates that close because approval is silent are left to Watch, which gives
// approval some time to come back.
func (m *Manager) GateChanged(c gate.Change) {
	if m.Gates.Fresh() && m.unwanted(c.PackID, c.State, !c.Removed) {
		go m.enforce(c.PackID)
	}
}

// unwanted says whether a pack has a container that should not be running.
func (m *Manager) unwanted(packID string, state gate.State, known bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.known[packID]
	return r != nil && r.running && !r.stopping && (!known || !state.Open || state.Digest != r.digest)
}

// enforce stops a pack's container if it still should not be running, at once: whoever closed a gate does not wait
// for the pack to agree.
func (m *Manager) enforce(packID string) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	defer m.hold(packID)()
	state, known := m.Gates.Get(packID)
	if !m.unwanted(packID, state, known) {
		return
	}
	m.mu.Lock()
	id := m.known[packID].id
	m.mu.Unlock()
	var err error
	switch {
	case !m.Gates.Fresh():
		err = m.end(ctx, packID, id, 0, "gate closed: approval does not answer")
	case !known: // nobody will ever ask for its log
		err = m.delete(ctx, packID, id)
	case !state.Open:
		err = m.end(ctx, packID, id, 0, "gate closed: the pack is "+state.Status)
	default:
		err = m.end(ctx, packID, id, 0, "another version was approved")
	}
	if err != nil && !errors.Is(err, sandbox.ErrNotFound) {
		m.Log.ErrorContext(ctx, "stopping a container failed; trying again", "pack_id", packID, "error", err)
	}
}

// Watch notices what happens to containers and to gates until ctx ends. Containers that run when it begins are kept as
// long as their gates want them.
func (m *Manager) Watch(ctx context.Context) error {
	events := make(chan struct{})
	go func() { defer close(events); m.Engine.Events(ctx, func(e sandbox.Event) { m.event(ctx, e) }) }()
	defer func() { <-events }()
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	var swept time.Time
	fresh := time.Now() // a broker that has just started gives approval the same time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if m.Gates.Fresh() {
			fresh = time.Now()
			m.report(ctx)
			if fresh.Sub(swept) >= sweepEvery && m.sweepTrees(ctx) {
				swept = fresh
			}
		} else if time.Since(fresh) < leaseGrace {
			continue
		}
		m.mu.Lock()
		packs := make([]string, 0, len(m.known))
		for id := range m.known {
			packs = append(packs, id)
		}
		m.mu.Unlock()
		for _, id := range packs {
			if state, known := m.Gates.Get(id); m.unwanted(id, state, known) {
				m.enforce(id)
			}
		}
	}
}

// statusRunning is what approval calls a pack whose container runs.
const statusRunning = "running"

// report tells approval of packs whose status says something else about their container than there is. What approval
// says is compared with what is, so that nothing told twice or lost in between is ever wrong for long.
func (m *Manager) report(ctx context.Context) {
	m.mu.Lock()
	if !m.looked { // what runs isn't known yet
		m.mu.Unlock()
		return
	}
	running := make(map[string]bool, len(m.known))
	for id, r := range m.known {
		running[id] = r.running && !r.stopping
	}
	m.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	for _, state := range m.Gates.All() {
		if !state.Open || running[state.PackID] == (state.Status == statusRunning) {
			continue
		}
		if err := m.Reporter.SetRunning(ctx, state.PackID, running[state.PackID]); err != nil && !fault.Is(err, fault.KindNotFound) {
			m.Log.WarnContext(ctx, "approval could not be told whether a container runs; trying again", "pack_id", state.PackID, "error", err)
			return
		}
	}
}

// sweepTrees removes the copies that no pack is approved with and no container runs. It is false while a container is
// being made: a fetch may take minutes, and nobody waits behind it for this.
func (m *Manager) sweepTrees(ctx context.Context) bool {
	if !m.starting.TryLock() {
		return false
	}
	defer m.starting.Unlock()
	wanted := make(map[string]bool)
	for _, state := range m.Gates.All() {
		wanted[state.Digest] = true
	}
	m.mu.Lock()
	for _, r := range m.known {
		wanted[r.digest] = true
	}
	m.mu.Unlock()
	if err := m.Trees.Sweep(func(digest string) bool { return wanted[digest] }); err != nil {
		m.Log.ErrorContext(ctx, "trees that nobody needs could not be removed", "error", err)
	}
	return true
}

// event takes over what Docker tells.
func (m *Manager) event(ctx context.Context, e sandbox.Event) {
	if e.Action == sandbox.Resync {
		m.resync(ctx)
		return
	}
	c := e.Container
	if c.Kind != sandbox.Pack {
		return
	}
	switch e.Action {
	case "start":
		m.mu.Lock()
		if r := m.known[c.PackID]; r == nil || r.id != c.ID {
			m.known[c.PackID] = &record{id: c.ID, digest: c.Digest, running: true, started: time.Now().UTC()}
		}
		m.mu.Unlock()
	case "die":
		m.died(ctx, c, &sandbox.Exit{Code: e.ExitCode})
	case "destroy":
		m.forget(c.PackID, c.ID)
	}
}

// resync looks which containers there are.
func (m *Manager) resync(ctx context.Context) {
	list, err := m.Engine.List(ctx, sandbox.Pack)
	if err != nil {
		m.Log.ErrorContext(ctx, "listing containers failed", "error", err)
		return
	}
	there := make(map[string]bool, len(list))
	for _, c := range list {
		there[c.ID] = true
		m.mu.Lock()
		r := m.known[c.PackID]
		if r == nil || r.id != c.ID {
			r = &record{id: c.ID, digest: c.Digest, running: c.Running(), started: c.Created}
			m.known[c.PackID] = r
			if c.Running() {
				m.Log.InfoContext(ctx, "found a running container", "pack_id", c.PackID, "container_id", c.ID)
			}
		}
		died := r.running && !c.Running() && c.Status != "created"
		m.mu.Unlock()
		if died {
			m.died(ctx, c, nil)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.looked = true
	for id, r := range m.known {
		// A container younger than the list may be missing in it.
		if !there[r.id] && time.Since(r.started) > time.Minute {
			delete(m.known, id)
		}
	}
}

// died notes the end of a container, and tells of one that nobody asked for.
func (m *Manager) died(ctx context.Context, c sandbox.Container, exit *sandbox.Exit) {
	if whole, err := m.Engine.Wait(ctx, c.ID); err == nil {
		exit = &whole
	}
	m.mu.Lock()
	r := m.known[c.PackID]
	if r == nil || r.id != c.ID {
		m.mu.Unlock()
		return
	}
	surprise := r.running && !r.stopping
	r.running, r.exit = false, exit
	if r.ended.IsZero() {
		r.ended = time.Now().UTC()
	}
	m.mu.Unlock()
	if !surprise {
		return
	}
	details := map[string]any{"reason": "exited"}
	if exit != nil {
		details["exit_code"], details["oom_killed"] = exit.Code, exit.OOMKilled
	}
	if err := m.audit(ctx, "container_stopped", c.PackID, c.ID, details); err != nil {
		m.Log.ErrorContext(ctx, "the end of a container could not be audited", "pack_id", c.PackID, "error", err)
	}
	m.Log.InfoContext(ctx, "a container ended by itself", "pack_id", c.PackID, "details", details)
}
