package dashboards

import (
	"github.com/grafana/grafana-foundation-sdk/go/bargauge"
	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/table"
	"github.com/grafana/grafana-foundation-sdk/go/units"

	"github.com/rumi-ai/rumi/libs/roster"
)

// requests is the histogram of requests that services answer: of the gateway's clients, and of each other.
const requests = "http_server_request_duration_seconds"

// overview is what an operator opens first: is all well, and if not, which dashboard says more?
func overview() *dashboard.DashboardBuilder {
	b := board("rumi-overview", "Rumi: overview", "Is all well? The first line should be green. Each service of the table leads to its own dashboard.")
	overviewNow(b)
	overviewObjectives(b)
	overviewRequests(b)
	overviewRefusals(b)
	overviewKept(b)
	return b
}

func overviewNow(b *dashboard.DashboardBuilder) {
	b.WithRow(row("Now")).
		WithPanel(figure("Services ready", "Services that can do their work, of 7. Fewer: the table shows which one; its dashboard shows why.", units.Short,
			"sum(rumi_ready)").Thresholds(steps(bad, step{float64(len(roster.Names())), good}))).
		WithPanel(figure("Alerts", "Alerts that fire now. Good is 0. Prometheus lists them under Alerts, with what to do.", units.Short,
			`count(ALERTS{alertstate="firing"}) or vector(0)`).Thresholds(steps(good, step{1, bad}))).
		WithPanel(figure("Oldest gate", "Time since a service last heard from approval. Good is under 2 s. From 5 s on its gates count as closed, and packs are refused.", units.Seconds,
			"max(rumi_gate_age_seconds)").Thresholds(steps(good, step{2, warning}, step{lease, bad}))).
		WithPanel(figure("Restart loops", "Containers of packs that end again and again, and wait for their next start. Good is 0.", units.Short,
			"sum(rumi_containers_backing_off)").Thresholds(steps(good, step{1, bad}))).
		WithPanel(figure("Least disk free", "The smallest share that is free in one of the folders. Good is over 20 %. At 5 % an alert fires. Without space nothing is decided, since nothing can be audited.", units.PercentUnit,
			"min(rumi_disk_free_bytes / rumi_disk_size_bytes)").Thresholds(steps(bad, step{0.05, warning}, step{0.2, good}))).
		WithPanel(figure("First certificate ends", "Time until the first certificate of a service ends. It is renewed at the half of its life, which is 90 days by default.", units.Seconds,
			"min(rumi_certificate_expiry_timestamp_seconds - time())").Thresholds(steps(bad, step{7 * day, warning}, step{14 * day, good}))).
		WithPanel(serviceTable())
}

func overviewObjectives(b *dashboard.DashboardBuilder) {
	b.WithRow(row("Objectives")).
		WithPanel(budgets()).
		WithPanel(limit(lines("Use of the budgets", "How fast errors of the last hour use up each budget. 1 uses it up in 30 days, exactly. The line, 14.4, uses it up in two days: an alert fires.", units.Short,
			query{"rumi:slo_errors:ratio1h / on (slo) (1 - rumi:slo_objective:ratio)", "{{slo}}"}), 14.4)).
		WithPanel(limit(lines("Changes take effect, p99", "Time from a change of a gate, a grant or a token until a service decides by it. Good is under 100 ms. The line is the objective.", units.Seconds,
			query{quantile(0.99, "rumi_gate_propagation_seconds", "", "service"), "gates, {{service}}"},
			query{quantile(0.99, "rumi_snapshot_propagation_seconds", "", "service", "snapshot"), "{{snapshot}}, {{service}}"}), propagationObjective))
}

func overviewRequests(b *dashboard.DashboardBuilder) {
	b.WithRow(row("Requests")).
		WithPanel(stacked("Requests of the API", "Requests that the gateway answered, by the class of their status.", units.RequestsPerSecond,
			query{class(rate(requests+"_count", `{service="gateway"}`)), "{{class}}xx"})).
		WithPanel(lines("Time to an answer of the API", "How long requests to the gateway take. Points are single requests: one leads to its trace.", units.Seconds,
			quantiles(requests, `{service="gateway"}`)...).DataLinks(links(searchTraces(roster.Gateway)))).
		WithPanel(lines("Failed requests", "Share of requests that a service answered with 5xx. Good is 0.", units.PercentUnit,
			query{failedShare("service", ""), "{{service}}"}))
}

func overviewRefusals(b *dashboard.DashboardBuilder) {
	b.WithRow(row("Refused")).
		WithPanel(lines("Network, refused", "Requests of packs to the network that were denied, by reason. A surge is a pack that tries what it may not.", units.RequestsPerSecond,
			query{rateBy("reason", "rumi_egress_requests_total", `{result="denied"}`), "{{reason}}"})).
		WithPanel(stacked("Capability calls", "Calls of packs by result. Many that are not ok: see the dashboard of capabilities.", units.RequestsPerSecond,
			query{rateBy("result", "rumi_capability_calls_total", ""), "{{result}}"})).
		WithPanel(lines("API, refused", "Requests that the gateway refused, by reason. Somebody tries tokens, or a program has an old one.", units.RequestsPerSecond,
			query{rateBy("reason", "rumi_api_refusals_total", ""), "{{reason}}"}))
}

func overviewKept(b *dashboard.DashboardBuilder) {
	b.WithRow(row("What runs, and what is kept")).
		WithPanel(stacked("Packs", "Packs by status. A pack that is pending, modified or blocked waits for a person.", units.Short,
			query{"sum by (status) (rumi_packs)", "{{status}}"})).
		WithPanel(stacked("Containers", "Containers of packs by state. One that is restarting has ended, and waits for its next start.", units.Short,
			query{"sum by (state) (rumi_containers)", "{{state}}"})).
		WithPanel(stacked("Installs", "Installs of Python packages in the last hour, by result.", units.Short,
			query{"sum by (result) (increase(rumi_installs_total[1h]))", "{{result}}"})).
		WithPanel(figure("Audit writes failed", "Entries of the audit log that couldn't be written in the last hour. Good is 0: what can't be audited is refused.", units.Short,
			`sum(increase(rumi_audit_entries_total{result="failed"}[1h]))`).Thresholds(steps(good, step{1, bad})).Span(6)).
		WithPanel(figure("Since the last seal", "Time since the sealer last read the audit log. Good is some seconds. Without it, a change of the log isn't noticed.", units.Seconds,
			"time() - max(rumi_audit_sealed_timestamp_seconds)").Thresholds(steps(good, step{60, warning}, step{300, bad})).Span(6)).
		WithPanel(figure("Changed lines", "Sealed lines of the audit log that were changed. Anything but 0: somebody tampers with it, or a disk fails.", units.Short,
			"max(rumi_audit_seal_changes_total)").Thresholds(steps(good, step{1, bad})).Span(6)).
		WithPanel(figure("Newest backup", "Age of the newest verified backup, in intervals of its schedule. Good is up to 1. From 2 on an alert fires. Backups are scheduled by the profile backup.", "suffix: intervals",
			"(time() - max(rumi_backup_newest_timestamp_seconds)) / max(rumi_backup_interval_seconds) or vector(-1)").
			Mappings(text(-1, "not scheduled", warning)).Decimals(1).Thresholds(steps(good, step{1.1, warning}, step{2, bad})).Span(6))
}

// day is a day in seconds.
const day = 24 * 60 * 60

// What deploy/monitoring/prometheus/rules/objectives.yml says, in seconds.
const (
	decisionObjective    = 0.025
	propagationObjective = 1
	lease                = 5
)

// traceLinks are links to traces, as a panel takes them.
type traceLinks = []cog.Builder[dashboard.DashboardLink]

// links are the links of one panel.
func links(of ...cog.Builder[dashboard.DashboardLink]) []cog.Builder[dashboard.DashboardLink] {
	return of
}

// serviceTable has a line for each service, and a link to its dashboard.
func serviceTable() *table.PanelBuilder {
	panel := table.NewPanelBuilder().
		Title("Services").
		Description("One line a service: all replicas together. A click on a name opens its dashboard.").
		Datasource(source).
		Span(24).
		Height(9).
		CellHeight(common.TableCellHeightSm).
		Footer(common.NewTableFooterOptionsBuilder().Show(false).Reducer([]string{})).
		WithTransformation(dashboard.DataTransformerConfig{Id: "merge", Options: map[string]any{}})
	names, order := map[string]string{"service": "Service", "version": "Version"}, map[string]int{"service": 0, "version": 1}
	for i, c := range serviceColumns {
		target := query{expr: c.expr}.target(i).Format(prometheus.PromQueryFormatTable).Instant()
		panel.WithTarget(target)
		column := "Value #" + string(rune('A'+i))
		names[column], order[column] = c.name, len(order)
		if c.unit != "" {
			panel.OverrideByName(c.name, []dashboard.DynamicConfigValue{{Id: "unit", Value: c.unit}})
		}
	}
	return coloured(panel).WithTransformation(dashboard.DataTransformerConfig{Id: "organize", Options: map[string]any{
		"excludeByName": map[string]bool{"Time": true, "Value #C": true},
		"renameByName":  names,
		"indexByName":   order,
	}})
}

// serviceColumns are the columns of the table of services. The third one is there for its label: the version.
var serviceColumns = []struct{ name, unit, expr string }{
	{"Up", "", `min by (service) (up{job="rumi"})`},
	{"Ready", "", "min by (service) (rumi_ready)"},
	{"Build", "", "max by (service, version) (rumi_build_info)"},
	{"Runs for", units.Seconds, `min by (service) (time() - process_start_time_seconds{job="rumi"})`},
	{"Requests", units.RequestsPerSecond, rateBy("service", requests+"_count", "")},
	{"Failed", units.PercentUnit, failedShare("service", "")},
	{"p99", units.Seconds, quantile(0.99, requests, "", "service")},
	{"CPU", units.PercentUnit, rateBy("service", "process_cpu_seconds_total", `{job="rumi"}`)},
	{"Memory", units.BytesIEC, `sum by (service) (process_resident_memory_bytes{job="rumi"})`},
	{"Certificate", units.Seconds, "min by (service) (rumi_certificate_expiry_timestamp_seconds - time())"},
}

// coloured adds the table's colours and links.
func coloured(panel *table.PanelBuilder) *table.PanelBuilder {
	cell := dashboard.DynamicConfigValue{Id: "custom.cellOptions", Value: map[string]string{"type": "color-background"}}
	yesNo := dashboard.DynamicConfigValue{Id: "mappings", Value: []any{map[string]any{"type": "value", "options": map[string]any{
		"0": map[string]any{"text": "no", "color": bad, "index": 0},
		"1": map[string]any{"text": "yes", "color": good, "index": 1},
	}}}}
	link := dashboard.DynamicConfigValue{Id: "links", Value: []any{map[string]any{"title": "Open its dashboard", "url": "/d/rumi-service-${__value.raw}?${__url_time_range}"}}}
	return panel.
		OverrideByName("Up", []dashboard.DynamicConfigValue{cell, yesNo}).
		OverrideByName("Ready", []dashboard.DynamicConfigValue{cell, yesNo}).
		OverrideByName("Service", []dashboard.DynamicConfigValue{link})
}

// budgets shows what is left of the error budget of each objective.
func budgets() *bargauge.PanelBuilder {
	return bargauge.NewPanelBuilder().
		Title("Error budgets").
		Description("What is left of the errors that each objective allows in 30 days. Good is over 50 %. At 0 the objective is missed.").
		Datasource(source).
		Unit(units.PercentUnit).
		Min(0).
		Max(1).
		Span(graphWidth).
		Height(graphHeight).
		Orientation(common.VizOrientationHorizontal).
		DisplayMode(common.BarGaugeDisplayModeBasic).
		ReduceOptions(common.NewReduceDataOptionsBuilder().Calcs([]string{"lastNotNull"})).
		Thresholds(steps(bad, step{0.1, warning}, step{0.5, good})).
		WithTarget(query{"rumi:slo_error_budget_remaining:ratio30d", "{{slo}}"}.target(0))
}

// failedShare is the share of requests that were answered with 5xx, for each value of a label; 0 where there were none.
func failedShare(by, selector string) string {
	all := rateBy(by, requests+"_count", selector)
	failed := rateBy(by, requests+"_count", with(selector, `http_response_status_code=~"5.."`))
	return "(" + failed + " or 0 * " + all + ") / clamp_min(" + all + ", 0.001)"
}

// with adds a matcher to a selector.
func with(selector, matcher string) string {
	if selector == "" {
		return "{" + matcher + "}"
	}
	return selector[:len(selector)-1] + "," + matcher + "}"
}
