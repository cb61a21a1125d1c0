package dashboards

import (
	"os"
	"regexp"
	"testing"

	"github.com/rumi-ai/rumi/e2e/internal/measured"
)

// TestQueriesAreAboutWhatIsMeasured checks each query against docs/metrics.md and the recording rules: its metrics, their labels, and the values
// of labels that it asks for.
func TestQueriesAreAboutWhatIsMeasured(t *testing.T) {
	metrics, err := measured.Read("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	rules, err := os.ReadFile("../../deploy/monitoring/prometheus/rules/objectives.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, match := range regexp.MustCompile(`(?m)^ *- record: (\S+)$`).FindAllStringSubmatch(string(rules), -1) {
		metrics.Record(match[1], "slo")
	}
	queries, err := Read(folder)
	if err != nil {
		t.Fatal(err)
	}
	if len(queries) < 200 {
		t.Errorf("found %d queries, want 200 at least", len(queries))
	}
	for _, q := range queries {
		for _, problem := range metrics.Check(q.Resolve("1m")) {
			t.Errorf("%v: %v", q, problem)
		}
	}
}
