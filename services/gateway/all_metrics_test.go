package main

import (
	"io"
	"net/http"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// series are the values of a family by the label service, of gauges and counters.
func series(f *dto.MetricFamily) map[string]float64 {
	values := map[string]float64{}
	for _, m := range f.GetMetric() {
		for _, l := range m.Label {
			if l.GetName() == "service" {
				values[l.GetValue()] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return values
}

// scrape asks for all metrics with a token.
func scrape(t *testing.T, w *world, token, accept string) *reply {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+w.address+"/api/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Accept", accept)
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return &reply{status: response.StatusCode, header: response.Header, raw: string(text)}
}

// TestAllMetrics: one valid exposition of all services, in which one that is away is told and costs the others nothing.
func TestAllMetrics(t *testing.T) {
	w := newWorld(t, nil)
	viewer := w.issue(t, `{"name": "scraper", "role": "viewer", "scopes": [{"verbs": ["metrics.read"]}]}`).Token
	w.do(t, "GET", "/api/packs", nil, nil)
	got := scrape(t, w, viewer, "")
	if got.status != 200 || !strings.HasPrefix(got.header.Get("Content-Type"), "text/plain; version=0.0.4") {
		t.Fatalf("got %d %s: %.500s, want 200 and text", got.status, got.header.Get("Content-Type"), got.raw)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(got.raw))
	if err != nil {
		t.Fatalf("the exposition isn't valid: %v", err)
	}
	up := series(families["rumi_up"])
	for name, want := range map[string]float64{"gateway": 1, "approval": 1, "pack-registry": 1, "egress-proxy": 0, "pip-installer": 0, "secrets": 0} {
		if value, ok := up[name]; !ok || value != want {
			t.Errorf("rumi_up of %s is %v (there: %v), want %v", name, value, ok, want)
		}
	}
	if n := strings.Count(got.raw, "# TYPE http_server_request_duration_seconds histogram\n"); n != 1 {
		t.Errorf("the family is there %d times, want once", n)
	}
	if builds := series(families["rumi_build_info"]); builds["approval"] != 1 || builds["gateway"] != 1 {
		t.Errorf("the builds are %v, want those of gateway and approval", builds)
	}
	open := scrape(t, w, viewer, "application/openmetrics-text; version=1.0.0")
	if !strings.HasPrefix(open.header.Get("Content-Type"), "application/openmetrics-text; version=1.0.0") || !strings.HasSuffix(open.raw, "# EOF\n") {
		t.Errorf("got %s with the end %.20q, want OpenMetrics to its end", open.header.Get("Content-Type"), open.raw[max(0, len(open.raw)-20):])
	}
	narrow := w.issue(t, `{"name": "narrow", "role": "viewer", "scopes": [{"verbs": ["packs.read"]}]}`).Token
	if got := scrape(t, w, narrow, ""); got.status != 403 {
		t.Errorf("a token without the verb got %d, want 403", got.status)
	}
	if got := scrape(t, w, "wrong", ""); got.status != 401 {
		t.Errorf("a wrong token got %d, want 401", got.status)
	}
}
