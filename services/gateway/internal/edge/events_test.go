package edge

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/services/gateway/internal/events"
)

// A client that doesn't read is cut after stallTimeout; nothing is kept for it meanwhile.
func TestStreamOfAClientThatDoesNotReadIsCut(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		entries, err := audit.Open(dir, "approval", slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		defer entries.Close()
		log := events.NewLog(dir, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = log.Run(ctx) }()
		defer func() { cancel(); <-done }()
		registry := prometheus.NewRegistry()
		conn := serve(t, newEdge(t, func(c *Config) { c.Events = events.New(log, events.NewMetrics(registry), nil) }))
		go io.WriteString(conn, "GET /api/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer right-token\r\n\r\n")
		head := make([]byte, 64<<10)
		if _, err := conn.Read(head); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(head); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			if err := entries.Write(ctx, audit.Entry{Category: audit.System, Action: "x_done", Details: map[string]any{"padding": strings.Repeat("x", 10_000)}}); err != nil {
				t.Fatal(err)
			}
		}
		count := func(metric string) string {
			text, err := testutil.CollectAndFormat(registry, expfmt.TypeTextPlain, metric)
			if err != nil {
				t.Fatal(err)
			}
			return string(text)
		}
		time.Sleep(stallTimeout - time.Second)
		if got := count("rumi_event_streams"); !strings.Contains(got, "rumi_event_streams 1") {
			t.Errorf("before the time-out the metric is %s, want one stream", got)
		}
		time.Sleep(3 * time.Second)
		if got := count("rumi_event_streams_ended_total"); !strings.Contains(got, `reason="slow"} 1`) {
			t.Errorf("after the time-out the metric is %s, want one slow client", got)
		}
	})
}
