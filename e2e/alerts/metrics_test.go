package alerts

import (
	"testing"

	"github.com/rumi-ai/rumi/e2e/internal/measured"
)

// TestMetricsExist checks that each metric, label and value in the rules is one that docs/metrics.md lists, or one that a rule records: a rule about
// a metric that isn't there never fires.
func TestMetricsExist(t *testing.T) {
	known, err := measured.Read(root + "/docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range rules(t) {
		if rule.Record != "" {
			known.Record(rule.Record, "slo")
		}
	}
	for _, rule := range rules(t) {
		for _, problem := range known.Check(rule.Expr) {
			t.Errorf("%s%s: %v", rule.Alert, rule.Record, problem)
		}
	}
}
