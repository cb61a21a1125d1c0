package egress

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/decision"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/periodic"
)

// When something is written down before its end. A tunnel, a WebSocket connection and a stream are when they are decided on,
// so that a crash loses none of them; an ordinary request leaves one entry, at its end, unless it takes long.
const (
	observeEvery  = time.Second
	beginAfter    = time.Second
	progressEvery = 5 * time.Minute
	longBody      = 64 << 10 // bytes; a request with a longer body, or one of unknown length, is a stream
)

// Kinds of transfers, as the gauge calls them.
const (
	kindFrame     = "frame"
	kindHTTP      = "http"
	kindTunnel    = "tunnel"
	kindWebSocket = "websocket"
)

// transfer is a request, a tunnel or a WebSocket connection that was allowed, until its end.
type transfer struct {
	pack           *pack
	kind           string
	method         string
	to             decision.Destination // of the first hop
	began          time.Time
	sent, received atomic.Int64                  // bytes so far, where moved is nil
	moved          func() (sent, received int64) // bytes so far, where somebody else counts them

	// Of the mutex of transfers, until the end.
	requestID string    // of all its entries; "" before the first
	written   time.Time // the last of its entries; zero before the first
	metered   struct{ sent, received int64 }
}

// transfers are those of all packs that are under way.
type transfers struct {
	mu  sync.Mutex
	all map[*transfer]struct{}
}

// allowed makes the request a transfer: it was decided that it may happen.
func (r *result) allowed(k *pack, kind string, began time.Time) {
	r.transfer = &transfer{pack: k, kind: kind, method: r.call.method, to: r.destination, began: began}
	k.proxy.start(r.transfer)
}

func (p *Proxy) start(t *transfer) {
	p.transfers.mu.Lock()
	p.transfers.all[t] = struct{}{}
	p.transfers.mu.Unlock()
	p.meter.streams[t.kind].Inc()
}

// end must be called before t is recorded or used for something else.
func (p *Proxy) end(t *transfer) {
	p.transfers.mu.Lock()
	delete(p.transfers.all, t)
	p.transfers.mu.Unlock()
	p.meter.streams[t.kind].Dec()
}

// setKind changes what a transfer is counted as.
func (p *Proxy) setKind(t *transfer, kind string) {
	p.transfers.mu.Lock()
	defer p.transfers.mu.Unlock()
	p.meter.streams[t.kind].Dec()
	t.kind = kind
	p.meter.streams[t.kind].Inc()
}

// count has a transfer's bytes counted by moved from now on.
func (p *Proxy) count(t *transfer, moved func() (sent, received int64)) {
	p.transfers.mu.Lock()
	defer p.transfers.mu.Unlock()
	t.moved = moved
}

// begin writes down that t was decided on, if nothing of it was written yet. Nothing of it may happen where that fails.
func (p *Proxy) begin(t *transfer) error {
	p.transfers.mu.Lock()
	if !t.written.IsZero() {
		p.transfers.mu.Unlock()
		return nil
	}
	n := t.note(time.Now())
	p.transfers.mu.Unlock()
	return p.submit(n)()
}

// note is an entry about a transfer that goes on.
type note struct {
	requestID, actor string
	entry            audit.Entry
}

// note makes t's next entry. The mutex must be held.
func (t *transfer) note(now time.Time) note {
	phase := "progress"
	if t.written.IsZero() {
		phase, t.requestID = "begin", origin.NewRequestID()
	}
	t.written = now
	attrs := []slog.Attr{
		slog.String("domain", t.to.Host.Name), slog.Int("port", int(t.to.Port)), slog.Bool("allowed", true),
		slog.String("check_type", "proxy_request"), slog.String("method", t.method), slog.String("url", t.to.Redacted()),
	}
	if phase == "progress" {
		sent, received := t.bytes()
		attrs = append(attrs, slog.Float64("latency_ms", milliseconds(now.Sub(t.began))), slog.Int64("bytes", received), slog.Int64("bytes_sent", sent))
	}
	return note{t.requestID, "pack:" + t.pack.id, audit.Entry{
		Category: audit.Network, Action: "network_request", Success: true, OwnerPack: t.pack.id, Phase: phase, Attrs: attrs,
	}}
}

func (p *Proxy) submit(n note) (wait func() error) {
	return p.cfg.Audit.Submit(origin.With(context.Background(), origin.Origin{RequestID: n.requestID, Actor: n.actor}), n.entry)
}

func (t *transfer) bytes() (sent, received int64) {
	if t.moved != nil {
		return t.moved()
	}
	return t.sent.Load(), t.received.Load()
}

// meterBytes adds to the metrics what moved since the last time, sent and received being all so far.
func (p *Proxy) meterBytes(t *transfer, sent, received int64) {
	if more := sent - t.metered.sent; more > 0 {
		p.meter.sent.Add(float64(more))
		t.metered.sent = sent
	}
	if more := received - t.metered.received; more > 0 {
		p.meter.received.Add(float64(more))
		t.metered.received = received
	}
}

// observe brings metrics up to what has moved, and writes down what has turned out to take long and, now and then, what goes on.
func (p *Proxy) observe(now time.Time) {
	var due []note
	p.transfers.mu.Lock()
	for t := range p.transfers.all {
		if t.kind != kindFrame { // counted at its end, with its answer
			sent, received := t.bytes()
			p.meterBytes(t, sent, received)
		}
		since, after := t.written, progressEvery
		if since.IsZero() {
			since, after = t.began, beginAfter
		}
		if now.Sub(since) >= after {
			due = append(due, t.note(now))
		}
	}
	p.transfers.mu.Unlock()
	waits := make([]func() error, len(due))
	for i, n := range due {
		waits[i] = p.submit(n)
	}
	for _, wait := range waits {
		_ = wait() // the audit log says in the service's log what it could not write
	}
}

// sessionContext gives a context that ends with the session and with a client's.
func sessionContext(s *session, client context.Context) (ctx context.Context, release func()) {
	ctx, cancel := context.WithCancel(s.ctx)
	stop := context.AfterFunc(client, cancel)
	return ctx, func() { stop(); cancel() }
}

// observeAll observes each second until ctx ends.
func (p *Proxy) observeAll(ctx context.Context) error {
	return periodic.Run(ctx, observeEvery, func(context.Context) { p.observe(time.Now()) })
}
