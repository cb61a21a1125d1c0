// Package session has what the proxy keeps of each pack: its limits, and its current session, the time for which the pack's permissions only
// widen, with the connections that were made in it. It takes the decisions of package decision in their order.
//
// The race behind sessions: a request is decided on, then a grant is narrowed, then the request is sent. So a request first takes the pack's
// session and then is decided on. Whoever narrows permissions first makes the narrower ones those that are decided by, and then ends the session.
// A request that was decided on by the wider ones therefore has a session that ends, and its context and connections with it; a request that
// takes the next session is decided on by the narrower ones.
package session

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/hostname"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/address"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/grant"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/quota"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/resolve"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/upstream"
)

// Limits of one pack, whatever it was granted.
const (
	// RateBurst is how many requests may come at once under Config.Rate.
	RateBurst = 100
	// MaxInFlight is how many framed requests may be at their servers; each may hold an answer of 4 MiB.
	MaxInFlight = 64
	// MaxStreams is how many requests and tunnels that came as HTTP may be under way; each holds 64 KiB.
	MaxStreams = 256
)

// Config has the parts by which a session decides, and reaches servers.
type Config struct {
	Gates interface {
		Get(packID string) (gate.State, bool)
	}
	Grants interface {
		Check(packID string, host hostname.Host, shown string, port uint16) grant.Decision
	}
	Addresses *address.Policy
	Names     *resolve.Cache
	Quota     *quota.Quota
	Rate      int // requests a minute and pack; 0 for any number
	Upstream  *upstream.Config
}

// Packs are those that have asked for something since they were approved. Use New.
type Packs struct {
	Config

	waiting atomic.Int64 // framed requests that wait for one of their pack's slots

	mu  sync.Mutex
	all map[string]*Pack
}

// New returns no packs yet.
func New(cfg Config) *Packs { return &Packs{Config: cfg, all: make(map[string]*Pack)} }

// Waiting is how many framed requests wait because their pack has MaxInFlight at servers.
func (p *Packs) Waiting() int64 { return p.waiting.Load() }

// Pack is one pack: its limits, which last, and its current session.
type Pack struct {
	ID string

	packs   *Packs
	tokens  *rate.Limiter // nil for no limit
	slots   chan struct{} // holds one element for each framed request at its server
	streams chan struct{} // holds one element for each request and tunnel that came as HTTP
	current atomic.Pointer[Session]
}

// Get returns a pack, of which nothing needs to be known before.
func (p *Packs) Get(id string) *Pack {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.all[id]
	if k == nil {
		k = &Pack{packs: p, ID: id, slots: make(chan struct{}, MaxInFlight), streams: make(chan struct{}, MaxStreams)}
		if p.Rate > 0 {
			k.tokens = rate.NewLimiter(rate.Limit(float64(p.Rate)/60), RateBurst)
		}
		k.current.Store(p.newSession())
		p.all[id] = k
	}
	return k
}

// End ends a pack's session: its requests under way, and its connections. It must be called after what a pack may do has shrunk, that is, once
// decisions are taken by the narrower permissions.
func (p *Packs) End(id string) {
	p.mu.Lock()
	k := p.all[id]
	p.mu.Unlock()
	if k != nil {
		k.EndSession()
	}
}

// Forget is End for a pack that was uninstalled. Its limits and its resolved names are dropped, too.
func (p *Packs) Forget(id string) {
	p.End(id)
	p.mu.Lock()
	delete(p.all, id)
	p.mu.Unlock()
	p.Names.Forget(id)
}

// Sweep closes connections that have been idle for a minute.
func (p *Packs) Sweep(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range p.all {
		k.Session().Pool.Sweep(now)
	}
}

// EndAll ends the sessions of all packs.
func (p *Packs) EndAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range p.all {
		k.EndSession()
	}
}

// Session lives as long as a pack's permissions only widen. When a grant is narrowed or the gate closes, the session is cancelled, and with it
// its requests and pooled connections.
type Session struct {
	Pool *upstream.Pool

	ctx context.Context
	end context.CancelFunc
}

func (p *Packs) newSession() *Session {
	s := &Session{}
	s.ctx, s.end = context.WithCancel(context.Background())
	s.Pool = upstream.NewPool(s.ctx, p.Upstream)
	return s
}

// Session is the pack's current one. Take it before anything is decided on (see the package comment), and once for each request.
func (k *Pack) Session() *Session { return k.current.Load() }

// EndSession ends the pack's session, and has the next request begin a new one.
func (k *Pack) EndSession() {
	old := k.current.Swap(k.packs.newSession())
	old.end()
	old.Pool.Close()
}

// Context ends with the session.
func (s *Session) Context() context.Context { return s.ctx }

// Ended says whether the session has ended.
func (s *Session) Ended() bool { return s.ctx.Err() != nil }

// With returns a context that ends with the session or with client, whichever ends first. release must be called.
func (s *Session) With(client context.Context) (ctx context.Context, release func()) {
	ctx, cancel := context.WithCancel(s.ctx)
	stop := context.AfterFunc(client, cancel)
	return ctx, func() { stop(); cancel() }
}

// AfterEnd has f called when the session ends, until stop is called; see context.AfterFunc.
func (s *Session) AfterEnd(f func()) (stop func() bool) { return context.AfterFunc(s.ctx, f) }
