package call

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/rumi-ai/rumi/libs/rpc/telemetry"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/builtin"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/grant"
)

// denial is why a call was refused, as a label of the metrics. A refusal's reason is a text for people, and may have in it what a pack or an
// operator has chosen.
type denial string

// The denials.
const (
	gateClosed        denial = "gate_closed"
	noGrant           denial = "no_grant"
	grantRevoked      denial = "grant_revoked"
	grantExpired      denial = "grant_expired"
	grantUsedUp       denial = "grant_used_up"
	grantUnconfirmed  denial = "grant_unconfirmed"
	grantUnreadable   denial = "grant_unreadable"
	grantSuspended    denial = "grant_suspended"
	grantChanged      denial = "grant_changed"
	parentRestricts   denial = "parent_restricts"
	argsRefused       denial = "args_refused"
	configRefused     denial = "config_refused"
	notInConfig       denial = "not_in_config" // a secret's key or a store that the grant doesn't name, or that isn't there
	noHandler         denial = "no_handler"
	handlerNotTrusted denial = "handler_not_trusted"
	handlerGateClosed denial = "handler_gate_closed"
	handlerChanged    denial = "handler_changed"
	rateExceeded      denial = "rate_exceeded"
	workersBusy       denial = "workers_busy"
	workersPaused     denial = "workers_paused"
	otherDenial       denial = "other" // stays 0: what is missing in grantDenials, or has no denial set
)

var denials = []denial{
	gateClosed, noGrant, grantRevoked, grantExpired, grantUsedUp, grantUnconfirmed, grantUnreadable, grantSuspended, grantChanged, parentRestricts,
	argsRefused, configRefused, notInConfig, noHandler, handlerNotTrusted, handlerGateClosed, handlerChanged, rateExceeded, workersBusy, workersPaused, otherDenial,
}

// grantDenials are the reasons of grants by what they begin with: those of a chain name the parent behind it.
var grantDenials = []struct {
	prefix grant.Reason
	is     denial
}{
	{grant.None, noGrant}, {grant.Disabled, grantRevoked}, {grant.Expired, grantExpired}, {grant.UsedUp, grantUsedUp},
	{grant.Unknown, grantUnconfirmed}, {grant.Unreadable, grantUnreadable}, {grant.Changed, grantChanged}, {grant.Suspended, grantSuspended},
}

// denialOf classifies why a chain of grants allows nothing. What isn't about one grant is about two: the parent has less.
func denialOf(reason grant.Reason) denial {
	for _, d := range grantDenials {
		if strings.HasPrefix(string(reason), string(d.prefix)) {
			return d.is
		}
	}
	return parentRestricts
}

// results are all error types of calls, with those of outputs.
var results = []errorType{
	ok, invalidRequest, validationError, protocolError, grantDenied, trustDenied, handlerNotFound, rateLimited, executionError, timedOut,
	responseTooLarge, accessDenied, errorType(builtin.TooLarge), errorType(builtin.Full), errorType(builtin.NoKey), errorType(builtin.Conflict), otherResult,
}

// Results that no answer has as its error_type.
const (
	ok          errorType = "ok"
	otherResult errorType = "other" // stays 0: what is missing in results
)

// metrics are those of calls. All children are made at the start: a scrape shows each from then on, and a call looks none up.
type metrics struct {
	calls    map[errorType]prometheus.Counter
	denials  map[denial]prometheus.Counter
	duration prometheus.Histogram
	decision prometheus.Histogram
}

func newMetrics(registry prometheus.Registerer) metrics {
	calls := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rumi_capability_calls_total",
		Help: "Calls over capability sockets, by result: ok or the error type.",
	}, []string{"result"})
	denied := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rumi_capability_denials_total",
		Help: "Calls over capability sockets that were refused, by reason.",
	}, []string{"reason"})
	m := metrics{
		calls: make(map[errorType]prometheus.Counter), denials: make(map[denial]prometheus.Counter),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "rumi_capability_call_duration_seconds",
			Help:    "Time from a call's frame to its answer.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .5, 1, 5, 30, 120},
		}),
		decision: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "rumi_capability_decision_duration_seconds",
			Help:    "Time from a call's frame that was read to the decision by gate, grants, rate and arguments; workers are waited for after it.",
			Buckets: []float64{.000005, .00001, .000025, .00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .5, 2.5},
		}),
	}
	for _, result := range results {
		m.calls[result] = calls.WithLabelValues(string(result))
	}
	for _, d := range denials {
		m.denials[d] = denied.WithLabelValues(string(d))
	}
	registry.MustRegister(calls, denied, m.duration, m.decision)
	return m
}

// count counts a call that was answered; refused is nil for a success.
func (m *metrics) count(refused *refusal) (result errorType) {
	result = ok
	if refused != nil {
		result = refused.kind
		if refused.denied() {
			m.countDenial(refused.why)
		}
	}
	if m.calls[result] == nil {
		result = otherResult
	}
	m.calls[result].Inc()
	return result
}

func (m *metrics) countDenial(why denial) {
	if m.denials[why] == nil {
		why = otherDenial
	}
	m.denials[why].Inc()
}

func (m *metrics) answered(span trace.Span, took time.Duration) {
	telemetry.Observe(m.duration, span.SpanContext(), took.Seconds())
}

func (m *metrics) decided(span trace.Span, took time.Duration) {
	telemetry.Observe(m.decision, span.SpanContext(), took.Seconds())
}
