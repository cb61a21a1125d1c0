package client

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/rumi-ai/rumi/libs/metric"
)

// Metrics are the metrics that all peers of a process share. They are registered for the first peer: a service that calls no other has none.
type Metrics struct {
	registry prometheus.Registerer
	once     sync.Once
	duration *metric.DurationsVec
	open     *prometheus.GaugeVec
}

// NewMetrics makes the Metrics of a registry.
func NewMetrics(registry prometheus.Registerer) *Metrics { return &Metrics{registry: registry} }

func (m *Metrics) register() {
	m.duration = metric.NewDurationsVec(m.registry, prometheus.HistogramOpts{
		Name:    "rumi_peer_request_duration_seconds",
		Help:    "Time from a request to another service to the beginning of its answer, by service and result (ok, unavailable, cancelled). What the service answered, a failure of its own among it, is ok.",
		Buckets: metric.Latency,
	}, "peer", "result")
	m.open = promauto.With(m.registry).NewGaugeVec(prometheus.GaugeOpts{
		Name: "rumi_peer_circuit_open",
		Help: "Circuit breakers that are open: instances of another service that aren't called, or by one trial call only, because the last calls failed.",
	}, []string{"peer"})
}

// peerMetrics are the series of one peer, found once: each request would look them up otherwise.
type peerMetrics struct {
	ok, unavailable, cancelled *metric.Durations
	circuitOpen                prometheus.Gauge
}

func (m *Metrics) of(peer string) peerMetrics {
	m.once.Do(m.register)
	return peerMetrics{
		ok: m.duration.With(peer, "ok"), unavailable: m.duration.With(peer, "unavailable"), cancelled: m.duration.With(peer, "cancelled"),
		circuitOpen: m.open.WithLabelValues(peer),
	}
}
