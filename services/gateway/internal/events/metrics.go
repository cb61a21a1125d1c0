package events

import "github.com/prometheus/client_golang/prometheus"

// Metrics are those of event streams.
type Metrics struct {
	streams prometheus.Gauge
	ended   *prometheus.CounterVec
}

// NewMetrics registers them.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	m := &Metrics{
		streams: prometheus.NewGauge(prometheus.GaugeOpts{Name: "rumi_event_streams", Help: "Event streams (GET /api/events) under way."}),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rumi_event_streams_ended_total", Help: "Event streams that have ended, by reason: client, slow, session, shutdown, error.",
		}, []string{"reason"}),
	}
	registry.MustRegister(m.streams, m.ended)
	for _, r := range reasons {
		m.ended.WithLabelValues(string(r))
	}
	return m
}
