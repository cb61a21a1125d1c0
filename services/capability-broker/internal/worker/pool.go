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

	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/periodic"
)

// startTimeout bounds the start of a worker, which goes on when the call that caused it has given up.
const startTimeout = 30 * time.Second

// Launcher starts workers.
type Launcher interface {
	// Launch starts a worker. handler.ErrUntrusted says that the handler's copy is not what was trusted, ErrMount that a
	// folder which is granted can't be shown.
	Launch(ctx context.Context, s Spec) (Process, error)
}

// Limits bound a Pool.
type Limits struct {
	PerHandler int           // workers of one handler for one principal
	Total      int           // workers of all; one principal's are half of them at most
	Queue      int           // calls that may wait for the workers of one handler and principal
	Idle       time.Duration // how long a worker without calls is kept
	Ceiling    Ceiling       // of which a Pool heeds the time
}

// Pool keeps workers warm, a few for each handler and principal, and what is granted: what one principal's call leaves
// behind in a worker is never seen by another's. It is safe for concurrent use.
type Pool struct {
	launcher Launcher
	limits   Limits
	log      *slog.Logger
	starts   *prometheus.CounterVec

	mu       sync.Mutex
	closed   bool
	groups   map[key]*group
	backoffs map[backoffKey]*backoff
	total    int // workers that run or start
	ending   sync.WaitGroup
}

type group struct {
	key      key
	spec     Spec
	waiters  []chan outcome // first come, first served; each of capacity 1
	idle     []*member      // the last used at the end
	members  map[*member]bool
	workers  int // those that start included
	starting int
}

type member struct {
	*conn
	used   time.Time
	group  *group
	failed int  // calls in a row; of the one that has the worker
	stale  bool // what is installed for its pack is something else by now
}

type outcome struct {
	member *member
	err    error
}

// NewPool makes a pool without workers. Close ends it.
func NewPool(l Launcher, limits Limits, log *slog.Logger, metrics prometheus.Registerer) *Pool {
	p := &Pool{launcher: l, limits: limits, log: log, groups: make(map[key]*group), backoffs: make(map[backoffKey]*backoff), starts: prometheus.NewCounterVec(
		prometheus.CounterOpts{Name: "rumi_capability_worker_starts_total", Help: "Starts of handler containers, by result (ok, failed)."},
		[]string{"result"})}
	metrics.MustRegister(p.starts, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "rumi_capability_workers", Help: "Handler containers that run or start.",
	}, func() float64 { p.mu.Lock(); defer p.mu.Unlock(); return float64(p.total) }))
	return p
}

// minCallTime is what a call must have left when a worker is ready for it. One with less would only cost the worker.
const minCallTime = time.Millisecond

// Run does a job in a worker, starting one where none is free. It ends with ctx at the latest; the container of a call
// that ran out of time is killed. A call whose time is over before it began costs no worker.
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
	output, state, err := m.call(ctx, job)
	p.release(m, m.assess(state, err))
	return output, err
}

// checkTimeLeft says that there is no time for a call to begin.
func checkTimeLeft(ctx context.Context) error {
	if deadline, bounded := ctx.Deadline(); bounded && time.Until(deadline) < minCallTime {
		return context.DeadlineExceeded
	}
	return ctx.Err()
}

// assess looks at what a worker answers, whatever it says of itself: one whose calls fail one after the other may be the reason.
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
	err := ErrBusy
	if len(g.waiters) < p.limits.Queue {
		err = p.ensureStarting(g, len(g.waiters)+1)
	}
	if err != nil {
		p.dropIfEmpty(g)
		p.mu.Unlock()
		return nil, err
	}
	wait := make(chan outcome, 1)
	g.waiters = append(g.waiters, wait)
	p.mu.Unlock()

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

// group is that of a spec, made where there is none.
func (p *Pool) group(s Spec) *group {
	k := s.key()
	g := p.groups[k]
	if g == nil {
		g = &group{key: k, spec: s, members: make(map[*member]bool)}
		p.groups[k] = g
	}
	return g
}

// ensureStarting sees to it that a worker will come free for each of so many that wait, by starting one where that is allowed and
// those that start already are not enough. The error is why none will.
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
	p.ending.Go(func() { p.start(g) })
}

// principalLimit is how many workers one principal may hold: calls that never end must not keep all others from being answered.
func (p *Pool) principalLimit() int { return max(1, p.limits.Total/2) }

// workersOf is how many it does.
func (p *Pool) workersOf(principal string) (n int) {
	for k, g := range p.groups {
		if k.principal == principal {
			n += g.workers
		}
	}
	return n
}

// evict ends the worker that has been idle for longest, of a principal or, for "", of all.
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

func (p *Pool) start(g *group) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	process, err := p.launcher.Launch(ctx, g.spec)
	p.mu.Lock()
	defer p.mu.Unlock()
	g.starting--
	if err != nil {
		p.starts.WithLabelValues("failed").Inc()
		p.log.Error("starting a handler failed", "pack_id", g.key.packID, "slug", g.key.slug, "principal", g.key.principal, "error", err)
		g.workers--
		p.total--
		if g.workers == 0 {
			for _, w := range g.waiters {
				w <- outcome{err: fmt.Errorf("start handler: %w", err)}
			}
			g.waiters = nil
		}
		p.dropIfEmpty(g)
		return
	}
	p.starts.WithLabelValues("ok").Inc()
	m := &member{conn: newConn(process), group: g}
	g.members[m] = true
	if p.closed || p.groups[g.key] != g {
		p.discard(m)
		return
	}
	p.ending.Go(func() { p.reap(m) })
	p.handOver(m)
}

// handOver hands a worker to the next waiter, or puts it to the idle ones.
func (p *Pool) handOver(m *member) {
	g := m.group
	if len(g.waiters) > 0 {
		next := g.waiters[0]
		g.waiters = g.waiters[1:]
		next <- outcome{member: m}
		return
	}
	m.used = time.Now()
	g.idle = append(g.idle, m)
}

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
		// A successor that may not start yet would be worse than none: this one answers, at least.
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

// replace starts a worker for those who wait for one that is gone.
func (p *Pool) replace(g *group) {
	if len(g.waiters) == 0 || p.closed || p.groups[g.key] != g {
		return
	}
	err := p.ensureStarting(g, len(g.waiters))
	if err == nil {
		return
	}
	for _, w := range g.waiters {
		w <- outcome{err: err}
	}
	g.waiters = nil
	p.dropIfEmpty(g)
}

// reap waits for a worker to end by itself while it is idle, so that no call finds a dead one.
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

// discard ends a worker that is in no list any more.
func (p *Pool) discard(m *member) {
	g := m.group
	if !g.members[m] {
		return
	}
	delete(g.members, m)
	g.workers--
	p.total--
	m.end()
	p.ending.Go(func() { <-m.killed; <-m.readDone })
	p.dropIfEmpty(g)
}

// dropIfEmpty forgets a group that has nothing left.
func (p *Pool) dropIfEmpty(g *group) {
	if g.workers == 0 && len(g.waiters) == 0 && p.groups[g.key] == g {
		delete(p.groups, g.key)
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
		w <- outcome{err: errRevoked}
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

// Packs are those of whose handlers workers run.
func (p *Pool) Packs() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	packs := make(map[string]bool)
	for k := range p.groups {
		packs[k.packID] = true
	}
	return slices.Collect(maps.Keys(packs))
}

// RecycleOutdated replaces the workers of a pack's handlers that have other packages than those of that digest: idle ones now, others after
// their call.
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

// EvictIdle ends workers that nobody used for Limits.Idle, until ctx ends.
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

// Close ends all workers and waits until they are gone, or ctx ends.
func (p *Pool) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	for _, g := range p.groups {
		p.endGroup(g)
	}
	p.mu.Unlock()
	done := make(chan struct{})
	go func() { p.ending.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("close pool: %w", ctx.Err())
	}
}
