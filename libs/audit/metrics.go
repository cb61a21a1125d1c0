package audit

import "github.com/prometheus/client_golang/prometheus"

// results are the values of the label result, by whether the entry could be written.
var results = map[bool]string{true: "ok", false: "failed"}

// writeBuckets begin far below a disk's sync: a write that isn't synced takes microseconds.
var writeBuckets = []float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10}

// metrics are those of all categories. Their children are found when the log is opened: some callers write ten thousands of entries a second.
type metrics struct {
	entries  *prometheus.CounterVec
	duration *prometheus.HistogramVec

	written, failed [len(categories)]prometheus.Counter
	took            [len(categories)]prometheus.Observer
}

func newMetrics() *metrics {
	m := &metrics{
		entries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rumi_audit_entries_total",
			Help: "Entries of the audit log, by category and result (ok, failed). What an entry that failed was about did not happen.",
		}, []string{"category", "result"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "rumi_audit_write_duration_seconds",
			Help:    "Time to write the entries of a category that wait together, and to sync them where the category is approval, permission or security.",
			Buckets: writeBuckets,
		}, []string{"category"}),
	}
	for c, category := range categories {
		if category.name != "" {
			m.written[c] = m.entries.WithLabelValues(category.name, results[true])
			m.failed[c] = m.entries.WithLabelValues(category.name, results[false])
			m.took[c] = m.duration.WithLabelValues(category.name)
		}
	}
	return m
}

// count counts an entry whose fate is known.
func (m *metrics) count(c Category, err error) {
	switch {
	case c.String() == "": // Write has refused it
	case err == nil:
		m.written[c].Inc()
	default:
		m.failed[c].Inc()
	}
}

// Describe implements prometheus.Collector.
func (l *Log) Describe(to chan<- *prometheus.Desc) {
	l.metrics.entries.Describe(to)
	l.metrics.duration.Describe(to)
}

// Collect implements prometheus.Collector.
func (l *Log) Collect(to chan<- prometheus.Metric) {
	l.metrics.entries.Collect(to)
	l.metrics.duration.Collect(to)
}
