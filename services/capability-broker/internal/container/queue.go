package container

import (
	"context"
	"sync"
	"time"
)

// reconcileTimeout bounds one reconciliation of a pack.
const reconcileTimeout = time.Minute

// reconcileQueue runs reconcile for packs: one at a time for each pack, any number of packs side by side. A pack that is added
// while it is being reconciled is reconciled once more, however often it was added: what happened since may have come too
// late for the run under way.
type reconcileQueue struct {
	m *Manager

	mu    sync.Mutex // guards packs and what they point to
	packs map[string]*queued
}

// queued is a pack that is being reconciled, or whose last reconciliation failed.
type queued struct {
	running   bool   // a goroutine works on it
	requested bool   // it was added since that goroutine last began
	failure   string // the text of the last error, so that a repeated one is logged once
}

func newReconcileQueue(m *Manager) *reconcileQueue {
	return &reconcileQueue{m: m, packs: make(map[string]*queued)}
}

// enqueue has a pack reconciled soon. It returns at once. After the end of Watch it does nothing.
func (m *Manager) enqueue(packID string) { m.queue.add(packID) }

func (q *reconcileQueue) add(packID string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	p := q.packs[packID]
	if p == nil {
		p = &queued{}
		q.packs[packID] = p
	}
	p.requested = true
	if p.running || q.m.background.Err() != nil {
		return
	}
	p.running = true
	q.m.tasks.Go(func() {
		for q.next(packID, p) {
			q.run(packID, p)
		}
	})
}

// next says whether a pack is to be reconciled once more. If not, its goroutine ends.
func (q *reconcileQueue) next(packID string, p *queued) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !p.requested || q.m.background.Err() != nil {
		p.running = false
		if p.failure == "" {
			delete(q.packs, packID)
		}
		return false
	}
	p.requested = false
	return true
}

// run reconciles a pack once. A failure isn't tried again here: requeueDue and scan find what is still to be done.
func (q *reconcileQueue) run(packID string, p *queued) {
	ctx, cancel := context.WithTimeout(q.m.background, reconcileTimeout)
	defer cancel()
	err := q.m.reconcile(ctx, packID)
	failure := ""
	if err != nil && q.m.background.Err() == nil {
		failure = err.Error()
	}
	q.mu.Lock()
	repeated := failure == p.failure
	p.failure = failure
	q.mu.Unlock()
	if failure != "" && !repeated {
		q.m.Log.Error("a pack's container could not be brought into the state that it should have; trying again", "pack_id", packID, "error", err)
	}
}
