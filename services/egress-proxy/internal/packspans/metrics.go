package packspans

import (
	"fmt"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// reason is why a span was not sent to the collector, or exported.
type reason int

// The reasons, in the order in which they are found.
const (
	exported     reason = iota
	invalid             // its ids are none
	unsampled           // the trace that it continues isn't recorded
	overLimit           // its request has too many
	rateLimited         // its pack sends too many
	queueFull           // its pack's share of the queue is used up
	collectorOff        // the collector went away
	failed              // the collector didn't take it
	reasons
)

func (r reason) String() string {
	return [reasons]string{"exported", "invalid", "unsampled", "over_limit", "rate_limited", "queue_full", "collector_off", "failed"}[r]
}

// rejections counts the spans of a request that were not taken.
type rejections [reasons]int

func (r rejections) total() (n int) {
	for _, m := range r {
		n += m
	}
	return n
}

// String is for a person: "2 invalid, 30 rate_limited".
func (r rejections) String() string {
	var all []string
	for why, n := range r {
		if n > 0 {
			all = append(all, fmt.Sprint(n, " ", reason(why)))
		}
	}
	return strings.Join(all, ", ")
}

type metrics struct {
	spans    [reasons]prometheus.Counter
	requests map[string]prometheus.Counter
}

func newMetrics(registry prometheus.Registerer) metrics {
	spans := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rumi_pack_spans_total",
		Help: "Spans that packs sent: exported to the collector, or dropped, and why.",
	}, []string{"result"})
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rumi_pack_span_requests_total",
		Help: "Requests of packs with spans of their own: taken, dropped since tracing is off, or refused, and why.",
	}, []string{"result"})
	m := metrics{requests: make(map[string]prometheus.Counter)}
	for r := range reasons {
		m.spans[r] = spans.WithLabelValues(r.String())
	}
	for _, r := range []string{"taken", "off", "gate_closed", "other_signal", "malformed", "too_large", "aborted", "rate_limited"} {
		m.requests[r] = requests.WithLabelValues(r)
	}
	registry.MustRegister(spans, requests)
	return m
}
