package edge

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/rumi-ai/rumi/libs/fault"
)

// Why the gateway itself refuses a request, as a label. What a service refuses is in its own metrics.
const (
	refusedMethod      = "method_not_allowed"
	refusedPath        = "not_found"
	refusedBody        = "body_too_large"
	refusedInvalid     = "invalid_request"
	refusedUnavailable = "tokens_unavailable"
	refusedFailed      = "failed"
)

// refusalCodes are the fault codes of refusals that are reasons of their own.
var refusalCodes = []string{"unauthorized", "too_many_failures", "rate_limited", "not_allowed", "origin_refused", "body_timeout"}

// refusalKinds are the reasons of all other faults.
var refusalKinds = map[fault.Kind]string{
	fault.KindMethod: refusedMethod, fault.KindNotFound: refusedPath, fault.KindTooLarge: refusedBody, fault.KindUnavailable: refusedUnavailable,
	fault.KindInternal: refusedFailed,
}

// refusals count the requests that the gateway refuses, by reason.
type refusals map[string]prometheus.Counter

func newRefusals(registry prometheus.Registerer) refusals {
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rumi_api_refusals_total", Help: "Requests that the gateway refused before any service had them, by reason.",
	}, []string{"reason"})
	registry.MustRegister(vec)
	all := make(refusals)
	for _, code := range refusalCodes {
		all[code] = vec.WithLabelValues(code)
	}
	for _, reason := range refusalKinds {
		all[reason] = vec.WithLabelValues(reason)
	}
	all[refusedInvalid] = vec.WithLabelValues(refusedInvalid)
	return all
}

func (r refusals) count(err error) {
	f := fault.Of(err)
	if c, ok := r[f.Code]; ok {
		c.Inc()
		return
	}
	if reason, ok := refusalKinds[f.Kind]; ok {
		r[reason].Inc()
		return
	}
	r[refusedInvalid].Inc()
}
