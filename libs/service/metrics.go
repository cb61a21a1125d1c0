package service

import (
	"context"
	"log/slog"
	"net/http"
	"runtime"
	"runtime/debug"
	"slices"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/expfmt"
	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/roster"
	"github.com/rumi-ai/rumi/libs/route"
)

// registerMetrics registers what the metrics of all services have in common, beside those of the parts that register their own.
func (rt *Runtime) registerMetrics() {
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "rumi_build_info", Help: "Always 1. Its labels are the version, the Git revision (empty where the build didn't know it) and the Go version of the binary.",
		ConstLabels: prometheus.Labels{"version": Version(), "revision": revision(), "go_version": runtime.Version()},
	})
	info.Set(1)
	rt.Metrics.MustRegister(info, conditions{rt}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
}

// metricsHandler serves the metrics: in OpenMetrics, with exemplars, to who asks for it, else in Prometheus' text format. A collector that
// fails costs its own metrics only.
func (rt *Runtime) metricsHandler() http.Handler {
	return promhttp.HandlerFor(rt.Metrics, promhttp.HandlerOpts{
		Registry: rt.Metrics, EnableOpenMetrics: true, ErrorHandling: promhttp.ContinueOnError, ErrorLog: slog.NewLogLogger(rt.Log.Handler(), slog.LevelWarn),
	})
}

// MetricsOf is the endpoint of the named service that answers its metrics to the gateway, in Prometheus' delimited protobufs: exemplars stay, and
// they are read faster than text. Every service has it, as it has ReadyOf.
func MetricsOf(owner string) route.Endpoint[struct{}, route.Stream] {
	return route.Internal[struct{}, route.Stream]("GET", "/internal/metrics", owner, roster.Gateway)
}

// answerMetrics answers MetricsOf.
func (rt *Runtime) answerMetrics(w http.ResponseWriter, r *http.Request) error {
	families, err := rt.Metrics.Gather()
	if err != nil { // of some collector; the others' metrics are there
		rt.Log.WarnContext(r.Context(), "could not gather all metrics", "error", err)
	}
	format := expfmt.NewFormat(expfmt.TypeProtoDelim)
	w.Header().Set("Content-Type", string(format))
	to := expfmt.NewEncoder(w, format)
	for _, f := range families {
		if err := to.Encode(f); err != nil {
			return err
		}
	}
	return nil
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

// disk is the disk of a folder.
type disk struct {
	folder string                        // names it in metrics
	seen   atomic.Pointer[unix.Statfs_t] // by the last check; nil where it can't be told
}

var (
	readyDesc     = prometheus.NewDesc("rumi_ready", "1 if the service is ready: all of its conditions are met.", nil, nil)
	conditionDesc = prometheus.NewDesc("rumi_condition_ready", "1 if a condition that the service needs for its work is met. GET /api/health says of one that isn't what to do.", []string{"condition"}, nil)
	diskFreeDesc  = prometheus.NewDesc("rumi_disk_free_bytes", "Bytes that the service can still write to the disk that has the folder.", []string{"folder"}, nil)
	diskSizeDesc  = prometheus.NewDesc("rumi_disk_size_bytes", "Size of the disk that has the folder.", []string{"folder"}, nil)
)

// conditions is the collector of a service's readiness. It runs the checks, at most one run at a time and bounded as Readiness is: a
// disk that hangs must not make the other metrics hang.
type conditions struct{ rt *Runtime }

// Describe implements prometheus.Collector.
func (c conditions) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{readyDesc, conditionDesc, diskFreeDesc, diskSizeDesc} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (c conditions) Collect(to chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	answer := c.rt.Readiness(context.Background())
	gauge(readyDesc, number(answer.Ready))
	for _, check := range answer.Checks {
		gauge(conditionDesc, number(check.OK), check.Name)
	}
	c.rt.mu.Lock()
	disks := slices.Clone(c.rt.disks)
	c.rt.mu.Unlock()
	for _, d := range disks {
		if fs := d.seen.Load(); fs != nil {
			gauge(diskFreeDesc, float64(fs.Bavail)*float64(fs.Bsize), d.folder)
			gauge(diskSizeDesc, float64(fs.Blocks)*float64(fs.Bsize), d.folder)
		}
	}
}

// number is 1 for true.
func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
