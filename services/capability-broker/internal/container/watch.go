package container

import (
	"context"
	"time"

	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/periodic"
	"github.com/rumi-ai/rumi/libs/sandbox"
)

// Everything that may need work is found twice: at once by an event or a change of a gate, and by these intervals if that was
// lost.
const (
	requeueInterval = 500 * time.Millisecond // restarts that are due, gates that closed
	scanInterval    = 30 * time.Second       // containers that differ from their records
)

// GateChanged stops the container of a pack whose gate has closed or whose approved tree is another one now. It only puts the
// pack into the queue, since gate.View wants it to return at once. Gates that close because approval is silent are left to
// Watch, which gives approval leaseGrace to come back.
func (m *Manager) GateChanged(c gate.Change) {
	if !m.Gates.Fresh() {
		return
	}
	r, known := m.records.get(c.PackID)
	if known && r.Running && (c.Removed || !c.State.Open || c.State.Digest != r.Digest) {
		m.enqueue(c.PackID)
	}
}

// Watch keeps containers as they should be until ctx ends, and waits for what is under way. Containers that run when it begins
// stay as long as their gates allow it.
func (m *Manager) Watch(ctx context.Context) error {
	defer m.tasks.Wait()
	defer m.cancel()
	events := make(chan struct{})
	go func() { defer close(events); m.Engine.Events(ctx, func(e sandbox.Event) { m.handleEvent(ctx, e) }) }()
	defer func() { <-events }()
	m.approval.touch(time.Now()) // a broker that has just started gives approval the same time
	if m.DataMax > 0 {
		m.tasks.Go(m.watchDataLimit)
	}
	var swept, scanned time.Time
	return periodic.Run(ctx, requeueInterval, func(ctx context.Context) {
		fresh, now := m.Gates.Fresh(), time.Now()
		if fresh {
			m.approval.touch(now)
		}
		// Gates before records: a replica records a start before it reports it, so a gate that says "running" is never newer
		// than the record that it is compared with.
		gates := m.Gates.All()
		m.refreshRecords(ctx)
		m.requeueDue(now)
		if now.Sub(scanned) >= scanInterval {
			scanned = now
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

// refreshRecords takes over what other replicas have recorded.
func (m *Manager) refreshRecords(ctx context.Context) {
	if err := m.records.refresh(ctx); err != nil {
		m.Log.ErrorContext(ctx, "the records of containers could not be read", "error", err)
	}
}

// requeueDue enqueues the packs whose container must not run any more, or is due to be started again.
func (m *Manager) requeueDue(now time.Time) {
	for _, r := range m.records.all() {
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

// scan enqueues the packs whose containers differ from their records: an event was lost, or never was.
func (m *Manager) scan(ctx context.Context) {
	list, err := m.Engine.List(ctx, sandbox.Pack)
	if err != nil {
		return // Events says when the engine is back
	}
	packs := m.byPack(ctx, list)
	for _, r := range m.records.all() {
		if differs(r, packs[r.PackID]) {
			m.enqueue(r.PackID)
		}
		delete(packs, r.PackID)
	}
	for packID := range packs { // those without a record
		m.enqueue(packID)
	}
}

// differs says whether a pack's containers are others than its record says.
func differs(r Record, list []sandbox.Container) bool {
	if len(list) == 1 && list[0].ID == r.ContainerID && !list[0].Outdated {
		return r.Running != list[0].Alive()
	}
	return len(list) > 0 || r.Running
}

// handleEvent notes what an event says of a container's end, and enqueues its pack.
func (m *Manager) handleEvent(ctx context.Context, e sandbox.Event) {
	switch {
	case e.Action == sandbox.Lost:
		m.exits.engineLost()
	case e.Action == sandbox.Resync:
		m.resync(ctx)
	case e.Container.Kind != sandbox.Pack:
	case !namesPack(e.Container):
		if e.Action != "destroy" { // somebody copied our labels: the scan removes it
			m.tasks.Go(func() { m.scan(m.background) })
		}
	default:
		switch e.Action {
		case "die":
			m.exits.markEnded(e.Container.ID)
		case "oom":
			m.exits.markOOM(e.Container.ID)
		case "destroy":
			m.exits.forget(e.Container.ID)
		}
		m.enqueue(e.Container.PackID)
	}
}

// resync enqueues every pack that has a container or a record: the engine has come back, or is asked for the first time, and
// events may have been missed.
func (m *Manager) resync(ctx context.Context) {
	list, err := m.Engine.List(ctx, sandbox.Pack)
	if err != nil {
		m.Log.ErrorContext(ctx, "containers could not be listed", "error", err)
		return
	}
	m.refreshRecords(ctx)
	m.exits.engineBack()
	for _, c := range list {
		if c.Alive() { // after the outage, so it didn't end in it
			m.exits.markAlive(c.ID)
		}
	}
	packs := m.byPack(ctx, list)
	for _, r := range m.records.all() {
		packs[r.PackID] = nil
	}
	for id := range packs {
		m.enqueue(id)
	}
	m.synced.Store(true)
}
