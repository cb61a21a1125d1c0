// Package alerts checks what Prometheus and Alertmanager are told in deploy/monitoring: the programs' own checks, unit tests of the rules, and
// that rules, metrics and documents agree.
package alerts

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/rulefmt"
	"gopkg.in/yaml.v3"

	"github.com/rumi-ai/rumi/libs/testenv"
)

const (
	root       = "../.."
	monitoring = root + "/deploy/monitoring"
	tools      = root + "/bin/"
	page       = "/blob/main/docs/alerts.md#"
)

// run runs a tool, and fails the test with what it printed where it fails.
func run(t *testing.T, tool string, args ...string) {
	t.Helper()
	testenv.NeedsFile(t, tools+tool, "make tools")
	if out, err := exec.Command(tools+tool, args...).CombinedOutput(); err != nil {
		t.Errorf("%s %s: %v\n%s", tool, strings.Join(args, " "), err, out)
	}
}

// glob returns the files of a pattern, of which there must be some.
func glob(t *testing.T, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		t.Fatalf("%s: %v, %v; want some files", pattern, paths, err)
	}
	return paths
}

// read returns the text of a file.
func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// rules returns all rules, in their order.
func rules(t *testing.T) []rulefmt.Rule {
	t.Helper()
	var all []rulefmt.Rule
	for _, path := range glob(t, monitoring+"/prometheus/rules/*.yml") {
		groups, errs := rulefmt.ParseFile(path, false)
		if len(errs) > 0 {
			t.Fatalf("read %s: %v", path, errs)
		}
		for _, g := range groups.Groups {
			all = append(all, g.Rules...)
		}
	}
	return all
}

func TestConfiguration(t *testing.T) {
	run(t, "promtool", "check", "config", "--lint=all", "--lint-fatal", monitoring+"/prometheus/prometheus.yml")
}

// TestRules runs the unit tests of the rules: each alert fires, and stays silent.
func TestRules(t *testing.T) {
	for _, path := range glob(t, monitoring+"/prometheus/tests/*.yml") {
		t.Run(filepath.Base(path), func(t *testing.T) {
			t.Parallel()
			run(t, "promtool", "test", "rules", path)
		})
	}
}

// unitTests are the parts of promtool's unit tests that say which alerts are tested.
type unitTests struct {
	Tests []struct {
		Alerts []struct {
			Name     string `yaml:"alertname"`
			Expected []any  `yaml:"exp_alerts"`
		} `yaml:"alert_rule_test"`
		Exprs []struct {
			Expr    string `yaml:"expr"`
			Samples []any  `yaml:"exp_samples"`
		} `yaml:"promql_expr_test"`
	} `yaml:"tests"`
}

var firing = regexp.MustCompile(`^ALERTS\{alertname="(\w+)", alertstate="firing"\}$`)

// tested returns the alerts that a unit test expects to fire, and those that one expects to be silent.
func tested(t *testing.T) (fires, silent []string) {
	t.Helper()
	for _, path := range glob(t, monitoring+"/prometheus/tests/*.yml") {
		var file unitTests
		if err := yaml.Unmarshal([]byte(read(t, path)), &file); err != nil {
			t.Fatalf("read %s: %v", path, err)
		}
		for _, test := range file.Tests {
			for _, a := range test.Alerts {
				if len(a.Expected) == 0 {
					silent = append(silent, a.Name)
				}
			}
			for _, e := range test.Exprs {
				if match := firing.FindStringSubmatch(e.Expr); match != nil && len(e.Samples) > 0 {
					fires = append(fires, match[1])
				}
			}
		}
	}
	return fires, silent
}

// TestEveryAlert checks that each alert says how urgent it is, what is wrong and what to do, that docs/alerts.md has a section about it, and that
// unit tests make it fire and keep it silent.
func TestEveryAlert(t *testing.T) {
	fires, silent := tested(t)
	document := read(t, root+"/docs/alerts.md")
	known := 0
	for _, rule := range rules(t) {
		if rule.Alert == "" {
			continue
		}
		known++
		if severity := rule.Labels["severity"]; severity != "page" && severity != "ticket" {
			t.Errorf("%s has the severity %q, want page or ticket", rule.Alert, severity)
		}
		for _, name := range []string{"summary", "description"} {
			if rule.Annotations[name] == "" {
				t.Errorf("%s has no %s", rule.Alert, name)
			}
		}
		if got, want := rule.Annotations["runbook_url"], page+strings.ToLower(rule.Alert); !strings.HasSuffix(got, want) {
			t.Errorf("%s has the runbook_url %q, want one that ends with %q", rule.Alert, got, want)
		}
		if !strings.Contains(document, "\n### "+rule.Alert+"\n") {
			t.Errorf("docs/alerts.md has no section %s", rule.Alert)
		}
		if !slices.Contains(fires, rule.Alert) || !slices.Contains(silent, rule.Alert) {
			t.Errorf("%s: a unit test makes it fire: %v, one keeps it silent: %v; want both", rule.Alert,
				slices.Contains(fires, rule.Alert), slices.Contains(silent, rule.Alert))
		}
	}
	if sections := strings.Count(document, "\n### Rumi"); sections != known || known == 0 {
		t.Errorf("docs/alerts.md has sections about %d alerts, want one for each of %d", sections, known)
	}
}

// TestAlertmanagerExample checks the example as Alertmanager does when it starts, and that the alerts in it exist.
func TestAlertmanagerExample(t *testing.T) {
	run(t, "amtool", "check-config", monitoring+"/alertmanager.example.yml")
	var alerts []string
	for _, rule := range rules(t) {
		alerts = append(alerts, rule.Alert)
	}
	for _, name := range regexp.MustCompile(`\bRumi\w+`).FindAllString(read(t, monitoring+"/alertmanager.example.yml"), -1) {
		if !slices.Contains(alerts, name) {
			t.Errorf("the example names the alert %s, which no rule makes", name)
		}
	}
}
