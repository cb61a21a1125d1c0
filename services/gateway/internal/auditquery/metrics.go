package auditquery

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics of questions and of the index. Use NewMetrics.
type Metrics struct{ duration *prometheus.HistogramVec }

// Results of a question.
const (
	complete = "complete"
	partial  = "partial" // the time was over
	failed   = "failed"
)

// NewMetrics registers the metrics of a log.
func NewMetrics(to prometheus.Registerer, l *Log) *Metrics {
	m := &Metrics{prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "rumi_audit_query_duration_seconds",
		Help:    "How long questions to the audit log took; partial ones had no more time.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5},
	}, []string{"result"})}
	for _, result := range []string{complete, partial, failed} {
		m.duration.WithLabelValues(result)
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	counter := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, value)
	}
	x := l.index
	to.MustRegister(m.duration,
		gauge("rumi_audit_index_unindexed_bytes", "Bytes of the audit log that the index doesn't cover; questions read them directly.",
			func() float64 { return float64(x.Lag.Load()) }),
		gauge("rumi_audit_index_failing", "1 where the index of the audit log can't be kept up to date, else 0. Questions are answered from the log itself.",
			func() float64 {
				if x.Failing.Load() {
					return 1
				}
				return 0
			}),
		counter("rumi_audit_index_segments_built_total", "Segments of the audit log's index that were made.",
			func() float64 { return float64(x.Built.Load()) }),
		counter("rumi_audit_index_segments_rejected_total", "Segments of the audit log's index that were damaged or didn't fit the log, and are made anew.",
			func() float64 { return float64(x.Rejected.Load()) }))
	return m
}

// observe notes a question.
func (m *Metrics) observe(began time.Time, answer *Answer, err error) {
	if m == nil {
		return
	}
	result := complete
	switch {
	case err != nil:
		result = failed
	case !answer.Complete:
		result = partial
	}
	m.duration.WithLabelValues(result).Observe(time.Since(began).Seconds())
}
