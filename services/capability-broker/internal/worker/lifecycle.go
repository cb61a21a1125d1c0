package worker

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/rumi-ai/rumi/libs/tracing/step"
)

// Everything here is called with Pool.mu held, but for start, reap and Warm.

// startTimeout bounds the start of a worker. The start goes on if the call that caused it gives up: the next call may use the worker.
const startTimeout = 30 * time.Second

// ensureStarting starts a worker of g if fewer are starting than calls wait, and if the limits allow it. The error says why none was
// started; it is nil as long as g has any worker, since that one will become free.
func (p *Pool) ensureStarting(g *group, waiting int) error {
	if g.starting >= waiting || g.workers >= p.limits.PerHandler {
		return nil
	}
	err := error(nil)
	switch {
	case !p.mayStart(g):
		err = ErrPaused
	case p.workersOf(g.key.principal) >= p.principalLimit() && !p.evict(g.key.principal), p.total >= p.limits.Total && !p.evict(""):
		err = ErrBusy
	default:
		p.add(g)
	}
	if g.workers > 0 {
		return nil
	}
	return err
}

func (p *Pool) add(g *group) {
	g.workers++
	g.starting++
	p.total++
	cause := g.cause
	g.cause = nil // a later start has another one, or none
	p.tasks.Go(func() { p.start(g, cause) })
}

// principalLimit is how many workers one principal may have. Without it a pack could make calls that never end until no other pack's
// call is answered.
func (p *Pool) principalLimit() int { return max(1, p.limits.Total/2) }

// workersOf is how many workers a principal has.
func (p *Pool) workersOf(principal string) (n int) {
	for k, g := range p.groups {
		if k.principal == principal {
			n += g.workers
		}
	}
	return n
}

// evict makes room: it ends the worker that has been idle for longest, of a principal or, for "", of all. It returns false if none is
// idle.
func (p *Pool) evict(principal string) bool {
	var oldest *member
	for k, g := range p.groups {
		if principal != "" && k.principal != principal {
			continue
		}
		if len(g.idle) > 0 && (oldest == nil || g.idle[0].used.Before(oldest.used)) {
			oldest = g.idle[0]
		}
	}
	if oldest == nil {
		return false
	}
	oldest.group.idle = oldest.group.idle[1:]
	p.discard(oldest)
	return true
}

// start starts a worker. cause is the span of the call that waits for it; nil for none. The start may outlive the call.
func (p *Pool) start(g *group, cause trace.Span) {
	ctx, cancel := context.WithTimeout(trace.ContextWithSpan(context.Background(), cause), startTimeout)
	defer cancel()
	ctx, end := step.Begin(ctx, "capability.start_worker", step.Internal, attribute.String("rumi.handler_pack", g.key.packID))
	began := time.Now()
	process, err := p.launcher.Launch(ctx, g.spec)
	p.metrics.started(began, err)
	end(err)
	p.mu.Lock()
	defer p.mu.Unlock()
	g.starting--
	if err != nil {
		p.log.Error("starting a handler failed", "pack_id", g.key.packID, "slug", g.key.slug, "principal", g.key.principal, "error", err)
		g.workers--
		p.total--
		if g.workers == 0 {
			for _, w := range g.waiters {
				w <- acquired{err: fmt.Errorf("start handler: %w", err)}
			}
			g.waiters = nil
		}
		p.dropIfEmpty(g)
		return
	}
	m := &member{conn: newConn(process), group: g}
	g.members[m] = true
	if p.closed || p.groups[g.key] != g {
		p.discard(m)
		return
	}
	p.tasks.Go(func() { p.reap(m) })
	p.handOver(m)
}

// handOver gives a worker to the first waiter, or makes it idle.
func (p *Pool) handOver(m *member) {
	g := m.group
	if len(g.waiters) > 0 {
		next := g.waiters[0]
		g.waiters = g.waiters[1:]
		next <- acquired{member: m}
		return
	}
	m.used = time.Now()
	g.idle = append(g.idle, m)
}

// replace starts a worker for the calls that wait, after one was discarded. If that isn't allowed, they all get the reason.
func (p *Pool) replace(g *group) {
	if len(g.waiters) == 0 || p.closed || p.groups[g.key] != g {
		return
	}
	err := p.ensureStarting(g, len(g.waiters))
	if err == nil {
		return
	}
	for _, w := range g.waiters {
		w <- acquired{err: err}
	}
	g.waiters = nil
	p.dropIfEmpty(g)
}

// reap waits until a worker's output ends, and discards it if it is idle then, so that no call gets a dead worker. If a call has it,
// the call finds out by itself.
func (p *Pool) reap(m *member) {
	<-m.readDone
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, other := range m.group.idle {
		if other == m {
			m.group.idle = append(m.group.idle[:i], m.group.idle[i+1:]...)
			p.log.Warn("a handler's worker ended by itself", "pack_id", m.group.key.packID, "slug", m.group.key.slug, "reason", m.reason)
			p.charge(m.group, 1)
			p.discard(m)
			return
		}
	}
}

// discard ends a worker that is neither idle nor waited for any more. The worker of a call under way fails that call. It returns at
// once; tasks has what is left to do.
func (p *Pool) discard(m *member) {
	g := m.group
	if !g.members[m] {
		return
	}
	delete(g.members, m)
	g.workers--
	p.total--
	m.end()
	p.tasks.Go(func() { <-m.killed; <-m.readDone })
	p.dropIfEmpty(g)
}

// dropIfEmpty forgets a group without workers and waiters: keys come from grants, so groups must not add up.
func (p *Pool) dropIfEmpty(g *group) {
	if g.workers == 0 && len(g.waiters) == 0 && p.groups[g.key] == g {
		delete(p.groups, g.key)
	}
}

// Warm starts a worker for a spec that has none, so that its first call finds one. It never takes more than half of all
// that may run.
func (p *Pool) Warm(s Spec) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.warm(s)
}

func (p *Pool) warm(s Spec) {
	if p.closed || p.total > p.limits.Total/2 || p.workersOf(s.Principal) >= p.principalLimit() {
		return
	}
	g := p.group(s)
	if g.workers == 0 && p.mayStart(g) {
		p.add(g)
	}
	p.dropIfEmpty(g)
}
