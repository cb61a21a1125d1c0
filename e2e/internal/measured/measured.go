// Package measured compares queries with docs/metrics.md, the list of all metrics. A query about what nobody measures returns nothing, without
// an error: a panel stays empty, and an alert never fires.
package measured

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// Metrics are the series of all metrics by name: a histogram's by the names of its three series.
type Metrics map[string]*series

// series are what a metric's series may look like.
type series struct {
	labels   map[string][]string // the values of each label; none where the page describes them in words
	services []string            // who has the metric; empty for every service
}

var (
	section = regexp.MustCompile(`^<!-- metrics of (.+) -->$`)
	row     = regexp.MustCompile("^\\| `([a-z_]+)` \\| (\\w+) \\| [^|]*\\| ([^|]*)\\|")
	value   = regexp.MustCompile("`([^`]*)`")
)

// everyService is what the page calls the section of metrics that each service has.
const everyService = "every service"

// Read reads the page.
func Read(path string) (Metrics, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	m, of := make(Metrics), ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if match := section.FindStringSubmatch(line); match != nil {
			of = match[1]
		}
		if match := row.FindStringSubmatch(line); match != nil {
			m.add(match[1], match[2], match[3], of)
		}
	}
	if len(m) < 50 {
		return nil, fmt.Errorf("read %s: only %d series were found", path, len(m))
	}
	return m, nil
}

// add adds a row of the page. A metric of several services has a row for each, which may differ in the values of labels.
func (m Metrics) add(name, kind, labelCell, of string) {
	names := []string{name}
	if kind == "histogram" {
		names = []string{name + "_bucket", name + "_count", name + "_sum"}
	}
	for _, name := range names {
		if m[name] == nil {
			m[name] = &series{labels: map[string][]string{"job": nil, "service": nil, "instance": nil}}
		}
		s := m[name]
		if strings.HasSuffix(name, "_bucket") {
			s.labels[labels.BucketLabel] = nil
		}
		if of != everyService {
			s.services = append(s.services, of)
		}
		for label := range strings.SplitSeq(labelCell, "<br>") {
			key, values, _ := strings.Cut(strings.TrimSpace(label), ":")
			key = strings.Trim(key, "`")
			s.labels[key] = append(s.labels[key], fixed(values)...)
		}
	}
}

// fixed returns the values of a label whose description is nothing but a list of them.
func fixed(description string) (values []string) {
	if strings.Trim(value.ReplaceAllString(description, ""), " ,") != "" {
		return nil
	}
	for _, match := range value.FindAllStringSubmatch(description, -1) {
		values = append(values, match[1])
	}
	return values
}

// Record adds series that a rule records, with their labels.
func (m Metrics) Record(name string, labels ...string) {
	s := &series{labels: make(map[string][]string)}
	for _, label := range labels {
		s.labels[label] = nil
	}
	m[name] = s
}

// foreign says whether a metric is of Prometheus or of the collector: no page of ours lists those.
func foreign(name string) bool {
	return name == "up" || name == "ALERTS" || strings.HasPrefix(name, "prometheus_") || strings.HasPrefix(name, "otelcol_")
}

// Check returns what a query is about that nobody measures: metrics, labels, values of labels. It also fails where the query can't be parsed.
func (m Metrics) Check(query string) (problems []error) {
	expr, err := parser.ParseExpr(query)
	if err != nil {
		return []error{err}
	}
	parser.Inspect(expr, func(node parser.Node, path []parser.Node) error {
		selector, ok := node.(*parser.VectorSelector)
		if !ok || foreign(selector.Name) {
			return nil
		}
		known := m[selector.Name]
		if known == nil {
			problems = append(problems, fmt.Errorf("neither docs/metrics.md nor a rule has %s", selector.Name))
			return nil
		}
		for _, matcher := range selector.LabelMatchers {
			if err := known.checkMatcher(matcher); err != nil {
				problems = append(problems, fmt.Errorf("%s: %w", selector, err))
			}
		}
		for _, label := range groupings(path) {
			if _, ok := known.labels[label]; !ok {
				problems = append(problems, fmt.Errorf("%s has no label %s to group by", selector.Name, label))
			}
		}
		return nil
	})
	return problems
}

// checkMatcher checks a label that a selector filters by.
func (s *series) checkMatcher(m *labels.Matcher) error {
	values, ok := s.labels[m.Name]
	switch {
	case m.Name == labels.MetricName:
	case !ok:
		return fmt.Errorf("it has no label %s", m.Name)
	case m.Name == labels.BucketLabel && m.Type == labels.MatchEqual && !strings.Contains(m.Value, "."):
		return fmt.Errorf("Prometheus calls a bucket le=\"1.0\", not le=\"1\"; got %s", m.Value)
	case m.Name == "service" && len(s.services) > 0 && !slices.ContainsFunc(s.services, m.Matches):
		return fmt.Errorf("only %v have it", s.services)
	case len(values) > 0 && !slices.ContainsFunc(values, m.Matches):
		return fmt.Errorf("%s is always one of %v", m.Name, values)
	case len(values) > 0:
		for _, alternative := range m.SetMatches() { // of a pattern such as "a|b"
			if !slices.Contains(values, alternative) {
				return fmt.Errorf("%s is never %s, only one of %v", m.Name, alternative, values)
			}
		}
	}
	return nil
}

// groupings are the labels that aggregations around a selector group by. path leads to the selector from the whole query. label_replace makes
// labels of its own, so that what lies around it doesn't count.
func groupings(path []parser.Node) (by []string) {
	for _, node := range slices.Backward(path) {
		switch n := node.(type) {
		case *parser.AggregateExpr:
			if !n.Without {
				by = append(by, n.Grouping...)
			}
		case *parser.Call:
			if n.Func.Name == "label_replace" || n.Func.Name == "label_join" {
				return by
			}
		}
	}
	return by
}
