package docs

import (
	"os"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/libs/roster"
)

//go:generate env RUMI_WRITE_METRICS=1 go test -count=1 -p 1 -run ^TestMetricsPage$ ../../libs/service ../../services/approval ../../services/capability-broker ../../services/egress-proxy ../../services/gateway ../../services/pack-registry ../../services/pip-installer ../../services/secrets

// Every service has its section on the page of the metrics, and a test that compares them.
func TestEachServiceHasItsMetricsOnThePage(t *testing.T) {
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range roster.Names() {
		if want := "\n## " + name + "\n\n<!-- metrics of " + name + " -->\n"; !strings.Contains(string(page), want) {
			t.Errorf("docs/metrics.md has no %q", want)
		}
		test, err := os.ReadFile("../../services/" + name + "/metrics_page_test.go")
		if err != nil || !strings.Contains(string(test), "func TestMetricsPage(") {
			t.Errorf("services/%s/metrics_page_test.go has no TestMetricsPage, %v: nothing compares its section of docs/metrics.md", name, err)
		}
	}
}
