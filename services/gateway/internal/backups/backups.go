// Package backups says how the scheduled backups are: in GET /api/health, and as metrics. It reads the status that the service backup writes. An
// old or failed backup makes nothing unready: it stops no pack, and a restart of a service would mend nothing.
package backups

import (
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	api "github.com/rumi-ai/rumi/api/gateway"
	"github.com/rumi-ai/rumi/libs/backupstatus"
)

// off is the state where backups are not scheduled.
const off = "off"

const (
	fixOff    = "schedule backups: docs/operations.md, Scheduled backups"
	fixLate   = "docker compose --profile backup up --detach, then: docker compose logs backup"
	fixFailed = "docker compose logs backup, then: docker compose restart backup"
)

// View reads the status in a folder.
type View struct {
	Dir string // user_data/backup_status
	Log *slog.Logger
}

// Health is the part of the health that is about backups.
func (v View) Health() api.Backups {
	s, ok, err := backupstatus.File.Read(v.Dir)
	switch {
	case err != nil:
		return api.Backups{State: backupstatus.Failed, Detail: err.Error(), Fix: fixFailed}
	case !ok:
		return api.Backups{State: off, Detail: "Backups are not scheduled", Fix: fixOff}
	}
	answer := api.Backups{Problems: s.Problems}
	answer.State, answer.Detail = s.Verdict(time.Now())
	switch answer.State {
	case backupstatus.Failed:
		answer.Fix = fixFailed
	case backupstatus.Late:
		answer.Fix = fixLate
	}
	if s.Newest != nil {
		answer.Newest, answer.NewestAt, answer.Size = s.Newest.Name, s.Newest.At.UTC().Format(time.RFC3339), s.Newest.Size
	}
	return answer
}

// The metrics. None is there while backups aren't scheduled, so that an alert on them is about those that should be.
var (
	newest   = prometheus.NewDesc("rumi_backup_newest_timestamp_seconds", "When the newest verified backup was taken; 0 for none.", nil, nil)
	verified = prometheus.NewDesc("rumi_backup_verified", "1 if the last backup was written and verified without a problem.", nil, nil)
	interval = prometheus.NewDesc("rumi_backup_interval_seconds", "Time from one scheduled backup to the next.", nil, nil)
	size     = prometheus.NewDesc("rumi_backup_size_bytes", "Size of the newest verified backup.", nil, nil)
	took     = prometheus.NewDesc("rumi_backup_duration_seconds", "How long the newest verified backup took, with its verification; 0 where it isn't known.", nil, nil)
)

// Describe implements prometheus.Collector.
func (v View) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{newest, verified, interval, size, took} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (v View) Collect(to chan<- prometheus.Metric) {
	s, ok, err := backupstatus.File.Read(v.Dir)
	if err != nil {
		v.Log.Warn("no metrics of backups", "error", err)
	}
	if err != nil || !ok {
		return
	}
	gauge := func(d *prometheus.Desc, value float64) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value)
	}
	gauge(interval, s.Interval)
	good := 0.0
	if s.Problem == "" && !s.LastRun.IsZero() {
		good = 1
	}
	gauge(verified, good)
	var last backupstatus.Backup
	at := 0.0
	if s.Newest != nil {
		last, at = *s.Newest, float64(s.Newest.At.Unix())
	}
	gauge(newest, at)
	gauge(size, float64(last.Size))
	gauge(took, last.Took)
}
