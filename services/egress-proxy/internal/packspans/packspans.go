// Package packspans takes the spans that packs make themselves (OpenTelemetry, OTLP over HTTP), and passes on to the collector what is left of them
// once they are bounded and labelled.
//
// A pack is hostile, and so is every byte of its spans. Three things must hold. A flood of them costs others nothing: each pack has a rate, a share
// of the queue and a few requests at once, and what is read of them is bounded before it is decoded. They say whose they are: the resource is
// Rumi's, with rumi.untrusted, and nothing of the pack's can look like it. And they are in the pack's own traces, or in a trace that Rumi handed to
// this pack (packtrace), never in another one.
//
// Spans are no egress requests: no grant is needed for them, they have no audit entries, and they leave by no connection that a pack could name.
package packspans

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"github.com/rumi-ai/rumi/libs/packtrace"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/decision"
)

// Bounds of requests.
const (
	maxBody     = 2 << 20 // bytes as they came
	maxDecoded  = 4 << 20 // bytes once gzip is undone
	maxRequests = 4       // of one pack at once; the next one waits
	maxDecoding = 2       // of all packs at once: what bounds the memory of decoding
	bytesASpan  = 4 << 10 // a longer request costs as many spans of the rate as its bytes make up
	burst       = 2048    // spans that may come at once: what libraries queue at most
	idleRate    = 100     // spans a second and pack where all are dropped: reading costs something, too
	// refusalDelay holds back the answer to a pack that is over its rate. With maxRequests it bounds how often such a pack is answered: a library
	// doesn't notice, and a flood costs next to no time.
	refusalDelay = 200 * time.Millisecond
	warnEvery    = time.Minute // how often the log says that spans of a pack were dropped
)

// Config has the parts of an Intake.
type Config struct {
	Key     *packtrace.Key
	Rate    int // spans a second and pack; 0 takes none
	Traces  Traces
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Traces is where spans go: see package tracing.
type Traces interface {
	// Collected says whether there is a collector now.
	Collected() bool
	// Samples says whether a new trace of that id is recorded.
	Samples(id trace.TraceID) bool
	// Upload sends spans to the collector.
	Upload(ctx context.Context, spans []*tracepb.ResourceSpans) error
}

// Intake takes the spans of all packs. Use New.
type Intake struct {
	cfg      Config
	metrics  metrics
	queue    *queue
	decoding *semaphore.Weighted

	mu    sync.Mutex
	packs map[string]*pack
}

// pack is what is kept of one that has sent spans.
type pack struct {
	id       string
	tokens   *rate.Limiter
	requests chan struct{} // holds one element for each request

	// decoding keeps a pack to one request that is decoded: so the line for Intake.decoding, first come first served, is one of packs.
	decoding sync.Mutex
	warned   time.Time // guarded by decoding
}

// New returns an intake. It registers metrics: there can be one for each registry. Run must run for spans to leave.
func New(cfg Config) *Intake {
	return &Intake{
		cfg: cfg, metrics: newMetrics(cfg.Metrics), queue: newQueue(), decoding: semaphore.NewWeighted(maxDecoding), packs: make(map[string]*pack),
	}
}

// Forget drops what is kept of a pack, which was uninstalled. Its spans that wait are still sent.
func (i *Intake) Forget(packID string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.packs, packID)
}

func (i *Intake) pack(id string) *pack {
	i.mu.Lock()
	defer i.mu.Unlock()
	p := i.packs[id]
	if p == nil {
		limit := cmp.Or(i.cfg.Rate, idleRate)
		p = &pack{id: id, tokens: rate.NewLimiter(rate.Limit(limit), max(burst, limit)), requests: make(chan struct{}, maxRequests)}
		i.packs[id] = p
	}
	return p
}

// Answer is the answer to a request with spans.
type Answer struct {
	Status      int
	ContentType string
	RetryAfter  time.Duration // 0 for none
	Body        []byte
}

// refusal is why an answer isn't 200.
type refusal struct {
	status int
	result string // of the metric
	text   string // for the author of the pack
	wait   time.Duration
}

// Refusals that are always the same.
var (
	errMalformed  = &refusal{status: http.StatusBadRequest, result: "malformed", text: "Spans are not well-formed"}
	errTooMany    = &refusal{status: http.StatusBadRequest, result: "too_large", text: "Spans have too many parts, or too deep ones: export smaller batches"}
	errClientLeft = &refusal{status: http.StatusBadRequest, result: "aborted", text: "Request body ended early"}
)

// Serve answers a request of a pack whose path is /v1/traces, /v1/metrics or /v1/logs. gate is why the pack may not run, nil if it may. ctx ends when
// the client leaves. The body is read as far as it is wanted.
func (i *Intake) Serve(ctx context.Context, packID string, gate func() *decision.Failure, in *http.Request) Answer {
	format := formatOf(in.Header)
	var rejected rejections
	refused := checkRequest(gate(), in)
	if refused == nil {
		rejected, refused = i.take(ctx, packID, gate, format, in)
	}
	if refused == nil {
		return format.success(rejected)
	}
	i.metrics.requests[refused.result].Inc()
	return format.failure(refused)
}

// checkRequest refuses what can be refused without a look at the pack.
func checkRequest(gate *decision.Failure, in *http.Request) *refusal {
	signal := strings.TrimPrefix(in.URL.Path, "/v1/")
	switch {
	case gate != nil:
		return &refusal{status: http.StatusForbidden, result: "gate_closed", text: gate.Text}
	case signal != "traces": // 404 isn't tried again, by the specification of OTLP
		return &refusal{status: http.StatusNotFound, result: "other_signal", text: "Rumi takes spans of packs, no " + signal + ": set OTEL_" + strings.ToUpper(signal) + "_EXPORTER=none"}
	case formatOf(in.Header) == unknown:
		return &refusal{status: http.StatusUnsupportedMediaType, result: "malformed", text: "Content-Type must be application/x-protobuf or application/json"}
	case in.ContentLength > maxBody:
		return tooLarge(maxBody)
	}
	return nil
}

func tooLarge(most int) *refusal {
	return &refusal{status: http.StatusRequestEntityTooLarge, result: "too_large", text: fmt.Sprintf("Spans of more than %d bytes in one request: export smaller batches", most)}
}

// take takes the spans of a request, once it is the request's turn.
func (i *Intake) take(ctx context.Context, packID string, gate func() *decision.Failure, format format, in *http.Request) (rejections, *refusal) {
	p := i.pack(packID)
	select {
	case p.requests <- struct{}{}:
	case <-ctx.Done():
		return rejections{}, errClientLeft
	}
	defer func() { <-p.requests }()
	if p.tokens.Tokens() < 1 {
		return rejections{}, limited(ctx)
	}
	body, refused := read(in.Body, maxBody)
	if refused != nil {
		return rejections{}, refused
	}
	if f := gate(); f != nil { // it may have closed while the body came
		return rejections{}, checkRequest(f, in)
	}
	if i.cfg.Rate == 0 || !i.cfg.Traces.Collected() {
		p.charge(len(body))
		i.metrics.requests["off"].Inc()
		return rejections{}, nil
	}
	return i.decode(ctx, p, format, in, body)
}

// limited is the refusal of a pack that is over its rate, after refusalDelay.
func limited(ctx context.Context) *refusal {
	timer := time.NewTimer(refusalDelay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return &refusal{status: http.StatusTooManyRequests, result: "rate_limited", text: "Too many spans: they are bounded for each pack", wait: time.Second}
}

// charge takes from the pack's rate what n bytes cost, and returns it in spans. The bytes were read already, so it may take more than is left.
func (p *pack) charge(n int) (cost int) {
	cost = max(1, n/bytesASpan)
	p.tokens.ReserveN(time.Now(), min(cost, p.tokens.Burst()))
	return cost
}

// decode decodes, bounds and queues the spans of one request.
func (i *Intake) decode(ctx context.Context, p *pack, format format, in *http.Request, body []byte) (rejections, *refusal) {
	p.decoding.Lock()
	defer p.decoding.Unlock()
	if err := i.decoding.Acquire(ctx, 1); err != nil {
		return rejections{}, errClientLeft
	}
	defer i.decoding.Release(1)
	plain, refused := decompress(in.Header.Get("Content-Encoding"), body)
	paid := p.charge(max(len(plain), len(body)))
	if refused != nil {
		return rejections{}, refused
	}
	request, refused := format.decode(plain)
	if refused != nil {
		return rejections{}, refused
	}
	now := time.Now()
	r := &rewriter{packID: p.id, key: i.cfg.Key, samples: i.cfg.Traces.Samples, now: now, allowed: paid + max(0, int(math.Floor(p.tokens.TokensAt(now))))}
	kept := r.rewrite(request.GetResourceSpans())
	p.tokens.ReserveN(now, min(max(0, r.kept-paid), p.tokens.Burst()))
	i.metrics.requests["taken"].Inc()
	i.enqueue(p, kept, &r.rejected)
	i.report(p, r.rejected, now)
	return r.rejected, nil
}

// enqueue queues spans, as far as there is room.
func (i *Intake) enqueue(p *pack, kept []*tracepb.ResourceSpans, rejected *rejections) {
	for _, spans := range kept {
		one := newBatch(spans)
		evicted, ok := i.queue.push(p.id, one)
		i.metrics.spans[queueFull].Add(float64(evicted))
		if !ok {
			rejected[queueFull] += one.spans
		}
	}
}

// report counts the rejected spans, and says in the log that there are some.
func (i *Intake) report(p *pack, rejected rejections, now time.Time) {
	for why, n := range rejected {
		i.metrics.spans[why].Add(float64(n))
	}
	if rejected.total() > 0 && now.Sub(p.warned) >= warnEvery {
		p.warned = now
		i.cfg.Log.Warn("spans of a pack were dropped", "pack_id", p.id, "reasons", rejected.String())
	}
}

// read reads a body of at most so many bytes. What fails is the connection.
func read(body io.Reader, most int) ([]byte, *refusal) {
	b, err := io.ReadAll(io.LimitReader(body, int64(most)+1))
	switch {
	case err != nil:
		return nil, errClientLeft
	case len(b) > most:
		return nil, tooLarge(most)
	}
	return b, nil
}
