package telemetry_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/rumi-ai/rumi/libs/rpc/telemetry"
)

// recorder makes a Recorder without a log. Its spans are sampled.
func recorder(registry prometheus.Registerer) *telemetry.Recorder {
	return telemetry.NewRecorder(slog.New(slog.DiscardHandler), registry, sdktrace.NewTracerProvider().Tracer(""), slog.LevelInfo)
}

func TestDurationsAreOfRouteMethodAndStatus(t *testing.T) {
	registry := prometheus.NewRegistry()
	rec := recorder(registry)
	for _, c := range []struct {
		method, route string
		code          int
	}{
		{"GET", "GET /things/{id}", 200}, {"GET", "GET /things/{id}", 200}, {"HEAD", "GET /things/{id}", 200},
		{"POST", "POST /things", 503}, {"GET", "", 404}, {"BREW", "", 404}, {"brew2", "", 404},
	} {
		r := httptest.NewRequest(c.method, "/", nil)
		ctx, span := rec.Begin(r)
		rec.End(ctx, span, r, c.route, c.code, time.Millisecond)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]uint64{}
	for _, f := range families {
		for _, m := range f.Metric {
			if m.Histogram == nil {
				continue
			}
			var values []string
			for _, l := range m.Label {
				values = append(values, l.GetValue())
			}
			got[strings.Join(values, " ")] = m.Histogram.GetSampleCount()
			if m.Histogram.Bucket[1].Exemplar == nil {
				t.Errorf("%v has no exemplar", values)
			}
		}
	}
	want := map[string]uint64{"GET 200 /things/{id}": 2, "HEAD 200 /things/{id}": 1, "POST 503 /things": 1, "GET 404 ": 1, "_OTHER 404 ": 2}
	if len(got) != len(want) {
		t.Errorf("the series are %v, want %v", got, want)
	}
	for series, n := range want {
		if got[series] != n {
			t.Errorf("%s was counted %d times, want %d", series, got[series], n)
		}
	}
}

func TestActiveRequests(t *testing.T) {
	registry := prometheus.NewRegistry()
	rec := recorder(registry)
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	ctx, span := rec.Begin(r)
	active := func(want string) {
		t.Helper()
		text := "# HELP http_server_active_requests Requests that are being answered, streams among them, by method.\n# TYPE http_server_active_requests gauge\n"
		for _, method := range []string{"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE", "_OTHER"} {
			n := "0"
			if method == http.MethodGet {
				n = want
			}
			text += `http_server_active_requests{http_request_method="` + method + `"} ` + n + "\n"
		}
		if err := testutil.GatherAndCompare(registry, strings.NewReader(text), "http_server_active_requests"); err != nil {
			t.Error(err)
		}
	}
	active("1")
	rec.End(ctx, span, r, "GET /", 200, time.Second)
	active("0")
}

// BenchmarkRecord is what recording adds to a request: of a trace that isn't sampled, and of one that is.
func BenchmarkRecord(b *testing.B) {
	r := httptest.NewRequest(http.MethodGet, "/things/7", nil)
	for name, sampler := range map[string]sdktrace.Sampler{"unsampled": sdktrace.NeverSample(), "sampled": sdktrace.AlwaysSample()} {
		b.Run(name, func(b *testing.B) {
			rec := telemetry.NewRecorder(slog.New(slog.DiscardHandler), prometheus.NewRegistry(), sdktrace.NewTracerProvider(sdktrace.WithSampler(sampler)).Tracer(""), slog.LevelInfo)
			b.ReportAllocs()
			for b.Loop() {
				ctx, span := rec.Begin(r)
				rec.End(ctx, span, r, "GET /things/{id}", 200, time.Millisecond)
			}
		})
	}
}
