package record

import (
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// BenchmarkSpanOff is what a request pays for its span where nobody collects any.
func BenchmarkSpanOff(b *testing.B) {
	c := New(Config{
		Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
		Tracer: sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.NeverSample())).Tracer(""),
	})
	r := &Result{}
	b.ReportAllocs()
	for b.Loop() {
		r.endSpan(c.start("p", r.Trace, time.Now()).span, "p", "r", outcome{result: "allowed", reason: "ok"})
	}
}
