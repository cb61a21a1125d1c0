package engine

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/libs/audit"
)

type auditLog struct {
	entries []audit.Entry
	failing error
}

func (l *auditLog) Write(_ context.Context, e audit.Entry) error {
	l.entries = append(l.entries, e)
	return l.failing
}

// Whoever replaces the image replaces what confines packs: it is in the audit log, and in the service's log whatever becomes of the former.
func TestAnotherImageIsToldOf(t *testing.T) {
	for _, failing := range []error{nil, errors.New("the disk is full")} {
		log, text := &auditLog{failing: failing}, &strings.Builder{}
		cfg := Config{Audit: log, Log: slog.New(slog.NewTextHandler(text, nil))}
		cfg.imageMoved(t.Context(), "rumi-pack:local", "sha256:1", "sha256:2")
		if len(log.entries) != 1 || log.entries[0].Action != "image_moved" || log.entries[0].Details["to"] != "sha256:2" {
			t.Errorf("entries are %+v, want one of image_moved to sha256:2", log.entries)
		}
		if got := text.String(); !strings.Contains(got, "level=WARN") || strings.Contains(got, "could not be entered in the audit log") != (failing != nil) {
			t.Errorf("with the audit error %v the log is\n%s", failing, got)
		}
	}
}
