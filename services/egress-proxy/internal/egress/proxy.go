// Package egress is the proxy between packs and the Internet: it wires together how requests come in (frameproto, httpproxy), what is kept of
// each pack (session) and what is written down (record). How a request is decided on stands in package decision; the order in which to read the
// packages, too.
package egress

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/hostname"
	"github.com/rumi-ai/rumi/libs/packtrace"
	"github.com/rumi-ai/rumi/libs/periodic"
	"github.com/rumi-ai/rumi/libs/uds"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/address"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/denials"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/frameproto"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/grant"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/httpproxy"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/quota"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/record"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/resolve"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/session"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/upstream"
)

const sweepEvery = 15 * time.Second

// MaxRequest is the longest frame of a request, in bytes.
const MaxRequest = frameproto.MaxRequest

// Config has the parts by which the proxy decides, reaches servers, and records what happened.
type Config struct {
	Gates interface {
		Get(packID string) (gate.State, bool)
	}
	Grants interface {
		Check(packID string, host hostname.Host, shown string, port uint16) grant.Decision
	}
	Denials   *denials.Log
	Quota     *quota.Quota
	Addresses *address.Policy
	Resolver  resolve.Resolver
	Dial      func(ctx context.Context, to netip.AddrPort) (net.Conn, error) // see upstream.Dial
	TLS       func() *tls.Config                                             // roots of the next handshake; never its own server name
	Rate      int                                                            // requests a minute and pack; 0 for any number
	Refusals  int                                                            // denied or failed requests with entries of their own, a day and pack; 0 for any number
	Audit     audit.Submitter
	Log       *slog.Logger
	Metrics   prometheus.Registerer
	Tracer    trace.Tracer
	Border    packtrace.Border
	Spans     httpproxy.Spans // that packs make themselves
}

// Proxy answers the requests of all packs. Use New.
type Proxy struct {
	packs    *session.Packs
	recorder *record.Recorder
	spans    httpproxy.Spans
}

// New returns a proxy that serves nothing yet: see Handler.
func New(cfg Config) *Proxy {
	names := resolve.New(observeResolver(cfg.Resolver, cfg.Metrics))
	packs := session.New(session.Config{
		Gates: cfg.Gates, Grants: cfg.Grants, Addresses: cfg.Addresses, Names: names, Quota: cfg.Quota, Rate: cfg.Rate,
		Upstream: &upstream.Config{Dial: observeDial(cfg.Dial, cfg.Metrics), TLS: cfg.TLS},
	})
	observePacks(packs, names, cfg.Metrics)
	return &Proxy{
		packs: packs,
		recorder: record.New(record.Config{
			Denials: cfg.Denials, Refusals: cfg.Refusals, Audit: cfg.Audit, Log: cfg.Log, Metrics: cfg.Metrics, Tracer: cfg.Tracer, Border: cfg.Border,
		}),
		spans: cfg.Spans,
	}
}

// Record writes the per-second summaries of refusals beyond the daily limit of single audit entries, and follows what is under way, until ctx
// ends.
func (p *Proxy) Record(ctx context.Context) error { return p.recorder.Run(ctx) }

// Flush writes the summaries of refusals since Record wrote them last. Call it once packs ask for nothing any more.
func (p *Proxy) Flush(ctx context.Context) error { return p.recorder.Flush(ctx) }

// Cut ends the requests under way of a pack and closes its connections. It must be called after what a pack may do has shrunk: its gate closed,
// its grant changed.
func (p *Proxy) Cut(packID string) { p.packs.End(packID) }

// GateChanged ends what a pack has under way when its gate closes or the pack goes. It is a listener of gate.View and returns at once: connections
// are closed without waiting for their servers.
func (p *Proxy) GateChanged(c gate.Change) {
	if c.Removed || !c.State.Open {
		p.Cut(c.PackID)
	}
}

// Forget is Cut for a pack that was uninstalled.
func (p *Proxy) Forget(packID string) { p.packs.Forget(packID) }

// Sweep closes connections that have been idle for a minute, until ctx ends; then all.
func (p *Proxy) Sweep(ctx context.Context) error {
	_ = periodic.Run(ctx, sweepEvery, func(context.Context) { p.packs.Sweep(time.Now()) })
	p.packs.EndAll()
	return nil
}

// Handler answers on the socket of a pack. The socket is what says which pack asks: each pack's container has its own only.
func (p *Proxy) Handler(packID string) uds.Handler { return &handler{proxy: p, packID: packID} }

// handler is a pack's uds.Handler, uds.Beginner and uds.Streamer for one life of its socket.
type handler struct {
	proxy  *Proxy
	packID string

	once sync.Once
	of   *session.Pack // from the first request on: most sockets get none for long
}

// pack is whose socket it is. ctx is that of a request. The pack's session ends with the socket, at the latest.
func (h *handler) pack(ctx context.Context) *session.Pack {
	h.once.Do(func() {
		h.of = h.proxy.packs.Get(h.packID)
		context.AfterFunc(uds.SocketOf(ctx), h.of.EndSession)
	})
	return h.of
}

// Answer implements uds.Handler.
func (h *handler) Answer(ctx context.Context, request, dst []byte) []byte {
	return h.Begin(ctx, request).Finish(dst)
}

// Refuse implements uds.Handler.
func (h *handler) Refuse(err error, dst []byte) []byte {
	return frameproto.Refuse(h.proxy.packs.Get(h.packID), h.proxy.recorder, err, dst)
}

// Begin implements uds.Beginner.
func (h *handler) Begin(ctx context.Context, request []byte) uds.Pending {
	return frameproto.Begin(ctx, h.pack(ctx), h.proxy.recorder, request)
}

// Stream implements uds.Streamer.
func (h *handler) Stream(ctx context.Context, s *uds.Stream) {
	httpproxy.Serve(ctx, h.pack(ctx), h.proxy.recorder, h.proxy.spans, s)
}
