// Package egress answers packs' requests: the framed JSON of contract.md, "Egress", and plain HTTP proxying on the same
// socket, judged in the order protocol, gate, grant, rate, name resolution, address class, and sent to the very address
// that was judged.
package egress

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/periodic"
	"github.com/rumi-ai/rumi/libs/uds"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/address"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/denials"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/grant"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/hostname"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/quota"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/resolve"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/upstream"
)

const (
	rateBurst   = 100
	maxInFlight = 64  // requests of one pack at its servers that came in frames; each may hold an answer of 4 MiB
	maxStreams  = 256 // requests and tunnels of one pack that came as HTTP; each holds 64 KiB
	sweepEvery  = 15 * time.Second
)

// Config is what the proxy judges with and reaches the world through.
type Config struct {
	Gates interface {
		Get(string) (gate.State, bool)
	}
	Grants interface {
		Check(string, hostname.Host, string, uint16) grant.Decision
	}
	Denials   *denials.Log
	Quota     *quota.Quota
	Addresses *address.Policy
	Resolver  resolve.Resolver
	Dial      func(ctx context.Context, to netip.AddrPort) (net.Conn, error)
	TLS       func() *tls.Config // roots of the next handshake; never its own server name
	Rate      int                // requests a minute and pack; 0 for any number
	Refusals  int                // that leave entries of their own, a day and pack; 0 for any number
	Audit     audit.Submitter
	Log       *slog.Logger
	Metrics   prometheus.Registerer
	Tracer    trace.Tracer
}

// Proxy answers the requests of all packs.
type Proxy struct {
	cfg   Config
	names *resolve.Cache
	pools upstream.Config
	meter meter

	transfers transfers

	denials, failures *audit.Refusals

	mu    sync.Mutex
	packs map[string]*pack
}

// New makes a proxy.
func New(cfg Config) *Proxy {
	return &Proxy{
		cfg: cfg, names: resolve.New(cfg.Resolver), pools: upstream.Config{Dial: cfg.Dial, TLS: cfg.TLS},
		meter: newMeter(cfg.Metrics), packs: make(map[string]*pack), transfers: transfers{all: make(map[*transfer]struct{})},
		denials: audit.NewRefusals(cfg.Audit, cfg.Refusals, cfg.Log), failures: audit.NewRefusals(cfg.Audit, cfg.Refusals, cfg.Log),
	}
}

// Dial is Config.Dial for the real world.
func Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	dialer := net.Dialer{KeepAlive: 30 * time.Second, Control: boundUnsent}
	return dialer.DialContext(ctx, "tcp", to.String())
}

const (
	// unsentMax is how many bytes the kernel takes for a server beyond those that are on their way. Without a bound it is up to
	// 4 MB for each upload to a server that doesn't read, which no limit on a container counts everywhere (cgroup v1), and 256 of
	// them are a pack's. A connection needs no more than a few segments ahead to be kept busy.
	unsentMax = 256 << 10
	// unackedMax is how long a server may take nothing of what is sent to it.
	unackedMax = 2 * time.Minute
)

// boundUnsent bounds what a connection holds that its server doesn't take. It is net.Dialer's Control.
func boundUnsent(_, _ string, conn syscall.RawConn) error {
	var err error
	controlErr := conn.Control(func(fd uintptr) {
		err = errors.Join(
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsentMax),
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unackedMax.Milliseconds())),
		)
	})
	return errors.Join(controlErr, err)
}

// Count writes down, each second until ctx ends, how much was refused that has no entries of its own, and what is under way.
func (p *Proxy) Count(ctx context.Context) error {
	both, ctx := errgroup.WithContext(ctx)
	both.Go(func() error { return p.denials.Follow(ctx) })
	both.Go(func() error { return p.failures.Follow(ctx) })
	both.Go(func() error { return p.observeAll(ctx) })
	return both.Wait()
}

// Flush is Count once more, for when nobody asks any more.
func (p *Proxy) Flush(ctx context.Context) error {
	return errors.Join(p.denials.Flush(ctx), p.failures.Flush(ctx))
}

// pack is what the proxy keeps of one pack.
type pack struct {
	proxy   *Proxy
	id      string
	tokens  *rate.Limiter // nil for no limit
	slots   chan struct{}
	streams chan struct{}
	session atomic.Pointer[session]
}

// session lives as long as a pack's permissions only widen. When a grant is narrowed or the gate closes, the session is cancelled, and with it
// its requests and pooled connections.
type session struct {
	ctx  context.Context
	end  context.CancelFunc
	pool *upstream.Pool
}

func (p *Proxy) newSession() *session {
	s := &session{}
	s.ctx, s.end = context.WithCancel(context.Background())
	s.pool = upstream.NewPool(s.ctx, &p.pools)
	return s
}

func (p *Proxy) pack(id string) *pack {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.packs[id]
	if k == nil {
		k = &pack{proxy: p, id: id, slots: make(chan struct{}, maxInFlight), streams: make(chan struct{}, maxStreams)}
		if p.cfg.Rate > 0 {
			k.tokens = rate.NewLimiter(rate.Limit(float64(p.cfg.Rate)/60), rateBurst)
		}
		k.session.Store(p.newSession())
		p.packs[id] = k
	}
	return k
}

// Handler answers on the socket of a pack: who asks is told by the socket.
func (p *Proxy) Handler(id string) uds.Handler { return &handler{proxy: p, id: id} }

// Cut ends the requests under way of a pack and closes its connections. It must be called after what a pack may do has
// shrunk: its gate closed, its grant changed.
func (p *Proxy) Cut(id string) {
	p.mu.Lock()
	k := p.packs[id]
	p.mu.Unlock()
	if k != nil {
		k.cut()
	}
}

func (k *pack) cut() {
	old := k.session.Swap(k.proxy.newSession())
	old.end()
	old.pool.Close()
}

// Forget is Cut for a pack that is gone.
func (p *Proxy) Forget(id string) {
	p.Cut(id)
	p.mu.Lock()
	delete(p.packs, id)
	p.mu.Unlock()
	p.names.Forget(id)
}

// Sweep closes connections that have been idle for long, until ctx ends; then all.
func (p *Proxy) Sweep(ctx context.Context) error {
	_ = periodic.Run(ctx, sweepEvery, func(context.Context) {
		now := time.Now()
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, k := range p.packs {
			k.session.Load().pool.Sweep(now)
		}
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range p.packs {
		k.cut()
	}
	return nil
}
