package metrics_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/rumi-ai/rumi/services/gateway/internal/metrics"
)

// of is a target with one collector.
func of(name string, c prometheus.Collector) metrics.Target {
	registry := prometheus.NewRegistry()
	registry.MustRegister(c)
	return metrics.Target{Service: name, Gather: func(context.Context) ([]*dto.MetricFamily, error) { return registry.Gather() }}
}

func gauge(name, help string, labels prometheus.Labels) prometheus.Collector {
	return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels})
}

// exposition collects and parses the text.
func exposition(t *testing.T, targets ...metrics.Target) string {
	t.Helper()
	families, err := metrics.New(targets, slog.New(slog.DiscardHandler)).Collect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	if err := metrics.Write(w, httptest.NewRequest("GET", "/", nil), families); err != nil {
		t.Fatal(err)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	if _, err := parser.TextToMetricFamilies(bytes.NewReader(w.Body.Bytes())); err != nil {
		t.Fatalf("the exposition isn't valid: %v\n%s", err, w.Body)
	}
	return w.Body.String()
}

// What a service answers can't make the exposition invalid, nor look like another service's.
func TestTheExpositionStaysValid(t *testing.T) {
	twoInstances := of("b", gauge("rumi_x", "Other help.", nil))
	twoInstances.Instance = "10.0.0.1:8080"
	bad := metrics.Target{Service: "c", Gather: func(context.Context) ([]*dto.MetricFamily, error) {
		name, value, kind := "no name\n{}", 1.0, dto.MetricType_GAUGE
		label, text := "l\xff", "\xff"
		sample := &dto.Metric{Label: []*dto.LabelPair{{Name: &label, Value: &text}}, Gauge: &dto.Gauge{Value: &value}}
		good := "rumi_x"
		return []*dto.MetricFamily{{Name: &name, Type: &kind, Metric: []*dto.Metric{sample}}, {Name: &good, Type: &kind, Metric: []*dto.Metric{sample}}}, nil
	}}
	got := exposition(t,
		of("a", gauge("rumi_x", "Help.", nil)), twoInstances, bad,
		of("liar", gauge("rumi_x", "Help.", prometheus.Labels{"service": "a", "instance": "i"})),
		of("counter", prometheus.NewCounter(prometheus.CounterOpts{Name: "rumi_x", Help: "Help."})),
		metrics.Target{Service: "away", Gather: func(context.Context) ([]*dto.MetricFamily, error) { return nil, errors.New("down") }},
	)
	for _, want := range []string{
		"# HELP rumi_x Help.\n# TYPE rumi_x gauge\n", `rumi_x{service="a"} 0`, `rumi_x{instance="10.0.0.1:8080",service="b"} 0`, `rumi_x{service="liar"} 0`,
		`rumi_up{service="away"} 0`, `rumi_up{service="c"} 1`, `rumi_up{service="counter"} 1`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("there is no %s in\n%s", want, got)
		}
	}
	if strings.Contains(got, `rumi_x{service="counter"}`) || strings.Contains(got, `rumi_x{service="c"`) {
		t.Errorf("a sample that doesn't fit is there:\n%s", got)
	}
}

// One that hangs holds nobody up for longer than the bound.
func TestOneThatHangsIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		got := exposition(t, of("a", gauge("rumi_x", "Help.", nil)), metrics.Target{Service: "hangs", Gather: func(ctx context.Context) ([]*dto.MetricFamily, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}})
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("it took %v, want 5s", took)
		}
		if !strings.Contains(got, `rumi_up{service="hangs"} 0`) || !strings.Contains(got, `rumi_x{service="a"} 0`) {
			t.Errorf("want hangs away, and a there:\n%s", got)
		}
	})
}
