package httpapi

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/rumi-ai/rumi/libs/outcome"
)

// newChanges makes the counters of changes of the installed packs, by operation.
func newChanges(registry prometheus.Registerer) map[string]outcome.Counter {
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rumi_pack_changes_total", Help: "Changes of the installed packs that were asked for: ok, refused, cancelled, failed.",
	}, []string{"operation", "result"})
	registry.MustRegister(vec)
	all := make(map[string]outcome.Counter)
	for _, operation := range []string{"apply", "rollback", "uninstall"} {
		all[operation] = make(outcome.Counter)
		for _, result := range []string{outcome.OK, outcome.Refused, outcome.Canceled, outcome.Failed} {
			all[operation][result] = vec.WithLabelValues(operation, result)
		}
	}
	return all
}
