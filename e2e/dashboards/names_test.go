package dashboards

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// measured is a metric, as docs/metrics.md describes it.
type measured struct {
	kind     string
	labels   map[string][]string // the values of each label; none where the page describes them in words
	services []string            // empty for a metric of every service
}

// fromScrape are the labels that Prometheus adds, and le, which every histogram has.
var fromScrape = []string{"service", "instance", "job", "le"}

// fromPrometheus are metrics that no service has: Prometheus makes them.
var fromPrometheus = []string{"up", "ALERTS"}

var (
	section   = regexp.MustCompile(`^<!-- metrics of (.+) -->$`)
	metricRow = regexp.MustCompile("^\\| `([a-z_]+)` \\| (\\w+) \\|[^|]*\\| (.*?) \\| ")
	code      = regexp.MustCompile("`([^`]*)`")
)

// documented reads the metrics of docs/metrics.md.
func documented(t *testing.T) map[string]measured {
	t.Helper()
	text, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	all, of := make(map[string]measured), ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if match := section.FindStringSubmatch(line); match != nil {
			of = match[1]
		}
		match := metricRow.FindStringSubmatch(line)
		if match == nil {
			continue
		}
		m := measured{kind: match[2], labels: labelsOf(match[3]), services: all[match[1]].services}
		if of != "every service" {
			m.services = append(m.services, of)
		}
		for name, values := range all[match[1]].labels {
			m.labels[name] = append(m.labels[name], values...)
		}
		all[match[1]] = m
	}
	if len(all) < 50 {
		t.Fatalf("docs/metrics.md has %d metrics, want 50 at least", len(all))
	}
	return all
}

// labelsOf reads the cell of a metric's labels: a line for each, the name first, then its values.
func labelsOf(cell string) map[string][]string {
	all := make(map[string][]string)
	for _, line := range strings.Split(cell, "<br>") {
		name, values, _ := strings.Cut(line, ":")
		if match := code.FindStringSubmatch(name); match != nil {
			all[match[1]] = nil
			for _, value := range code.FindAllStringSubmatch(values, -1) {
				all[match[1]] = append(all[match[1]], value[1])
			}
		}
	}
	return all
}

// find is the metric that a series belongs to: the series of a histogram have names of their own.
func find(all map[string]measured, series string) (measured, bool) {
	for _, suffix := range []string{"", "_bucket", "_count", "_sum"} {
		if name, ok := strings.CutSuffix(series, suffix); ok {
			if m, known := all[name]; known && (m.kind == "histogram") == (suffix != "") {
				return m, true
			}
		}
	}
	return measured{}, false
}

// TestQueriesAreAboutWhatIsMeasured checks each query against docs/metrics.md: its metrics, their labels, and the values of labels that it asks for.
func TestQueriesAreAboutWhatIsMeasured(t *testing.T) {
	all := documented(t)
	queries, err := Read(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range queries {
		expression, err := parser.ParseExpr(q.Resolve("1m"))
		if err != nil {
			t.Errorf("%v: %v", q, err)
			continue
		}
		parser.Inspect(expression, func(node parser.Node, path []parser.Node) error {
			if s, ok := node.(*parser.VectorSelector); ok {
				checkSelector(t, q, all, s, path)
			}
			return nil
		})
	}
}

// checkSelector checks a selector of a query. path leads from the whole query to the selector.
func checkSelector(t *testing.T, q Query, all map[string]measured, s *parser.VectorSelector, path []parser.Node) {
	t.Helper()
	if slices.Contains(fromPrometheus, s.Name) || strings.HasPrefix(s.Name, "rumi:") {
		return
	}
	m, ok := find(all, s.Name)
	if !ok {
		t.Errorf("%v: docs/metrics.md has no %s", q, s.Name)
		return
	}
	for _, matcher := range s.LabelMatchers {
		switch {
		case matcher.Name == labels.MetricName || slices.Contains([]string{"instance", "job"}, matcher.Name):
		case matcher.Name == "service":
			if len(m.services) > 0 && !slices.ContainsFunc(m.services, matcher.Matches) {
				t.Errorf("%v: %s is of %v, which %v doesn't match", q, s.Name, m.services, matcher)
			}
		case !hasLabel(m, matcher.Name):
			t.Errorf("%v: %s has no label %s", q, s.Name, matcher.Name)
		case len(m.labels[matcher.Name]) > 1 && !slices.ContainsFunc(m.labels[matcher.Name], matcher.Matches):
			t.Errorf("%v: %v matches no value of %v", q, matcher, m.labels[matcher.Name])
		}
	}
	checkGrouping(t, q, m, s.Name, path)
}

// checkGrouping checks that the innermost aggregation over a metric is by labels that it has.
func checkGrouping(t *testing.T, q Query, m measured, name string, path []parser.Node) {
	t.Helper()
	for _, node := range slices.Backward(path) {
		if call, ok := node.(*parser.Call); ok && call.Func.Name == "label_replace" {
			return // it makes labels of its own
		}
		aggregation, ok := node.(*parser.AggregateExpr)
		if !ok {
			continue
		}
		for _, label := range aggregation.Grouping {
			if !hasLabel(m, label) {
				t.Errorf("%v: %s has no label %s to group by", q, name, label)
			}
		}
		return
	}
}

// hasLabel reports whether the series of a metric have a label in Prometheus.
func hasLabel(m measured, label string) bool {
	_, own := m.labels[label]
	return own || slices.Contains(fromScrape, label)
}
