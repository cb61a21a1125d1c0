package installer

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/rumi-ai/rumi/libs/candidate"
	"github.com/rumi-ai/rumi/libs/outcome"
)

func newInstalls(registry prometheus.Registerer) *outcome.Operations {
	return outcome.New(registry, outcome.Config{
		Total:        "rumi_installs_total",
		TotalHelp:    "Approved locks that were to be installed: ok, refused (the lock or the pack isn't what was approved), cancelled, failed (also where an index can't be reached or a package can't be built).",
		Duration:     "rumi_install_duration_seconds",
		DurationHelp: "Time to install a lock, waiting for other installs included.",
		Buckets:      []float64{1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1200},
		Results:      []string{outcome.OK, outcome.Refused, outcome.Canceled, outcome.Failed},
	})
}

// installResult is what became of an install. One that made its candidate failed counts as failed, whoever has to mend it.
func installResult(err error) string {
	if candidate.IsInstallFailed(err) {
		return outcome.Failed
	}
	return outcome.Of(err)
}
