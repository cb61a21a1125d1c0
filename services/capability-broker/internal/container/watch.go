package container

import (
	"context"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/flock"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/periodic"
	"github.com/rumi-ai/rumi/libs/sandbox"
)

// actor is who asks, for the audit log.
func actor(ctx context.Context) string { return origin.Of(ctx).Actor }

// GateChanged stops the container of a pack whose gate has closed or whose approved tree is another one now. It
// returns at once, as gate.View wants it. Gates that close because approval is silent are left to Watch, which gives
// approval some time to come back.
func (m *Manager) GateChanged(c gate.Change) {
	if !m.Gates.Fresh() {
		return
	}
	m.mu.Lock()
	r, known := m.records[c.PackID]
	m.mu.Unlock()
	if known && r.Running && (c.Removed || !c.State.Open || c.State.Digest != r.Digest) {
		m.enqueue(c.PackID)
	}
}

// Watch notices what happens to containers and to gates until ctx ends. Containers that run when it begins are kept as
// long as their gates want them.
func (m *Manager) Watch(ctx context.Context) error {
	defer m.tasks.Wait()
	defer m.cancel()
	events := make(chan struct{})
	go func() { defer close(events); m.Engine.Events(ctx, func(e sandbox.Event) { m.handleEvent(ctx, e) }) }()
	defer func() { <-events }()
	m.mu.Lock()
	m.lastFresh = time.Now() // a broker that has just started gives approval the same time
	m.mu.Unlock()
	if m.DataMax > 0 {
		m.tasks.Go(m.watchDataLimit)
	}
	var swept, looked time.Time
	return periodic.Run(ctx, requeueInterval, func(ctx context.Context) {
		fresh, now := m.Gates.Fresh(), time.Now()
		if fresh {
			m.mu.Lock()
			m.lastFresh = now
			m.mu.Unlock()
		}
		gates := m.Gates.All() // before the records: what a replica has told approval, it has recorded before
		m.refresh(ctx)
		m.requeueDue(now)
		if now.Sub(looked) >= scanInterval {
			looked = now
			m.scan(ctx)
		}
		if fresh {
			m.report(ctx, gates)
			if now.Sub(swept) >= sweepInterval && m.sweep(ctx) {
				swept = now
			}
		}
	})
}

// refresh reads what other replicas have recorded.
func (m *Manager) refresh(ctx context.Context) {
	m.recordsIO.Lock()
	defer m.recordsIO.Unlock()
	list, changed, err := m.Records.Records(ctx)
	if err != nil {
		m.Log.ErrorContext(ctx, "reading what is known of containers failed", "error", err)
	}
	if !changed {
		return
	}
	known := make(map[string]Record, len(list))
	for _, r := range list {
		known[r.PackID] = r
	}
	m.mu.Lock()
	m.records = known
	m.mu.Unlock()
}

// requeueDue has those packs looked at whose container should not run, or should again.
func (m *Manager) requeueDue(now time.Time) {
	for _, r := range m.allRecords() {
		due := r.due(now)
		if r.Running {
			reason, _ := m.stopReason(r.PackID, r.Digest)
			due = due || reason != ""
		}
		if due {
			m.enqueue(r.PackID)
		}
	}
}

func (m *Manager) allRecords() []Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]Record, 0, len(m.records))
	for _, r := range m.records {
		list = append(list, r)
	}
	return list
}

// scan has those packs looked at of which the records say something else than the engine: no event told of it.
func (m *Manager) scan(ctx context.Context) {
	list, err := m.Engine.List(ctx, sandbox.Pack)
	if err != nil {
		return // Events tells when the engine is back
	}
	packs := m.packsOf(ctx, list)
	for _, r := range m.allRecords() {
		all := packs[r.PackID]
		if own := len(all) == 1 && all[0].ID == r.ContainerID && !all[0].Outdated; !own && (len(all) > 0 || r.Running) || own && r.Running != all[0].Alive() {
			m.enqueue(r.PackID)
		}
		delete(packs, r.PackID)
	}
	for packID := range packs { // nothing is recorded of them
		m.enqueue(packID)
	}
}

// statusRunning is what approval calls a pack whose container runs.
const statusRunning = "running"

// report tells approval of packs whose status says something else about their container than there is. What approval
// says is compared with what is, so that nothing told twice or lost in between is ever wrong for long.
func (m *Manager) report(ctx context.Context, gates []gate.State) {
	m.mu.Lock()
	looked := m.synced // else what runs isn't known yet
	m.mu.Unlock()
	if !looked {
		return
	}
	running := make(map[string]bool)
	for _, r := range m.allRecords() {
		running[r.PackID] = r.Running
	}
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	for _, state := range gates {
		// A closed gate of a child tells its parent's status, not the child's own: that it has stopped is told once.
		is, recorded := running[state.PackID]
		switch {
		case state.Open && is == (state.Status == statusRunning):
			delete(m.reportedStopped, state.PackID)
			continue
		case !state.Open && (is || !recorded || m.reportedStopped[state.PackID]):
			continue
		}
		if err := m.Reporter.SetRunning(ctx, state.PackID, running[state.PackID]); err != nil && !fault.Is(err, fault.KindNotFound) {
			m.Log.WarnContext(ctx, "approval could not be told whether a container runs; trying again", "pack_id", state.PackID, "error", err)
			return
		}
		if !state.Open {
			m.reportedStopped[state.PackID] = true
		}
	}
}

// sweep removes the copies of trees that no pack is approved with and no container runs, those of dependencies that no
// container of a pack or handler has, and records of packs that are gone. It is false while a container is being made, here or by another
// replica: a fetch may take minutes, and nobody waits behind it for this.
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
	trees, packages, there := make(map[string]bool), make(map[string]bool), make(map[string]bool)
	for _, c := range list {
		trees[c.Digest], packages[c.Packages], there[c.PackID] = true, true, true
	}
	for _, c := range handlers {
		packages[c.Packages] = true
	}
	for _, state := range m.Gates.All() {
		trees[state.Digest] = true
	}
	if err := m.Trees.Sweep(func(digest string) bool { return trees[digest] }); err != nil {
		m.Log.ErrorContext(ctx, "trees that nobody needs could not be removed", "error", err)
	}
	if err := m.Environments.Sweep(func(digest string) bool { return packages[digest] }); err != nil {
		m.Log.ErrorContext(ctx, "dependencies that nobody needs could not be removed", "error", err)
	}
	for _, r := range m.allRecords() {
		if _, known := m.Gates.Get(r.PackID); !known && !there[r.PackID] && m.Gates.Fresh() {
			if err := m.removeRecord(ctx, r.PackID); err != nil {
				m.Log.ErrorContext(ctx, "what is known of a container that is gone could not be removed", "pack_id", r.PackID, "error", err)
			}
		}
	}
	return true
}

// handleEvent takes over what the engine tells.
func (m *Manager) handleEvent(ctx context.Context, e sandbox.Event) {
	switch {
	case e.Action == sandbox.Lost:
		m.mu.Lock()
		m.outage.from, m.outage.to = time.Now().Add(-engineGrace), time.Time{}
		m.mu.Unlock()
	case e.Action == sandbox.Resync:
		m.resync(ctx)
	case e.Container.Kind != sandbox.Pack || e.Action == "destroy" && !ofAPack(e.Container):
	case !ofAPack(e.Container): // somebody copied our labels: a look finds it
		m.tasks.Go(func() { m.scan(m.background) })
	default:
		if e.Action == "die" {
			m.markEnded(e.Container.ID)
		}
		m.mu.Lock()
		switch e.Action {
		case "oom":
			m.oomSeen[e.Container.ID] = true
		case "destroy":
			delete(m.oomSeen, e.Container.ID)
			delete(m.lifetimes, e.Container.ID)
		}
		m.mu.Unlock()
		m.enqueue(e.Container.PackID)
	}
}

// resync has every pack looked at that has a container or a record.
func (m *Manager) resync(ctx context.Context) {
	list, err := m.Engine.List(ctx, sandbox.Pack)
	if err != nil {
		m.Log.ErrorContext(ctx, "listing containers failed", "error", err)
		return
	}
	m.refresh(ctx)
	now := time.Now()
	m.mu.Lock()
	if m.outage.to.IsZero() {
		m.outage.to = now
	}
	m.mu.Unlock()
	for _, c := range list {
		if c.Alive() { // after the outage: it didn't end in it
			m.markAlive(c.ID)
		}
	}
	packs := m.packsOf(ctx, list)
	for _, r := range m.allRecords() {
		packs[r.PackID] = nil
	}
	for id := range packs {
		m.enqueue(id)
	}
	m.mu.Lock()
	m.synced = true
	m.mu.Unlock()
}
