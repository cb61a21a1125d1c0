package telemetry_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/rpc/telemetry"
)

// TestLineOfARequest: each request leaves one line whose level says how it went. Only the level of reads that were answered can be chosen.
func TestLineOfARequest(t *testing.T) {
	for _, c := range []struct {
		method     string
		code       int
		reads      slog.Level
		level, why string
	}{
		{"GET", 200, slog.LevelInfo, "INFO", "a read through the gateway"},
		{"GET", 200, slog.LevelDebug, "DEBUG", "a read between services"},
		{"GET", 404, slog.LevelDebug, "INFO", "a read that was refused"},
		{"POST", 200, slog.LevelDebug, "INFO", "a change"},
		{"GET", 503, slog.LevelDebug, "INFO", "a service that is away"},
		{"GET", 500, slog.LevelDebug, "ERROR", "a failure of ours"},
	} {
		var out bytes.Buffer
		log := slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
		rec := telemetry.NewRecorder(log, prometheus.NewRegistry(), noop.NewTracerProvider().Tracer(""), c.reads)
		r := httptest.NewRequest(c.method, "/api/things/7?token=secret", nil)
		ctx, span := rec.Begin(r)
		rec.End(origin.With(ctx, origin.Origin{Actor: "alice"}), span, r, c.method+" /api/things/{id}", c.code, 2*time.Millisecond)
		if n := bytes.Count(out.Bytes(), []byte("\n")); n != 1 {
			t.Fatalf("%s: %d lines, want 1", c.why, n)
		}
		var line map[string]any
		if err := json.Unmarshal(out.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]any{
			"msg": "request", "level": c.level, "method": c.method, "path": "/api/things/7", "route": c.method + " /api/things/{id}",
			"status": float64(c.code), "duration_seconds": 0.002, "actor": "alice",
		} {
			if line[name] != want {
				t.Errorf("%s: %s is %v, want %v", c.why, name, line[name], want)
			}
		}
	}
}
