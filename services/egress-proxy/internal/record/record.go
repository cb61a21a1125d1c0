// Package record leaves the traces of each request of a pack: its audit entries, a line in the service's log, counts in the metrics, a span, and
// for a refused request a denial that operators are shown.
//
// The audit entry is the promise: no request is answered before its entry is on the disk, and what can't be written down doesn't happen.
package record

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/packtrace"
	"github.com/rumi-ai/rumi/libs/rpc/telemetry"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/decision"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/denials"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/grant"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/urlpath"
)

// Config is where a Recorder writes to.
type Config struct {
	Denials  *denials.Log
	Refusals int // denied or failed requests of a pack that have audit entries of their own, a day; 0 for any number
	Audit    audit.Submitter
	Log      *slog.Logger
	Metrics  prometheus.Registerer
	Tracer   trace.Tracer
	Border   packtrace.Border
}

// Recorder records the requests of all packs. Use New.
type Recorder struct {
	cfg     Config
	metrics metrics
	under   transfers

	denied, failed *audit.Refusals // bound how many of a pack's requests have entries of their own
}

// New returns a recorder. It registers metrics: there can be one for each registry.
func New(cfg Config) *Recorder {
	return &Recorder{
		cfg: cfg, metrics: newMetrics(cfg.Metrics), under: transfers{all: make(map[*Transfer]struct{})},
		denied: audit.NewRefusals(cfg.Audit, cfg.Refusals, cfg.Log), failed: audit.NewRefusals(cfg.Audit, cfg.Refusals, cfg.Log),
	}
}

// Run writes the per-second summaries of refusals beyond the daily limit of single entries, and follows the transfers under way, until ctx ends.
func (c *Recorder) Run(ctx context.Context) error {
	all, ctx := errgroup.WithContext(ctx)
	all.Go(func() error { return c.denied.Run(ctx) })
	all.Go(func() error { return c.failed.Run(ctx) })
	all.Go(func() error { return c.observeAll(ctx) })
	return all.Wait()
}

// Flush writes the summaries of what was refused since Run wrote them last. Call it once packs ask for nothing any more.
func (c *Recorder) Flush(ctx context.Context) error {
	return errors.Join(c.denied.Flush(ctx), c.failed.Flush(ctx))
}

// Result is the outcome of a request. Its zero value is of a request of which nothing is known.
type Result struct {
	Method      string               // "" for one that isn't allowed or couldn't be read
	Destination decision.Destination // of the last hop; zero where it couldn't be read
	Hops        int                  // redirects that were followed
	Failure     *decision.Failure    // nil for a request that its server answered
	Latency     time.Duration
	Status      int               // of the answer; 0 for none
	Received    int64             // bytes from the server: of the body, or of a tunnel
	Sent        int64             // bytes to the server: of bodies, and all in a tunnel
	OverHTTP    bool              // came as plain HTTP, not in a frame
	HTTP2       bool              // the server answered over HTTP/2
	Unbounded   bool              // a tunnel or an upgraded connection: it lasts for as long as the pack wants, and isn't counted in the durations
	Trace       packtrace.Context // as the pack sent it
	Transfer    *Transfer         // nil for a request that wasn't allowed

	open    opened
	scratch scratch
}

// Request is the request that a record is about.
func (r *Result) Request(hasBody bool) decision.Request {
	return decision.Request{Method: r.Method, To: r.Destination, HasBody: hasBody}
}

// scratch is memory for what Record writes. It lies in the Result, which callers reuse, so that a denial makes next to no garbage: a pack can
// have itself denied tens of thousands of times a second.
type scratch struct {
	details [12]slog.Attr
	line    [13]slog.Attr
	entries [2]audit.Entry
}

// The results of requests, and the reason of one that was allowed.
const (
	resultAllowed = "allowed"
	resultDenied  = "denied"
	resultFailed  = "failed"
	reasonOK      = "ok"
)

// outcome is a Result in the words of metrics, log and audit.
type outcome struct {
	result  string // "allowed", "denied" or "failed"
	reason  string // "ok", a blocked_reason or an error_type
	allowed bool   // as the audit log has it: whether the request was let through to its server
	because slog.Attr
	cause   string
}

func outcomeOf(f *decision.Failure) outcome {
	switch {
	case f == nil:
		return outcome{result: resultAllowed, reason: reasonOK, allowed: true}
	case f.Denied():
		return outcome{result: resultDenied, reason: f.Reason, because: slog.String("blocked_reason", f.Reason)}
	}
	return outcome{
		result: resultFailed, reason: string(f.Kind), allowed: f.Kind != decision.KindValidation && f.Kind != decision.KindProtocol,
		because: slog.String("error_type", string(f.Kind)), cause: f.Detail,
	}
}

// Record leaves a request's audit entry, its log line, its counts and its span, and ends its transfer. A denial has an entry in security, too.
// The pack may be answered once wait has returned nil: then the entry is on the disk. The entries and log lines of a pack that is refused without
// end are counted instead of written (audit.Refusals).
func (c *Recorder) Record(packID string, r *Result) (wait func() error) {
	requestID := ""
	if r.Transfer != nil {
		c.end(r.Transfer)
		requestID = r.Transfer.requestID
	}
	o := outcomeOf(r.Failure)
	entry := &r.scratch.entries[1]
	*entry = r.entry(packID, o)
	if requestID != "" { // it has an entry of its beginning
		entry.Phase = "end"
	}
	if o.result == resultDenied {
		c.cfg.Denials.Add(packID, r.denial())
	}
	if r.open.span == nil {
		r.open = c.start(packID, r.Trace, time.Now().Add(-r.Latency))
	}
	span, requestID := r.open.span, cmp.Or(requestID, origin.NewRequestID())
	ctx := trace.ContextWithSpan(withOrigin(packID, requestID), span)
	defer r.endSpan(span, packID, requestID, o)
	c.count(r, o, span.SpanContext())
	entries, individually := r.scratch.entries[1:], true
	if o.result == resultDenied {
		r.scratch.entries[0] = *entry
		r.scratch.entries[0].Category, r.scratch.entries[0].Action, r.scratch.entries[0].Phase = audit.Security, "network_denied", ""
		entries = r.scratch.entries[:]
	}
	switch {
	case o.result == resultAllowed, entry.Phase != "": // what has an entry of its beginning must have one of its end, however many there are
		wait = c.cfg.Audit.Submit(ctx, entries...)
	case o.result == resultDenied:
		wait, individually = c.denied.Submit(ctx, packID, o.reason, entries...)
	default:
		wait, individually = c.failed.Submit(ctx, packID, o.reason, entries...)
	}
	if individually {
		c.log(ctx, packID, r, o)
	}
	return wait
}

// entry is the request's audit entry. Its attributes lie in r.scratch.
func (r *Result) entry(packID string, o outcome) audit.Entry {
	url := ""
	if r.Destination.Host.Name != "" {
		url = r.Destination.Redacted()
	}
	e := audit.Entry{Category: audit.Network, Action: "network_request", Success: true, OwnerPack: packID}
	switch f := r.Failure; o.result {
	case resultDenied:
		e.Success, e.Severity, e.RejectionReason = false, audit.Warning, cmp.Or(f.Detail, f.Text)
	case resultFailed:
		e.Success, e.Severity, e.Error = false, audit.Warning, f.Text
	}
	details := append(r.scratch.details[:0],
		slog.String("domain", r.Destination.Host.Name), slog.Int("port", int(r.Destination.Port)), slog.Bool("allowed", o.allowed),
		slog.String("check_type", "proxy_request"), slog.String("method", r.Method), slog.String("url", url),
		slog.Float64("latency_ms", Milliseconds(r.Latency)), slog.Int("redirect_hops", r.Hops))
	if o.because.Key != "" {
		details = append(details, o.because)
	}
	if o.cause != "" {
		details = append(details, slog.String("cause", o.cause))
	}
	if r.Status != 0 {
		details = append(details, slog.Int("status_code", r.Status))
	}
	if r.Failure == nil || r.Received > 0 || r.Sent > 0 {
		details = append(details, slog.Int64("bytes", r.Received))
	}
	if r.OverHTTP {
		details = append(details, slog.Int64("bytes_sent", r.Sent))
	}
	e.Attrs = details
	return e
}

// count brings the metrics up to a request that is over.
func (c *Recorder) count(r *Result, o outcome, span trace.SpanContext) {
	c.metrics.countRequest(o)
	if !r.Unbounded {
		telemetry.Observe(c.metrics.duration, span, r.Latency.Seconds())
	}
	if t := r.Transfer; t != nil {
		sent, received := r.Sent, r.Received
		if t.kind == KindFrame { // with the bodies of redirects, and of answers that were not passed on
			sent, received = t.Bytes()
		}
		c.countBytes(t, sent, received)
		return
	}
	c.metrics.received.Add(float64(r.Received))
	c.metrics.sent.Add(float64(r.Sent))
}

// log writes the canonical line of a request. The record is made by hand, without the line of code that logs: nobody needs it, and finding it is
// a part of what a denial costs.
func (c *Recorder) log(ctx context.Context, packID string, r *Result, o outcome) {
	h := c.cfg.Log.Handler()
	if !h.Enabled(ctx, slog.LevelInfo) {
		return
	}
	line := slog.NewRecord(time.Now(), slog.LevelInfo, "egress", 0)
	line.AddAttrs(append(r.scratch.line[:0],
		slog.String("pack_id", packID), slog.String("result", o.result), slog.String("reason", o.reason),
		slog.String("method", r.Method), slog.String("domain", r.Destination.Host.Name), slog.Int("port", int(r.Destination.Port)),
		slog.Int("status", r.Status), slog.Int64("bytes", r.Received), slog.Int64("bytes_sent", r.Sent), slog.Int("redirect_hops", r.Hops),
		slog.Float64("duration_seconds", r.Latency.Seconds()))...)
	_ = h.Handle(ctx, line) // there is nowhere else to report that to
}

// denial is how a denied request is shown to operators.
func (r *Result) denial() denials.Key {
	key := denials.Key{Host: r.Destination.Host.Name, Port: r.Destination.Port, Method: r.Method, Reason: r.Failure.Reason}
	if r.Destination.Host.Numeric {
		key.Host = "numeric form of " + key.Host // no host: a grant of the address doesn't open the spelling
	}
	if key.Reason == grant.RuleDenied {
		path, _, _ := strings.Cut(r.Destination.Path, "?")
		key.Path = urlpath.Mask(path) // operators read denials, and proposals of grants are made of them
	}
	return key
}

// withOrigin returns a context that says whose doing an entry is: the pack's, in the request of that id.
func withOrigin(packID, requestID string) context.Context {
	return origin.With(context.Background(), origin.Origin{RequestID: requestID, Actor: "pack:" + packID})
}

// Milliseconds is a duration as answers, log and audit have it, with three decimals.
func Milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
