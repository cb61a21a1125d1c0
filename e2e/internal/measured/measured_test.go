package measured

import (
	"errors"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	m, err := Read("../../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	m.Record("rumi:slo_errors:ratio1h", "slo")
	for _, c := range []struct{ query, want string }{
		{`sum by (le, service) (rate(rumi_egress_request_duration_seconds_bucket{job="rumi",le="0.025"}[5m]))`, ""},
		{`sum by (class) (label_replace(rate(http_server_request_duration_seconds_count{http_response_status_code=~"5.."}[5m]), "class", "$1", "http_response_status_code", "(.).*"))`, ""},
		{`rumi_grants{service="egress-proxy",state!="active"}`, ""},
		{`max by (slo) (rumi:slo_errors:ratio1h)`, ""},
		{`up == 0`, ""},
		{`sum(`, "parse error"},
		{`rumi_nothing`, "neither docs/metrics.md nor a rule has rumi_nothing"},
		{`rumi_egress_request_duration_seconds`, "neither docs/metrics.md nor a rule has rumi_egress_request_duration_seconds"},
		{`rumi_egress_requests_total{pack="x"}`, "it has no label pack"},
		{`rumi_egress_requests_total{result="refused"}`, "result is always one of"},
		{`rumi_egress_requests_total{result=~"refused|gone"}`, "result is always one of"},
		{`rumi_egress_requests_total{result=~"denied|failed"}`, ""},
		{`rumi_egress_requests_total{result=~"denied|refused"}`, "result is never refused"},
		{`rumi_grants{service="secrets"}`, "only [capability-broker egress-proxy] have it"},
		{`sum by (pack) (rumi_grants)`, "rumi_grants has no label pack to group by"},
		{`rumi_gate_propagation_seconds_bucket{le="1"}`, `not le="1"`},
	} {
		if got := errors.Join(m.Check(c.query)...); (got == nil) != (c.want == "") || got != nil && !strings.Contains(got.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.query, got, c.want)
		}
	}
}
