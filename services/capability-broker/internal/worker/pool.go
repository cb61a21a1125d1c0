package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/packtrace"
	"github.com/rumi-ai/rumi/libs/periodic"
	"github.com/rumi-ai/rumi/libs/tracing/step"
)

// Launcher starts workers.
type Launcher interface {
	// Launch starts a worker. The error is handler.ErrUntrusted if the handler's copy is not what was trusted, ErrMount if a granted
	// folder is missing or may not be mounted.
	Launch(ctx context.Context, s Spec) (Process, error)
}

// Limits bound a Pool.
type Limits struct {
	PerHandler int           // workers of one handler for one principal
	Total      int           // workers of all; one principal's are half of them at most
	Queue      int           // calls that may wait for the workers of one handler and principal
	Idle       time.Duration // how long a worker without calls is kept
	Ceiling    Ceiling       // a Pool uses its Timeout only
}

// Pool keeps workers warm: a few for each handler, principal and set of grants. Workers are never shared between those, because
// handlers' code is Python of a pack's author and may leave anything behind in its process: what one principal's call leaves is never
// seen by another principal's, nor by a call under other grants. It is safe for concurrent use.
type Pool struct {
	launcher Launcher
	limits   Limits
	border   packtrace.Border
	log      *slog.Logger
	metrics  metrics

	tasks sync.WaitGroup // starts, ends and reapers of workers; Close waits for them

	mu       sync.Mutex // guards all of the following, and every field of groups, members (unless said otherwise) and backoffs
	closed   bool
	groups   map[key]*group
	backoffs map[backoffKey]*backoff
	total    int // workers that run or start
}

// group is the workers of one key, and the calls that wait for one of them. A group that Pool.groups doesn't have any more was
// ended. A goroutine that still has it (a start under way) must not use it.
type group struct {
	key      key
	spec     Spec
	waiters  []chan acquired // first come, first served; each of capacity 1, so that no sender ever blocks
	idle     []*member       // the one that was used last at the end
	members  map[*member]bool
	workers  int // members, and those that start
	starting int
	cause    trace.Span // of the call that a worker was last started for; nil for none
}

// member is a worker of a group. It is either idle, or in the hands of exactly one call, or discarded.
type member struct {
	*conn
	used   time.Time // when it became idle
	group  *group
	failed int  // calls in a row that failed; only the call that has the worker uses it
	stale  bool // its pack has other packages installed by now
}

// acquired is what a waiter gets: a worker, or the reason why there is none.
type acquired struct {
	member *member
	err    error
}

// NewPool makes a pool without workers, and registers its metrics. Close ends it.
func NewPool(l Launcher, limits Limits, border packtrace.Border, log *slog.Logger, registry prometheus.Registerer) *Pool {
	p := &Pool{launcher: l, limits: limits, border: border, log: log, groups: make(map[key]*group), backoffs: make(map[backoffKey]*backoff)}
	p.metrics = newMetrics(p, registry)
	return p
}

// minCallTime is how much time a call must have left when a worker is ready for it. A call with less would only run out of time, and
// its worker would be killed for it: a pack could kill warm workers by calls with tiny time limits.
const minCallTime = time.Millisecond

// Run does a job in a worker, and starts one if none is free. It returns when ctx ends at the latest; the container of a call
// that ran out of time is killed, since Python code can't be interrupted otherwise. A call whose time is over before it began costs no
// worker. Errors: ErrBusy, ErrPaused, ErrTooLarge, ErrMount, *FailedError, those of Launch and of Job.Begin, and ctx's.
func (p *Pool) Run(ctx context.Context, job Job) (jsontext.Value, error) {
	m, err := p.acquire(ctx, job)
	if err != nil {
		return nil, err
	}
	if err = checkTimeLeft(ctx); err == nil && job.Begin != nil {
		if err = job.Begin(ctx); err == nil {
			err = checkTimeLeft(ctx) // it may have taken long
		}
	}
	if err != nil {
		p.release(m, usable)
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, p.limits.Ceiling.timeout(job.Limits))
	defer cancel()
	ctx, end := step.Begin(ctx, "capability.handler", step.Client, attribute.String("rumi.handler_pack", job.Trust.PackID),
		semconv.CodeFunctionName(job.Trust.Entrypoint))
	job.Trace = p.border.Mint(ctx, job.Trust.PackID)
	output, state, err := m.call(ctx, job)
	end(err)
	p.release(m, m.assess(state, err))
	return output, err
}

// checkTimeLeft is an error if a call has no time left to begin.
func checkTimeLeft(ctx context.Context) error {
	if deadline, bounded := ctx.Deadline(); bounded && time.Until(deadline) < minCallTime {
		return context.DeadlineExceeded
	}
	return ctx.Err()
}

// assess decides from its answers whether a worker may go on, whatever it says of itself: if suspectAfter calls in a row have failed,
// something that an earlier call left behind in the worker may be the reason.
func (m *member) assess(s state, err error) state {
	if _, failed := errors.AsType[*FailedError](err); !failed {
		m.failed = 0
		return s
	}
	if m.failed++; m.failed < suspectAfter || s != usable {
		return s
	}
	m.failed = 0
	return suspect
}

func (p *Pool) acquire(ctx context.Context, job Job) (*member, error) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, ErrBusy
	}
	g := p.group(job.Spec)
	if n := len(g.idle); n > 0 {
		m := g.idle[n-1]
		g.idle = g.idle[:n-1]
		p.mu.Unlock()
		return m, nil
	}
	ctx, end := step.Begin(ctx, "capability.queue", step.Internal)
	err := ErrBusy
	if len(g.waiters) < p.limits.Queue {
		g.cause = trace.SpanFromContext(ctx)
		err = p.ensureStarting(g, len(g.waiters)+1)
	}
	if err != nil {
		p.dropIfEmpty(g)
		p.mu.Unlock()
		end(err)
		return nil, err
	}
	wait := make(chan acquired, 1)
	g.waiters = append(g.waiters, wait)
	p.mu.Unlock()
	defer end(nil)
	defer p.metrics.waited(time.Now())

	select {
	case o := <-wait:
		return o.member, o.err
	case <-ctx.Done():
	}
	p.mu.Lock()
	for i, w := range g.waiters {
		if w == wait {
			g.waiters = append(g.waiters[:i], g.waiters[i+1:]...)
			break
		}
	}
	p.mu.Unlock()
	select {
	case o := <-wait: // it came at the same moment
		if o.member != nil {
			p.release(o.member, usable)
		}
	default:
	}
	return nil, ctx.Err()
}

// group returns the group of a spec, and makes it if there is none.
func (p *Pool) group(s Spec) *group {
	k := s.key()
	g := p.groups[k]
	if g == nil {
		g = &group{key: k, spec: s, members: make(map[*member]bool)}
		p.groups[k] = g
	}
	return g
}

// release takes back the worker of a call that is over. s says what became of it: it is used again, replaced, or discarded.
func (p *Pool) release(m *member, s state) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !m.group.members[m] {
		return // ended meanwhile
	}
	select {
	case <-m.readDone:
		s = broken
	default:
	}
	if s == recycle || s == suspect {
		// If no successor may be started yet, this worker goes on: it answers, at least.
		if p.charge(m.group, map[state]float64{recycle: recycleCost, suspect: 1}[s]); !p.mayStart(m.group) {
			s = usable
		}
	}
	if m.stale && s == usable {
		s = recycle
	}
	if s == usable {
		p.handOver(m)
		return
	}
	if s == broken {
		p.charge(m.group, 1)
	}
	p.discard(m)
	p.replace(m.group)
	if s != broken {
		p.warm(m.group.spec) // its next caller shall not wait for what it left behind
	}
}

// End ends the workers that which names: those of a handler's pack or slug, or of a principal. Calls under way fail.
func (p *Pool) End(which func(packID, slug, principal string) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, g := range p.groups {
		if which(k.packID, k.slug, k.principal) {
			p.endGroup(g)
		}
	}
}

func (p *Pool) endGroup(g *group) {
	delete(p.groups, g.key) // one that starts finds that out
	for _, w := range g.waiters {
		w <- acquired{err: errRevoked}
	}
	g.waiters, g.idle = nil, nil
	for m := range g.members {
		m.revoked.Store(true)
		p.discard(m)
	}
}

// GateChanged ends the workers of a pack whose gate has closed, and those that other packs' handlers have for it. It is called by
// gate.View, and returns at once.
func (p *Pool) GateChanged(c gate.Change) {
	if c.Removed || !c.State.Open {
		p.EndPack(c.PackID)
	}
}

// EndPack ends the workers of a pack: those of its handlers, for whichever principal, and those of other packs' handlers for it.
// Calls under way fail.
func (p *Pool) EndPack(packID string) {
	p.End(func(ofPack, _, principal string) bool { return ofPack == packID || principal == packID })
}

// EndInvalid ends the workers whose spec is not valid any more. Calls under way fail.
func (p *Pool) EndInvalid(stillValid func(Spec) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, g := range p.groups {
		if !stillValid(g.spec) {
			p.endGroup(g)
		}
	}
}

// Packs returns the packs whose handlers have workers.
func (p *Pool) Packs() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	packs := make(map[string]bool)
	for k := range p.groups {
		packs[k.packID] = true
	}
	return slices.Collect(maps.Keys(packs))
}

// RecycleOutdated replaces the workers of a pack's handlers that were started with other packages than those of that digest: idle
// ones now, others after their call.
func (p *Pool) RecycleOutdated(packID, digest string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, g := range p.groups {
		if k.packID != packID {
			continue
		}
		for m := range g.members {
			if of, ok := m.process.(Packaged); ok && of.Packages() != digest {
				m.stale = true
			}
		}
		var kept, ended []*member
		for _, m := range g.idle {
			if m.stale {
				ended = append(ended, m)
			} else {
				kept = append(kept, m)
			}
		}
		g.idle = kept
		for _, m := range ended {
			p.discard(m)
		}
	}
}

// EvictIdle ends the workers that have been idle for Limits.Idle, again and again until ctx ends.
func (p *Pool) EvictIdle(ctx context.Context) error {
	return periodic.Run(ctx, max(p.limits.Idle/10, time.Second), func(context.Context) {
		now := time.Now()
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, g := range p.groups {
			for len(g.idle) > 0 && now.Sub(g.idle[0].used) >= p.limits.Idle {
				m := g.idle[0]
				g.idle = g.idle[1:]
				p.discard(m)
			}
		}
		p.dropExpiredBackoffs(now)
	})
}

// Close ends all workers and waits until their containers are removed, or ctx ends. Run returns ErrBusy from now on.
func (p *Pool) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	for _, g := range p.groups {
		p.endGroup(g)
	}
	p.mu.Unlock()
	done := make(chan struct{})
	go func() { p.tasks.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("close pool: %w", ctx.Err())
	}
}
