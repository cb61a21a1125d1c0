package service

import (
	"log/slog"
	"net/http"
	"runtime"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// registerMetrics registers what the metrics of all services have in common, beside those of the parts that register their own.
func (rt *Runtime) registerMetrics() {
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "rumi_build_info", Help: "Always 1. Its labels are the version, the Git revision (empty where the build didn't know it) and the Go version of the binary.",
		ConstLabels: prometheus.Labels{"version": Version(), "revision": revision(), "go_version": runtime.Version()},
	})
	info.Set(1)
	rt.Metrics.MustRegister(info, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
}

// metricsHandler serves the metrics: in OpenMetrics, with exemplars, to who asks for it, else in Prometheus' text format. A collector that
// fails costs its own metrics only.
func (rt *Runtime) metricsHandler() http.Handler {
	return promhttp.HandlerFor(rt.Metrics, promhttp.HandlerOpts{
		Registry: rt.Metrics, EnableOpenMetrics: true, ErrorHandling: promhttp.ContinueOnError, ErrorLog: slog.NewLogLogger(rt.Log.Handler(), slog.LevelWarn),
	})
}

// revision is the Git revision that the binary was built of; "" for a build that didn't know it.
func revision() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, setting := range info.Settings {
			if setting.Key == "vcs.revision" {
				return setting.Value
			}
		}
	}
	return ""
}
