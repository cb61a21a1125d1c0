package record

import "github.com/prometheus/client_golang/prometheus"

// metrics counts requests. Labels are of fixed sets: no host and no pack is among them, since a pack could make up any number of either.
type metrics struct {
	requests *prometheus.CounterVec
	duration prometheus.Histogram
	received prometheus.Counter
	sent     prometheus.Counter
	streams  map[Kind]prometheus.Gauge
}

func newMetrics(registry prometheus.Registerer) metrics {
	m := metrics{
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
	m.streams = make(map[Kind]prometheus.Gauge)
	for _, kind := range []Kind{KindFrame, KindHTTP, KindTunnel, KindWebSocket} {
		m.streams[kind] = streams.WithLabelValues(string(kind))
	}
	registry.MustRegister(m.requests, m.duration, m.received, m.sent, streams)
	return m
}
