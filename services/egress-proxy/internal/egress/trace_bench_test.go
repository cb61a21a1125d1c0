package egress

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/tracing"
)

// BenchmarkTraced is an allowed request where nobody collects spans, and with 1 % and all of them exported; design.md, "Numbers to reach". What the
// collector does with them isn't in it.
func BenchmarkTraced(b *testing.B) {
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	b.Cleanup(collector.Close)
	for _, ratio := range []string{"off", "0.01", "1"} {
		b.Run(ratio, func(b *testing.B) {
			tracer := uncollected()
			if ratio != "off" {
				tracer = collectedBy(b, collector.URL, ratio)
			}
			before := processorTime(b)
			benchmarkTraced(b, 16, plainRequest, "", tracer)
			b.ReportMetric(float64((processorTime(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
		})
	}
}

// processorTime is that of this process so far, which other processes of the machine don't change much. The server and the client are in it.
func processorTime(b *testing.B) time.Duration {
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// collectedBy is a tracer of which a ratio of the traces goes to a collector.
func collectedBy(b *testing.B, url, ratio string) trace.Tracer {
	b.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
	b.Setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
	b.Setenv("OTEL_TRACES_SAMPLER_ARG", ratio)
	t, err := tracing.New(b.Context(), tracing.Config{Service: "egress-proxy", Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { _ = t.Run(ctx) }()
	b.Cleanup(func() { cancel(); _ = t.Stop(context.Background()) })
	for began := time.Now(); !t.Samples(trace.TraceID{15: 1}); time.Sleep(time.Millisecond) { // which any ratio samples
		if time.Since(began) > 10*time.Second {
			b.Fatal("the collector wasn't found within 10 s")
		}
	}
	return t.Tracer("bench")
}
