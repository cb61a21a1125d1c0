package alerts

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// series are the labels of a metric by name, with the values that docs/metrics.md lists; none are listed where the label has many.
type series map[string][]string

var (
	row   = regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| (\\w+) \\| [^|]*\\| ([^|]*)\\|")
	value = regexp.MustCompile("`([^`]*)`")
)

// documented returns the metrics of docs/metrics.md, a histogram's by the names of its series.
func documented(t *testing.T) map[string]series {
	t.Helper()
	found := map[string]series{}
	for _, match := range row.FindAllStringSubmatch(read(t, root+"/docs/metrics.md"), -1) {
		s := series{"job": nil, "service": nil, "instance": nil}
		for label := range strings.SplitSeq(match[3], "<br>") {
			name, values, _ := strings.Cut(strings.TrimSpace(label), ":")
			s[strings.Trim(name, "`")] = fixed(values)
		}
		names := []string{match[1]}
		if match[2] == "histogram" {
			names = []string{match[1] + "_bucket", match[1] + "_count", match[1] + "_sum"}
			s["le"] = nil
		}
		for _, name := range names {
			found[name] = s
		}
	}
	if len(found) < 50 {
		t.Fatalf("only %d metrics were found in docs/metrics.md", len(found))
	}
	return found
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

// foreign says whether a metric is Prometheus' own or the collector's: no page of ours lists those.
func foreign(name string) bool {
	return name == "up" || strings.HasPrefix(name, "prometheus_") || strings.HasPrefix(name, "otelcol_")
}

// TestMetricsExist checks that each metric, label and value in the rules is one that docs/metrics.md lists, or one that a rule records: a rule about
// a metric that isn't there never fires.
func TestMetricsExist(t *testing.T) {
	known := documented(t)
	for _, rule := range rules(t) {
		if rule.Record != "" {
			known[rule.Record] = series{"slo": nil}
		}
	}
	for _, rule := range rules(t) {
		expr, err := parser.ParseExpr(rule.Expr)
		if err != nil {
			t.Fatal(err)
		}
		parser.Inspect(expr, func(node parser.Node, path []parser.Node) error {
			selector, ok := node.(*parser.VectorSelector)
			if !ok || foreign(selector.Name) {
				return nil
			}
			where := rule.Alert + rule.Record + ", " + selector.String()
			labels, ok := known[selector.Name]
			if !ok {
				t.Errorf("%s: neither docs/metrics.md nor a rule has %s", where, selector.Name)
				return nil
			}
			checkLabels(t, where, labels, selector, path)
			return nil
		})
	}
}

// checkLabels checks the labels that a selector filters by, and those that the aggregations around it group by.
func checkLabels(t *testing.T, where string, known series, selector *parser.VectorSelector, path []parser.Node) {
	t.Helper()
	for _, m := range selector.LabelMatchers {
		values, ok := known[m.Name]
		switch {
		case m.Name == labels.MetricName:
		case !ok:
			t.Errorf("%s: it has no label %s", where, m.Name)
		case m.Name == labels.BucketLabel && !strings.Contains(m.Value, "."):
			t.Errorf("%s: Prometheus calls a bucket le=\"1.0\", not le=\"1\"; got %s", where, m.Value)
		case m.Type == labels.MatchEqual && len(values) > 0 && !slices.Contains(values, m.Value):
			t.Errorf("%s: %s is never %q, only one of %v", where, m.Name, m.Value, values)
		}
	}
	for _, node := range path {
		aggregation, ok := node.(*parser.AggregateExpr)
		if !ok || aggregation.Without {
			continue
		}
		for _, name := range aggregation.Grouping {
			if _, ok := known[name]; !ok {
				t.Errorf("%s: %s groups by %s, a label that it hasn't", where, aggregation.Op, name)
			}
		}
	}
}
