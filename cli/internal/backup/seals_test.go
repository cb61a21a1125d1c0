package backup

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/cli/internal/auditlog"
	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/auditfile"
)

// While services write to the audit log and the sealer seals it, each backup has a log that fits its seals.
func TestSealsFitTheRestoredAuditLog(t *testing.T) {
	h := newHome(t)
	entries, err := audit.Open(h.path("user_data/audit"), "approval", h.log)
	must(t, err)
	defer entries.Close()
	ctx, stop := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	defer wait.Wait()
	defer stop()
	wait.Go(func() {
		for ctx.Err() == nil {
			_ = entries.Write(ctx, audit.Entry{Category: audit.Network, Action: "network_request", Success: true})
			time.Sleep(200 * time.Microsecond)
		}
	})
	wait.Go(func() {
		err := auditlog.Run(ctx, auditlog.Config{
			Audit: h.path("user_data/audit"), Log: h.path("user_data/audit_log"), Status: h.path("user_data/seal_status"),
			KeyFile: h.path("user_data/settings/audit_log/signing_key"), Interval: 5 * time.Millisecond,
		}, h.log)
		if err != nil {
			t.Errorf("the sealer: %v", err)
		}
	})
	for range 4 {
		time.Sleep(50 * time.Millisecond)
		o := h.options()
		o.step = func(taken string) {
			if strings.HasPrefix(taken, "user_data/audit") { // the log grows and is sealed between all of its parts
				time.Sleep(20 * time.Millisecond)
			}
		}
		file, _ := h.create(o)
		target := h.target()
		_, err := Restore(t.Context(), h.source(file), target)
		must(t, err)
		key, err := os.ReadFile(filepath.Join(target.Home, "user_data/settings/audit_log.pub"))
		must(t, err)
		report, err := auditlog.Verify(auditlog.Options{
			Audit: filepath.Join(target.Home, "user_data/audit"), Log: filepath.Join(target.Home, "user_data/audit_log"), PublicKey: key, Now: time.Now(),
		})
		must(t, err)
		if !report.OK || report.Lines == 0 {
			t.Errorf("the restored log has %d sealed lines and the findings %v; want some, and none", report.Lines, report.Findings)
		}
	}
}

// A compressed day of the audit log is no file of lines: it must be taken to its last byte.
func TestCompressedDayIsTakenWhole(t *testing.T) {
	h := newHome(t)
	const name = "user_data/audit/network_2026-01-01.jsonl"
	var lines strings.Builder
	for n := range 3000 {
		fmt.Fprintf(&lines, `{"ts":"2026-01-01T00:00:00.%06dZ","category":"network","action":"network_request"}`+"\n", n)
	}
	must(t, os.MkdirAll(h.path("user_data/audit"), 0o750))
	must(t, os.WriteFile(h.path(name), []byte(lines.String()), 0o640))
	ctx, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer stop()
	must(t, auditlog.Run(ctx, auditlog.Config{
		Audit: h.path("user_data/audit"), Log: h.path("user_data/audit_log"), Status: h.path("user_data/seal_status"),
		KeyFile: h.path("user_data/settings/audit_log/signing_key"), Interval: 10 * time.Millisecond,
	}, h.log))
	packed, err := os.Create(h.path(name + ".zst"))
	must(t, err)
	must(t, auditfile.Compress(packed, strings.NewReader(lines.String())))
	must(t, packed.Close())
	must(t, os.Remove(h.path(name)))

	file, _ := h.create(h.options())
	target := h.target()
	_, err = Restore(t.Context(), h.source(file), target)
	must(t, err)
	key, err := os.ReadFile(filepath.Join(target.Home, "user_data/settings/audit_log.pub"))
	must(t, err)
	report, err := auditlog.Verify(auditlog.Options{
		Audit: filepath.Join(target.Home, "user_data/audit"), Log: filepath.Join(target.Home, "user_data/audit_log"), PublicKey: key, Now: time.Now(),
	})
	must(t, err)
	if !report.OK || report.Lines < 3000 {
		t.Errorf("the restored log has %d sealed lines and the findings %v; want 3000 or more, and none", report.Lines, report.Findings)
	}
}
