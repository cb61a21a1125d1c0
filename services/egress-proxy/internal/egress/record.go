package egress

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/decision"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/denials"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/grant"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/urlpath"
)

// meter counts requests. Labels are of fixed sets: no host and no pack is among them.
type meter struct {
	requests *prometheus.CounterVec
	duration prometheus.Histogram
	received prometheus.Counter
	sent     prometheus.Counter
	streams  map[string]prometheus.Gauge // by kind
}

func newMeter(registry prometheus.Registerer) meter {
	m := meter{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rumi_egress_requests_total",
			Help: "Requests of packs: allowed (answered by a server), denied (by policy) or failed, and why.",
		}, []string{"result", "reason"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "rumi_egress_request_duration_seconds",
			Help:    "Time from a request to the end of its answer, redirects included; without tunnels and upgraded connections.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 30, 120},
		}),
		received: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rumi_egress_received_bytes_total",
			Help: "Bytes that servers sent to packs: of bodies, and all in tunnels; of what lasts as they come.",
		}),
		sent: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rumi_egress_sent_bytes_total",
			Help: "Bytes that packs sent to servers: of bodies, and all in tunnels; what RUMI_EGRESS_DAILY_BYTES bounds.",
		}),
	}
	streams := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "rumi_egress_streams",
		Help: "Allowed requests under way, by how they came: frame, http, tunnel, websocket.",
	}, []string{"kind"})
	m.streams = make(map[string]prometheus.Gauge)
	for _, kind := range []string{kindFrame, kindHTTP, kindTunnel, kindWebSocket} {
		m.streams[kind] = streams.WithLabelValues(kind)
	}
	registry.MustRegister(m.requests, m.duration, m.received, m.sent, streams)
	return m
}

// scratch is memory for what record writes, kept so that a denial makes next to no garbage.
type scratch struct {
	details [12]slog.Attr
	line    [13]slog.Attr
	entries [2]audit.Entry
}

// record leaves a request's audit entry, its log line and its counts. A denial has an entry in security, too. The pack
// may be answered once wait has returned nil, which is when that is on the disk. A pack that is refused without end has
// its entries and lines counted (audit.Refusals).
func (k *pack) record(r *result) (wait func() error) {
	p := k.proxy
	outcome, reason := "allowed", "ok"
	allowed, url := true, ""
	if r.destination.Host.Name != "" {
		url = r.destination.Redacted()
	}
	entry := &r.scratch.entries[1]
	*entry = audit.Entry{Category: audit.Network, Action: "network_request", Success: true, OwnerPack: k.id}
	requestID := r.close(p)
	if requestID != "" {
		entry.Phase = "end"
	}
	var because slog.Attr
	cause := ""
	switch f := r.failure; {
	case f == nil:
	case f.Denied():
		outcome, reason, allowed = "denied", f.Reason, false
		p.cfg.Denials.Add(k.id, r.denial())
		because = slog.String("blocked_reason", f.Reason)
		entry.Success, entry.Severity, entry.RejectionReason = false, audit.Warning, f.Text
		if f.Detail != "" {
			entry.RejectionReason = f.Detail
		}
	default:
		outcome, reason = "failed", string(f.Kind)
		allowed = f.Kind != decision.KindValidation && f.Kind != decision.KindProtocol
		because, cause = slog.String("error_type", string(f.Kind)), f.Detail
		entry.Success, entry.Severity, entry.Error = false, audit.Warning, f.Text
	}
	details := append(r.scratch.details[:0],
		slog.String("domain", r.destination.Host.Name), slog.Int("port", int(r.destination.Port)), slog.Bool("allowed", allowed),
		slog.String("check_type", "proxy_request"), slog.String("method", r.call.method), slog.String("url", url),
		slog.Float64("latency_ms", milliseconds(r.latency)), slog.Int("redirect_hops", r.hops))
	if because.Key != "" {
		details = append(details, because)
	}
	if cause != "" {
		details = append(details, slog.String("cause", cause))
	}
	if r.status != 0 {
		details = append(details, slog.Int("status_code", r.status))
	}
	if r.failure == nil || r.received > 0 || r.sent > 0 {
		details = append(details, slog.Int64("bytes", r.received))
	}
	if r.overHTTP {
		details = append(details, slog.Int64("bytes_sent", r.sent))
	}
	entry.Attrs = details
	p.meter.requests.WithLabelValues(outcome, reason).Inc()
	if !r.unbounded {
		p.meter.duration.Observe(r.latency.Seconds())
	}
	if r.transfer == nil {
		p.meter.received.Add(float64(r.received))
		p.meter.sent.Add(float64(r.sent))
	} else {
		p.meterBytes(r.transfer, r.sent, r.received)
	}

	ctx, span := k.span(k.withOrigin(requestID), r)
	defer r.end(span, k.id, outcome, reason)
	alone := true
	switch outcome {
	case "allowed":
		wait = p.cfg.Audit.Submit(ctx, *entry)
	case "denied":
		r.scratch.entries[0] = *entry
		r.scratch.entries[0].Category, r.scratch.entries[0].Action, r.scratch.entries[0].Phase = audit.Security, "network_denied", ""
		wait, alone = p.denials.Submit(ctx, k.id, reason, r.scratch.entries[:]...)
	default:
		wait, alone = p.failures.Submit(ctx, k.id, reason, *entry)
	}
	if alone {
		k.log(ctx, r, outcome, reason)
	}
	return wait
}

// close ends what the request was as a transfer, and gives the request_id of the entries that it has left already; "" for none.
func (r *result) close(p *Proxy) (requestID string) {
	if r.transfer == nil {
		return ""
	}
	p.end(r.transfer)
	return r.transfer.requestID
}

// log writes the canonical line of a request. The record is made by hand, without the place in the code, which nobody is
// told and which is a part of what a denial costs.
func (k *pack) log(ctx context.Context, r *result, outcome, reason string) {
	h := k.proxy.cfg.Log.Handler()
	if !h.Enabled(ctx, slog.LevelInfo) {
		return
	}
	line := slog.NewRecord(time.Now(), slog.LevelInfo, "egress", 0)
	line.AddAttrs(append(r.scratch.line[:0],
		slog.String("pack_id", k.id), slog.String("result", outcome), slog.String("reason", reason),
		slog.String("method", r.call.method), slog.String("domain", r.destination.Host.Name), slog.Int("port", int(r.destination.Port)),
		slog.Int("status", r.status), slog.Int64("bytes", r.received), slog.Int64("bytes_sent", r.sent), slog.Int("redirect_hops", r.hops), slog.Float64("latency_ms", milliseconds(r.latency)))...)
	_ = h.Handle(ctx, line) // nobody could be told
}

// denial is the key under which a refused request is counted in the log of denials.
func (r *result) denial() denials.Key {
	key := denials.Key{Host: r.destination.Host.Name, Port: r.destination.Port, Method: r.call.method, Reason: r.failure.Reason}
	if r.destination.Host.Numeric {
		key.Host = "numeric form of " + key.Host // no host: a grant of the address doesn't open the spelling
	}
	if key.Reason == grant.RuleDenied {
		path, _, _ := strings.Cut(r.destination.Path, "?")
		key.Path = urlpath.Mask(path) // operators read denials, and proposals are made of them
	}
	return key
}
