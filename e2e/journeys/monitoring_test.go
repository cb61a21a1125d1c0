package journeys

import (
	"context"
	"fmt"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	promapi "github.com/prometheus/client_golang/api"
	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/rumi-ai/rumi/e2e/dashboards"
	"github.com/rumi-ai/rumi/e2e/internal/api"
	"github.com/rumi-ai/rumi/libs/roster"
)

// Prometheus scrapes and evaluates at this interval here, not each 15 s. Rates are over rateWindow, as Grafana makes them of some scrapes.
const (
	scrapeInterval = 2 * time.Second
	rateWindow     = 30 * time.Second
)

// dataWait is the longest that the test waits until every query returns data.
const dataWait = 4 * time.Minute

// meter is the pack that makes traffic for the metrics: again and again, one call of each kind.
const meter = "meter"

// meterProgram is allowed, denied and unlucky on the network, and calls a handler, a secret, and what it wasn't granted. It calls the handler
// twice at once, so that one call waits for the handler's only worker.
const meterProgram = `
import time, rumi_capability, rumi_syscall
from concurrent.futures import ThreadPoolExecutor
def call(permission):
    rumi_capability.call(permission, {}, timeout_seconds=60)
while True:
    for url in ("https://forecast.rumi.test:8443/v1/today", "https://elsewhere.rumi.test/", "https://forecast.rumi.test:8444/"):
        rumi_syscall.get(url)
    with ThreadPoolExecutor() as pool:
        list(pool.map(call, ("e2e.meter", "e2e.meter", "store.get")))
    rumi_capability.get_secret("METERED")
    print("round", flush=True)
    time.sleep(2)
`

// TestDashboards runs each query of each dashboard, and each rule, against a Prometheus beside the suite, after the demo and with a pack that
// goes on working. Each query of a dashboard must return data: one that returns nothing, or nothing but NaN, is a panel that stays empty.
func TestDashboards(t *testing.T) {
	prometheus := startPrometheus(t)
	installMeter(t)
	runDemoInside(t)

	queries, err := dashboards.Read(filepath.Join(suite.root, "deploy/monitoring/grafana/dashboards"))
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	empty := queries
	for round := 1; len(empty) > 0 && time.Since(began) < dataWait; round++ {
		useOperatorCalls(t, round)
		time.Sleep(3 * scrapeInterval)
		empty = slices.DeleteFunc(slices.Clone(empty), func(q dashboards.Query) bool { return prometheus.hasData(t, q.Resolve(rateWindow.String())) })
	}
	for _, q := range empty {
		t.Errorf("no data: %v", q)
	}
	t.Logf("%d of %d queries returned data within %v", len(queries)-len(empty), len(queries), time.Since(began).Round(time.Second))
	prometheus.checkExemplars(t, queries)
	prometheus.checkRules(t)
}

// observer asks a Prometheus that runs beside the suite.
type observer struct {
	promv1.API
	since time.Time
}

// startPrometheus restarts the suite with the demo's upstream, and runs Prometheus of the profile monitoring, until the test ends.
func startPrometheus(t *testing.T) observer {
	t.Helper()
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := suite.command(t.Context(), buildWait, "env", "COMPOSE_FILE=docker-compose.yml:deploy/demo/compose.yml", "docker", "compose", "--progress", "quiet", "build", "demo"); err != nil {
		t.Fatal(err)
	}
	suite.reconfigure(t, []string{"deploy/demo/compose.yml", "e2e/journeys/testdata/monitoring.yml"}, map[string]string{
		"TEST_PROMETHEUS_CONFIG":              fastConfig(t),
		"RUMI_PROMETHEUS_PORT":                strconv.Itoa(port),
		"RUMI_SECRET_GET_RATE_LIMIT":          "1000",
		"RUMI_CAPABILITY_WORKERS_PER_HANDLER": "1",
		"OTEL_EXPORTER_OTLP_ENDPOINT":         "", // the profile's collector, which compose has as the default
		"OTEL_TRACES_SAMPLER":                 "always_on",
		"RUMI_EGRESS_RATE_LIMIT":              "0",
	})
	t.Cleanup(func() { // before reconfigure puts back files that know nothing of these containers, networks and the volume
		if _, err := suite.compose(context.WithoutCancel(t.Context()), "--profile", "monitoring", "down", "--volumes"); err != nil {
			t.Error(err)
		}
	})
	if _, err := suite.compose(t.Context(), "up", "--detach", "--no-build", "--no-deps", "prometheus", "otel-collector"); err != nil {
		t.Fatal(err)
	}
	client, err := promapi.NewClient(promapi.Config{Address: fmt.Sprintf("http://127.0.0.1:%d", port)})
	if err != nil {
		t.Fatal(err)
	}
	o := observer{promv1.NewAPI(client), time.Now()}
	eventually(t, "Prometheus to scrape each service", func() bool {
		value, _, _, err := o.Query(t.Context(), `count(up{job="rumi"} == 1)`, time.Now())
		vector, ok := value.(model.Vector)
		return err == nil && ok && len(vector) == 1 && int(vector[0].Value) == len(roster.Names())
	})
	return o
}

var intervals = regexp.MustCompile(`(?m)^(\s*(?:scrape_interval|scrape_timeout|evaluation_interval|refresh_interval|interval): )\S+`)

// fastConfig copies Prometheus's committed configuration, with all intervals so short that the test needn't wait for minutes.
func fastConfig(t *testing.T) string {
	t.Helper()
	from, to := filepath.Join(suite.root, "deploy/monitoring/prometheus"), filepath.Join(suite.top, "prometheus")
	for _, pattern := range []string{"*.yml", "rules/*.yml"} {
		paths, err := filepath.Glob(filepath.Join(from, pattern))
		if err != nil || len(paths) == 0 {
			t.Fatalf("%s of %s: %d files, %v; want some", pattern, from, len(paths), err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			copied := filepath.Join(to, strings.TrimPrefix(path, from))
			if err := os.MkdirAll(filepath.Dir(copied), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(copied, intervals.ReplaceAll(text, []byte("${1}"+scrapeInterval.String())), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return to
}

// installMeter installs the pack that makes traffic, with a handler of its own, and starts it. It is removed at the end of the test.
func installMeter(t *testing.T) {
	t.Helper()
	plainPack(meter).with(files{
		"backend/main.py":   meterProgram,
		"requirements.lock": "idna==3.10\n",
		"share/capability_handlers/meter/handler.json": `{"handler_id": "meter_handler", "permission_id": "e2e.meter", "entrypoint": "handler.py:execute",
			"description": "takes its time", "risk": "low"}`,
		"share/capability_handlers/meter/handler.py": "import time\n\ndef execute(context, args):\n    time.sleep(0.1)\n    return {}\n",
	}).copyToEcosystem(t, meter)
	post(t, "/api/packs/scan", nil)
	post(t, "/api/packs/"+meter+"/approve", nil)
	t.Cleanup(func() { removePack(t, meter) })
	trustHandlers(t, meter)
	post(t, "/api/secrets/set", map[string]any{"key": "METERED", "value": "value"})
	t.Cleanup(func() {
		if _, err := suite.api.Post(context.WithoutCancel(t.Context()), "/api/secrets/delete", map[string]any{"key": "METERED"}); err != nil {
			t.Error(err)
		}
	})
	post(t, "/api/capability/grants/grant", map[string]any{"principal_id": meter, "permission_id": "secrets.get", "config": map[string]any{"allowed_keys": []string{"METERED"}}})
	post(t, "/api/capability/grants/grant", map[string]any{"principal_id": meter, "permission_id": "e2e.meter"})
	post(t, "/api/network/grant", map[string]any{"pack_id": meter, "allowed_domains": []string{"forecast.rumi.test"}, "allowed_ports": []int{8443, 8444}})
	post(t, "/api/containers/"+meter+"/start", nil)
	nextLine(t, meter)
}

// runDemoInside runs the demo against this suite, not against one of its own. The demo refuses a suite that has its secret already.
func runDemoInside(t *testing.T) {
	t.Helper()
	if a, err := suite.api.Post(t.Context(), "/api/secrets/delete", map[string]any{"key": "FORECAST_API_KEY"}); err != nil || (a.Status != 200 && a.Status != 404) {
		t.Fatalf("the removal of the demo's secret got %v, %v; want 200 or 404", a, err)
	}
	out, err := suite.compose(t.Context(), "run", "--rm", "--no-deps", "--no-TTY", "demo")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, "no surprise") {
		t.Fatalf("the demo printed\n%s\nwant a line with \"no surprise\"", out)
	}
}

// useOperatorCalls makes what the demo and the pack don't: a change of gates and grants, an import and one that is refused, an install that
// fails, since this suite's index doesn't answer, a token that isn't one, and a question to the audit log.
func useOperatorCalls(t *testing.T, round int) {
	t.Helper()
	const id = "passing"
	pack := plainPack(id)
	pack.copyToEcosystem(t, id)
	post(t, "/api/packs/scan", nil)
	post(t, "/api/packs/"+id+"/approve", nil)
	post(t, "/api/network/grant", map[string]any{"pack_id": id, "allowed_domains": []string{fmt.Sprintf("round-%d.example.com", round)}, "allowed_ports": []int{443}})
	post(t, "/api/network/revoke", map[string]any{"pack_id": id})
	removePack(t, id)
	importTwice(t, pack.zip(t, id))
	post(t, "/api/pip/candidates/scan", nil)
	for _, item := range pipItems(t) {
		if item.PackID == meter {
			if _, err := suite.api.Post(t.Context(), "/api/pip/requests/"+url.PathEscape(item.CandidateKey)+"/approve", map[string]any{"allow_sdist": false}); err != nil {
				t.Fatal(err)
			}
		}
	}
	stranger := api.Client{Base: suite.base, Token: "0000"}
	if a, err := stranger.Get(t.Context(), "/api/packs"); err != nil || a.Status != 401 {
		t.Errorf("a wrong token got %v, %v; want 401", a, err)
	}
	get(t, "/api/audit?limit=10")
}

// importTwice imports an archive and removes what was staged, and has another one refused.
func importTwice(t *testing.T, archive []byte) {
	t.Helper()
	staged, err := suite.api.Upload(t.Context(), "passing.zip", archive)
	id := field(t, string(must(t, staged, err).Data), "staging_id")
	if a, err := suite.api.Delete(t.Context(), "/api/packs/staging/"+id); err != nil || a.Status != 200 {
		t.Errorf("the removal of what was staged got %v, %v; want 200", a, err)
	}
	if a, err := suite.api.Upload(t.Context(), "passing.zip", []byte("no archive")); err != nil || a.Status != 400 {
		t.Errorf("the import of what is no archive got %v, %v; want 400", a, err)
	}
}

// hasData reports whether a query returns a number at any moment since the observer began, as a panel over that time shows it.
func (o observer) hasData(t *testing.T, query string) bool {
	t.Helper()
	value, _, _, err := o.QueryRange(t.Context(), query, promv1.Range{Start: o.since, End: time.Now(), Step: scrapeInterval})
	if err != nil {
		t.Errorf("%s: %v", query, err)
		return false
	}
	matrix, ok := value.(model.Matrix)
	return ok && slices.ContainsFunc(matrix, func(s *model.SampleStream) bool {
		return slices.ContainsFunc(s.Values, func(p model.SamplePair) bool { return !math.IsNaN(float64(p.Value)) })
	})
}

// checkExemplars checks that graphs lead to traces: that Prometheus has a trace's id for queries that ask for exemplars. Not all have one: a
// scan at the interval, say, belongs to no trace.
func (o observer) checkExemplars(t *testing.T, queries []dashboards.Query) {
	t.Helper()
	leads := make(map[string]bool)
	for _, q := range queries {
		if !q.Exemplars {
			continue
		}
		series, err := o.QueryExemplars(t.Context(), q.Resolve(rateWindow.String()), o.since, time.Now())
		if err != nil {
			t.Errorf("exemplars of %v: %v", q, err)
		}
		for _, s := range series {
			for _, e := range s.Exemplars {
				if len(e.Labels["trace_id"]) != 32 {
					t.Errorf("an exemplar of %v has the labels %v, want a trace_id of 32 digits", q, e.Labels)
				}
				leads[string(s.SeriesLabels[model.MetricNameLabel])] = true
			}
		}
	}
	for _, histogram := range []string{"http_server_request_duration_seconds", "rumi_egress_request_duration_seconds", "rumi_capability_call_duration_seconds"} {
		if !leads[histogram+"_bucket"] {
			t.Errorf("no exemplar of %s, want some: its graphs lead to no trace", histogram)
		}
	}
}

// checkRules checks that Prometheus evaluates each rule without an error, that recorded series have data, and that alerts are about metrics
// that are there. None of those about the services may fire.
func (o observer) checkRules(t *testing.T) {
	t.Helper()
	all, err := o.Rules(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	rules := 0
	for _, group := range all.Groups {
		for _, rule := range group.Rules {
			rules++
			switch r := rule.(type) {
			case promv1.RecordingRule:
				o.checkRule(t, r.Name, r.Query, r.Health, r.LastError)
				if !o.hasData(t, r.Name) {
					t.Errorf("the rule %s records nothing: %s", r.Name, r.Query)
				}
			case promv1.AlertingRule:
				o.checkRule(t, r.Name, r.Query, r.Health, r.LastError)
			}
		}
	}
	if rules < 20 {
		t.Errorf("Prometheus has %d rules, want 20 at least", rules)
	}
	t.Logf("%d rules", rules)
}

// onlyWhere names metrics that a suite has only where something is set up, which this one hasn't: in place of the collector it has a sink.
var onlyWhere = map[string]string{
	"rumi_tls_certificate_expiry_timestamp_seconds": "the gateway speaks HTTPS",
	"rumi_backup_newest_timestamp_seconds":          "backups are scheduled",
	"rumi_backup_interval_seconds":                  "backups are scheduled",
	"rumi_backup_verified":                          "backups are scheduled",
	"otelcol_receiver_refused_spans":                "the collector runs",
	"otelcol_exporter_send_failed_spans":            "the collector runs",
}

// checkRule checks that a rule is evaluated, and that each metric that it names is there.
func (o observer) checkRule(t *testing.T, name, query string, health promv1.RuleHealth, lastError string) {
	t.Helper()
	if health != promv1.RuleHealthGood {
		t.Errorf("the rule %s is %s: %s", name, health, lastError)
	}
	expression, err := parser.ParseExpr(query)
	if err != nil {
		t.Errorf("the rule %s: %v", name, err)
		return
	}
	parser.Inspect(expression, func(node parser.Node, _ []parser.Node) error {
		if s, ok := node.(*parser.VectorSelector); ok && onlyWhere[s.Name] == "" && !o.hasData(t, s.Name) {
			t.Errorf("the rule %s is about %s, which nobody measures: %s", name, s.Name, query)
		}
		return nil
	})
}
