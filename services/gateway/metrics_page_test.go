package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/backupstatus"
	"github.com/rumi-ai/rumi/libs/metric/metricdoc"
	"github.com/rumi-ai/rumi/libs/sealstatus"
)

// TestMetricsPage compares what the gateway exposes with docs/metrics.md: with HTTPS, a sealer and scheduled backups, or some would be missing.
func TestMetricsPage(t *testing.T) {
	s := newSecured(t)
	for _, dir := range []string{"seal_status", "backup_status"} {
		if err := os.MkdirAll(filepath.Join(s.UserData(), dir), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	if err := sealstatus.File.Write(filepath.Join(s.UserData(), "seal_status"), sealstatus.Status{At: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if err := backupstatus.File.Write(filepath.Join(s.UserData(), "backup_status"), backupstatus.Status{Interval: 60}); err != nil {
		t.Fatal(err)
	}
	s.send(t, s.request(t, "GET", "/api/packs", nil))
	metricdoc.Check(t, s.servers["gateway"].Metrics, "gateway")
}
