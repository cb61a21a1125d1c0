package gate

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// measures are the metrics of a View.
type measures struct {
	age         prometheus.GaugeFunc
	gates       *prometheus.Desc
	propagation prometheus.Histogram
}

func newMeasures(v *View) measures {
	return measures{
		age: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "rumi_gate_age_seconds",
			Help: "Time since approval's stream of gates was last heard, or since the start where it never was. From 5 s on, the lease, all gates count as closed.",
		}, func() float64 { return v.age().Seconds() }),
		gates: prometheus.NewDesc("rumi_gates", "Gates of packs, by state (open, closed), as this service decides: without a fresh lease all are closed.", []string{"state"}, nil),
		propagation: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "rumi_gate_propagation_seconds",
			Help:    "Time from a change of gates at approval to the moment when this service decides by it. Changes while the stream was broken aren't counted.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}),
	}
}

// age is the time since the last message.
func (v *View) age() time.Duration {
	if last := v.lastMessage.Load(); last != nil {
		return time.Since(*last)
	}
	return time.Since(v.began)
}

// observe measures how long a change took to come. The clocks of two hosts may differ: what seems to come from the future took no time.
func (m measures) observe(changed time.Time) {
	if !changed.IsZero() {
		m.propagation.Observe(max(0, time.Since(changed).Seconds()))
	}
}

// Describe implements prometheus.Collector.
func (v *View) Describe(to chan<- *prometheus.Desc) {
	v.measures.age.Describe(to)
	to <- v.measures.gates
	v.measures.propagation.Describe(to)
}

// Collect implements prometheus.Collector.
func (v *View) Collect(to chan<- prometheus.Metric) {
	v.measures.age.Collect(to)
	v.measures.propagation.Collect(to)
	var open, closed float64
	for _, s := range v.All() {
		if s.Open {
			open++
		} else {
			closed++
		}
	}
	to <- prometheus.MustNewConstMetric(v.measures.gates, prometheus.GaugeValue, open, "open")
	to <- prometheus.MustNewConstMetric(v.measures.gates, prometheus.GaugeValue, closed, "closed")
}
