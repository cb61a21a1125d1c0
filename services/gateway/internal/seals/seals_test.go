package seals

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rumi-ai/rumi/libs/sealstatus"
)

func TestHealthAndMetrics(t *testing.T) {
	v := View{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
	if got := v.Health(); got.State != "late" || got.Fix == "" {
		t.Errorf("without a sealer: %+v; want late, and what to do", got)
	}
	now := time.Now().UTC()
	for name, c := range map[string]struct {
		status             sealstatus.Status
		state, detail, fix string
	}{
		"good":    {sealstatus.Status{At: now, Records: 7}, "ok", "", ""},
		"old":     {sealstatus.Status{At: now.Add(-time.Hour), Records: 7}, "late", "1h0m", "logs audit-sealer"},
		"failed":  {sealstatus.Status{At: now, Records: 7, Error: "no space"}, "failed", "no space", "logs audit-sealer"},
		"changed": {sealstatus.Status{At: now, Records: 7, Changes: 3, Last: "x, line 7: changed"}, "changed", "x, line 7", "audit verify"},
	} {
		if err := sealstatus.File.Write(v.Dir, c.status); err != nil {
			t.Fatal(err)
		}
		got := v.Health()
		if got.State != c.state || !strings.Contains(got.Detail, c.detail) || !strings.Contains(got.Fix, c.fix) || (got.Fix == "") != (c.fix == "") || got.Records != 7 {
			t.Errorf("%s: got %+v, want %s with %q and %q", name, got, c.state, c.detail, c.fix)
		}
		registry := prometheus.NewRegistry()
		registry.MustRegister(v)
		families, err := registry.Gather()
		if err != nil || len(families) != 2 || families[0].GetMetric()[0].GetCounter().GetValue() != float64(c.status.Changes) {
			t.Errorf("%s: metrics are %v, %v; want two, with the changes", name, families, err)
		}
	}
}
