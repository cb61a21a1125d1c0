// Package seals says how the sealing of the audit log is: in GET /api/health, and as metrics. It reads the status that the service audit-sealer
// writes. Nothing becomes unready by it: what a service decides is audited in any case, and a restart would mend nothing.
package seals

import (
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	api "github.com/rumi-ai/rumi/api/gateway"
	"github.com/rumi-ai/rumi/libs/sealstatus"
)

const (
	fixSealer  = "docker compose logs audit-sealer, then: docker compose up --detach"
	fixChanged = "docker compose run --rm rumi audit verify, then: docs/operations.md, What to do if something was changed"
)

// View reads the status in a folder.
type View struct {
	Dir string // user_data/seal_status
	Log *slog.Logger
}

// Health is the part of the health that is about the seals.
func (v View) Health() api.Seals {
	s, ok, err := sealstatus.File.Read(v.Dir)
	switch {
	case err != nil:
		return api.Seals{State: sealstatus.Failed, Detail: err.Error(), Fix: fixSealer}
	case !ok:
		return api.Seals{State: sealstatus.Late, Detail: "The audit log is not sealed", Fix: fixSealer}
	}
	answer := api.Seals{Records: s.Records, SealedAt: s.At.UTC().Format(time.RFC3339)}
	switch answer.State, answer.Detail = s.Verdict(time.Now()); answer.State {
	case sealstatus.Changed:
		answer.Fix = fixChanged
	case sealstatus.Late, sealstatus.Failed:
		answer.Fix = fixSealer
	}
	return answer
}

// The metrics.
var (
	last    = prometheus.NewDesc("rumi_audit_sealed_timestamp_seconds", "When the sealer of the audit log has made its last pass.", nil, nil)
	changes = prometheus.NewDesc("rumi_audit_seal_changes_total", "How often the sealer noticed, since it was started, that sealed lines were changed.", nil, nil)
)

// Describe implements prometheus.Collector.
func (v View) Describe(to chan<- *prometheus.Desc) {
	to <- last
	to <- changes
}

// Collect implements prometheus.Collector.
func (v View) Collect(to chan<- prometheus.Metric) {
	s, ok, err := sealstatus.File.Read(v.Dir)
	if err != nil {
		v.Log.Warn("no metrics of the audit log's seals", "error", err)
	}
	if err != nil || !ok {
		return
	}
	to <- prometheus.MustNewConstMetric(last, prometheus.GaugeValue, float64(s.At.Unix()))
	to <- prometheus.MustNewConstMetric(changes, prometheus.CounterValue, float64(s.Changes))
}
