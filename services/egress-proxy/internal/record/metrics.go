package record

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/rumi-ai/rumi/libs/rpc/telemetry"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/decision"
)

// metrics counts requests. Labels are of fixed sets: no host and no pack is among them, since a pack could make up any number of either. All
// values are there from the start, and resolved: looking a child up by its labels would cost each request more than counting it.
type metrics struct {
	requests map[counted]prometheus.Counter
	duration prometheus.Histogram
	decision prometheus.Histogram
	received prometheus.Counter
	sent     prometheus.Counter
	streams  map[Kind]prometheus.Gauge
}

// counted is what a request is counted as.
type counted struct{ result, reason string }

// otherReason counts what is missing in the list of reasons. It stays 0: the tests of package egress fail where it doesn't.
const otherReason = "other"

func newMetrics(registry prometheus.Registerer) metrics {
	m := metrics{
		requests: requestCounters(registry),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "rumi_egress_request_duration_seconds",
			Help:    "Time from a request to the end of its answer, redirects included; without tunnels and upgraded connections.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 30, 120},
		}),
		decision: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "rumi_egress_decision_duration_seconds",
			Help:    "Time from a request that was read to the decision by gate, grant and rate; names are resolved after it.",
			Buckets: []float64{.000005, .00001, .000025, .00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .5, 2.5},
		}),
		received: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rumi_egress_received_bytes_total",
			Help: "Bytes that servers sent to packs: of bodies, and all in tunnels; of what lasts as they come.",
		}),
		sent: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rumi_egress_sent_bytes_total",
			Help: "Bytes that packs sent to servers: of bodies, and all in tunnels; what RUMI_EGRESS_DAILY_BYTES bounds.",
		}),
		streams: streamGauges(registry),
	}
	registry.MustRegister(m.duration, m.decision, m.received, m.sent)
	return m
}

func requestCounters(registry prometheus.Registerer) map[counted]prometheus.Counter {
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rumi_egress_requests_total",
		Help: "Requests of packs: allowed (answered by a server), denied (by policy) or failed, and why.",
	}, []string{"result", "reason"})
	registry.MustRegister(requests)
	all := make(map[counted]prometheus.Counter)
	add := func(result, reason string) { all[counted{result, reason}] = requests.WithLabelValues(result, reason) }
	add(resultAllowed, reasonOK)
	for _, reason := range decision.Reasons {
		add(resultDenied, reason)
	}
	for _, kind := range decision.FailedKinds {
		add(resultFailed, string(kind))
	}
	add(resultDenied, otherReason)
	add(resultFailed, otherReason)
	return all
}

func streamGauges(registry prometheus.Registerer) map[Kind]prometheus.Gauge {
	streams := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "rumi_egress_streams",
		Help: "Allowed requests under way, by how they came: frame, http, tunnel, websocket.",
	}, []string{"kind"})
	registry.MustRegister(streams)
	all := make(map[Kind]prometheus.Gauge)
	for _, kind := range []Kind{KindFrame, KindHTTP, KindTunnel, KindWebSocket} {
		all[kind] = streams.WithLabelValues(string(kind))
	}
	return all
}

func (m *metrics) countRequest(o outcome) {
	c := m.requests[counted{o.result, o.reason}]
	if c == nil {
		c = m.requests[counted{o.result, otherReason}]
	}
	c.Inc()
}

// Decided measures the decision about a request, which took so long since that was read. Its exemplar is the request's trace, if that was opened.
func (c *Recorder) Decided(r *Result, took time.Duration) {
	var span trace.SpanContext
	if r.open.span != nil {
		span = r.open.span.SpanContext()
	}
	telemetry.Observe(c.metrics.decision, span, took.Seconds())
}
