package backups

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rumi-ai/rumi/libs/backupstatus"
)

// gauges are the metrics by name.
func gauges(t *testing.T, v View) map[string]float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(v)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]float64{}
	for _, f := range families {
		found[f.GetName()] = f.GetMetric()[0].GetGauge().GetValue()
	}
	return found
}

func TestHealthAndMetrics(t *testing.T) {
	v := View{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
	if got := v.Health(); got.State != "off" || got.Fix == "" || len(gauges(t, v)) != 0 {
		t.Errorf("without a schedule: %+v and %v; want off, what to do, and no metrics", got, gauges(t, v))
	}
	now := time.Now().UTC().Truncate(time.Second)
	backup := &backupstatus.Backup{Name: "rumi-a.age", At: now.Add(-time.Hour), Size: 7, Took: 2}
	for name, c := range map[string]struct {
		status       backupstatus.Status
		state        string
		detail       string
		wantVerified float64
	}{
		"good":   {backupstatus.Status{Interval: 3600, Newest: backup, LastRun: now}, "ok", "", 1},
		"late":   {backupstatus.Status{Interval: 60, Newest: backup, LastRun: now}, "late", "rumi-a.age", 1},
		"failed": {backupstatus.Status{Interval: 3600, Newest: backup, LastRun: now, Problem: "no space"}, "failed", "no space", 0},
	} {
		if err := backupstatus.File.Write(v.Dir, c.status); err != nil {
			t.Fatal(err)
		}
		got := v.Health()
		if got.State != c.state || !strings.Contains(got.Detail, c.detail) || (got.Fix == "") != (c.state == "ok") || got.Newest != "rumi-a.age" {
			t.Errorf("%s: got %+v, want %s with %q, and a remedy unless it is ok", name, got, c.state, c.detail)
		}
		m := gauges(t, v)
		if m["rumi_backup_newest_timestamp_seconds"] != float64(backup.At.Unix()) || m["rumi_backup_verified"] != c.wantVerified || m["rumi_backup_size_bytes"] != 7 {
			t.Errorf("%s: metrics are %v", name, m)
		}
	}
}
