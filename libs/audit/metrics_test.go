package audit_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"

	"github.com/rumi-ai/rumi/libs/audit"
)

// Entries are counted when their fate is known, by Write and by Submit alike, and each category is there from the beginning.
func TestEntriesAreCounted(t *testing.T) {
	dir := t.TempDir()
	log, err := audit.Open(dir, "test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	registry := prometheus.NewRegistry()
	registry.MustRegister(log)
	if n, err := testutil.GatherAndCount(registry, "rumi_audit_entries_total", "rumi_audit_write_duration_seconds"); n != 3*8 || err != nil {
		t.Errorf("at first there are %d series, %v; want 24: for each of 8 categories, ok, failed and the duration", n, err)
	}
	entry := func(c audit.Category) audit.Entry { return audit.Entry{Category: c, Action: "tested", Success: true} }
	if err := log.Write(t.Context(), entry(audit.Security)); err != nil {
		t.Fatal(err)
	}
	if err := log.Submit(t.Context(), entry(audit.Security), entry(audit.Network))(); err != nil {
		t.Fatal(err)
	}
	day, err := filepath.Glob(filepath.Join(dir, "system_*"))
	if err != nil || len(day) != 1 {
		t.Fatalf("the files are %v, %v; want one", day, err)
	}
	if err := os.Remove(day[0]); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(day[0], 0o700); err != nil { // can't be written to
		t.Fatal(err)
	}
	if err := log.Write(t.Context(), entry(audit.System)); err == nil {
		t.Fatal("wrote to a folder")
	}
	if err := log.Write(t.Context(), audit.Entry{Category: audit.Approval}); err == nil {
		t.Fatal("wrote an entry without an action")
	}
	text, err := testutil.CollectAndFormat(log, expfmt.TypeTextPlain, "rumi_audit_entries_total", "rumi_audit_write_duration_seconds")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`rumi_audit_entries_total{category="security",result="ok"} 2`, `rumi_audit_entries_total{category="network",result="ok"} 1`,
		`rumi_audit_entries_total{category="system",result="failed"} 1`, `rumi_audit_entries_total{category="approval",result="failed"} 1`,
		`rumi_audit_write_duration_seconds_count{category="network"} 1`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("there is no %s in\n%s", want, text)
		}
	}
}
