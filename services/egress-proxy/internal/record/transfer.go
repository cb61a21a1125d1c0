package record

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/periodic"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/decision"
)

// When something is written down before its end. What may last long (a tunnel, a WebSocket connection, a stream) is written down when it is
// decided on, so that a crash loses none of it: see Begin. An ordinary request leaves one entry, at its end, unless it takes longer than
// BeginAfter.
const (
	observeEvery = time.Second
	// BeginAfter is how long an ordinary request may take without an entry of its beginning.
	BeginAfter = time.Second
	// ProgressEvery is how often what lasts has an entry of its progress.
	ProgressEvery = 5 * time.Minute
)

// Kind is how an allowed request came, as the gauge of requests under way has it.
type Kind string

// The kinds.
const (
	KindFrame     Kind = "frame"
	KindHTTP      Kind = "http"
	KindTunnel    Kind = "tunnel"
	KindWebSocket Kind = "websocket"
)

// Transfer is a request, a tunnel or a WebSocket connection that was allowed, until its end. It starts with Recorder.Start and ends with
// Recorder.Record.
type Transfer struct {
	packID string
	kind   Kind
	method string
	to     decision.Destination // of the first hop
	began  time.Time
	span   trace.Span // of the request; nil for none

	// Bytes so far. They are counted here, or by counter where that isn't nil.
	sent, received atomic.Int64
	counter        func() (sent, received int64)

	// The mutex of transfers guards these, and counter and kind, until the end.
	requestID string    // of all its entries; "" before the first
	written   time.Time // the last of its entries; zero before the first
	counted   struct{ sent, received int64 }
}

// transfers are those of all packs that are under way.
type transfers struct {
	mu  sync.Mutex
	all map[*Transfer]struct{}
}

// Start begins the transfer t of a request of which the decision was that it may happen. t must be new, or one that has ended.
func (c *Recorder) Start(t *Transfer, kind Kind, packID string, r *Result, began time.Time) {
	t.packID, t.kind, t.method, t.to, t.began, t.span = packID, kind, r.Method, r.Destination, began, r.open.span
	r.Transfer = t
	c.under.mu.Lock()
	c.under.all[t] = struct{}{}
	c.under.mu.Unlock()
	c.metrics.streams[kind].Inc()
}

// end must be called before t is recorded or used for something else.
func (c *Recorder) end(t *Transfer) {
	c.under.mu.Lock()
	delete(c.under.all, t)
	c.under.mu.Unlock()
	c.metrics.streams[t.kind].Dec()
}

// SetKind changes what a transfer is counted as.
func (c *Recorder) SetKind(t *Transfer, kind Kind) {
	c.under.mu.Lock()
	defer c.under.mu.Unlock()
	c.metrics.streams[t.kind].Dec()
	t.kind = kind
	c.metrics.streams[t.kind].Inc()
}

// SetCounter has a transfer's bytes counted by a function from now on, which returns all so far.
func (c *Recorder) SetCounter(t *Transfer, counter func() (sent, received int64)) {
	c.under.mu.Lock()
	defer c.under.mu.Unlock()
	t.counter = counter
}

// Begin writes down that a transfer was decided on, if it has no entry yet, and waits until that is on the disk. Nothing of the transfer may
// happen if it fails.
func (c *Recorder) Begin(t *Transfer) error {
	c.under.mu.Lock()
	if !t.written.IsZero() {
		c.under.mu.Unlock()
		return nil
	}
	e := t.nextEntry(time.Now())
	c.under.mu.Unlock()
	return c.submit(e)()
}

// AddSent counts bytes that went to the server.
func (t *Transfer) AddSent(n int) { t.sent.Add(int64(n)) }

// AddReceived counts bytes that came from the server.
func (t *Transfer) AddReceived(n int) { t.received.Add(int64(n)) }

// Received is the counter of AddReceived.
func (t *Transfer) Received() *atomic.Int64 { return &t.received }

// Bytes are those that went to the server and came from it so far.
func (t *Transfer) Bytes() (sent, received int64) {
	if t.counter != nil {
		return t.counter()
	}
	return t.sent.Load(), t.received.Load()
}

// progressEntry is an entry about a transfer that goes on.
type progressEntry struct {
	requestID, packID string
	span              trace.Span
	entry             audit.Entry
}

// nextEntry returns t's next entry. The mutex must be held.
func (t *Transfer) nextEntry(now time.Time) progressEntry {
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
		sent, received := t.Bytes()
		if t.span != nil && t.span.IsRecording() {
			t.span.AddEvent(phase, trace.WithAttributes(semconv.HTTPRequestBodySize(int(sent)), semconv.HTTPResponseBodySize(int(received))))
		}
		attrs = append(attrs, slog.Float64("latency_ms", Milliseconds(now.Sub(t.began))), slog.Int64("bytes", received), slog.Int64("bytes_sent", sent))
	}
	return progressEntry{t.requestID, t.packID, t.span, audit.Entry{
		Category: audit.Network, Action: "network_request", Success: true, OwnerPack: t.packID, Phase: phase, Attrs: attrs,
	}}
}

func (c *Recorder) submit(e progressEntry) (wait func() error) {
	return c.cfg.Audit.Submit(trace.ContextWithSpan(withOrigin(e.packID, e.requestID), e.span), e.entry)
}

// countBytes adds to the metrics what moved since the last time; sent and received are all so far.
func (c *Recorder) countBytes(t *Transfer, sent, received int64) {
	if more := sent - t.counted.sent; more > 0 {
		c.metrics.sent.Add(float64(more))
		t.counted.sent = sent
	}
	if more := received - t.counted.received; more > 0 {
		c.metrics.received.Add(float64(more))
		t.counted.received = received
	}
}

// Observe brings the metrics up to what has moved, and writes the entries that are due at that time: of what has turned out to take long, and of
// what has lasted for another ProgressEvery. Run calls it once a second.
func (c *Recorder) Observe(now time.Time) {
	var due []progressEntry
	c.under.mu.Lock()
	for t := range c.under.all {
		sent, received := t.Bytes()
		c.countBytes(t, sent, received)
		since, after := t.written, ProgressEvery
		if since.IsZero() {
			since, after = t.began, BeginAfter
		}
		if now.Sub(since) >= after {
			due = append(due, t.nextEntry(now))
		}
	}
	c.under.mu.Unlock()
	waits := make([]func() error, len(due))
	for i, e := range due {
		waits[i] = c.submit(e)
	}
	for _, wait := range waits {
		_ = wait() // the audit log itself reports in the service's log what it couldn't write
	}
}

// UnderWay is one transfer under way, for tests.
type UnderWay struct {
	Kind           Kind
	Sent, Received int64
	Counter        bool // its bytes are counted by a function of SetCounter
}

// UnderWay returns the transfers under way.
func (c *Recorder) UnderWay() []UnderWay {
	c.under.mu.Lock()
	defer c.under.mu.Unlock()
	var all []UnderWay
	for t := range c.under.all {
		sent, received := t.Bytes()
		all = append(all, UnderWay{t.kind, sent, received, t.counter != nil})
	}
	return all
}

func (c *Recorder) observeAll(ctx context.Context) error {
	return periodic.Run(ctx, observeEvery, func(context.Context) { c.Observe(time.Now()) })
}
