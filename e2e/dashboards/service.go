package dashboards

import (
	"fmt"
	"slices"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/units"

	"github.com/rumi-ai/rumi/libs/roster"
)

// callsNobody are the services that call no other one.
var callsNobody = []string{roster.Secrets}

// service is the dashboard of one service. All have the same panels; some have a row of their own, for what no other dashboard has.
func service(s roster.Service) *dashboard.DashboardBuilder {
	of := fmt.Sprintf(`{service=%q,instance=~"$instance"}`, s.Name)
	b := board("rumi-service-"+s.Name, "Rumi service: "+s.Name, "The service "+s.Name+" from inside: requests, calls of others, store, audit log, process.").
		WithVariable(instances(s.Name)).
		Link(searchTraces(s.Name))
	health(b, of)
	answers(b, s, of)
	if !slices.Contains(callsNobody, s.Name) {
		calls(b, of)
	}
	if own := ownRows[s.Name]; own != nil {
		own(b, of)
	}
	storage(b, s, of)
	process(b, of)
	return b
}

// ownRows add to the dashboard of a service what only it has.
var ownRows = map[string]func(b *dashboard.DashboardBuilder, of string){
	roster.EgressProxy:  egressRow,
	roster.Gateway:      gatewayRow,
	roster.PackRegistry: registryRow,
	roster.Secrets:      secretsRow,
}

// instances is the choice between the replicas of a service: all of them at first.
func instances(service string) *dashboard.QueryVariableBuilder {
	return dashboard.NewQueryVariableBuilder("instance").
		Label("Replica").
		Datasource(source).
		Query(dashboard.StringOrMap{String: cog.ToPtr(fmt.Sprintf(`label_values(up{job="rumi",service=%q}, instance)`, service))}).
		Refresh(dashboard.VariableRefreshOnTimeRangeChanged).
		Sort(dashboard.VariableSortAlphabeticalAsc).
		Multi(true).
		IncludeAll(true).
		AllValue(".*").
		Current(dashboard.VariableOption{
			Text:  dashboard.StringOrArrayOfString{String: cog.ToPtr("All")},
			Value: dashboard.StringOrArrayOfString{String: cog.ToPtr("$__all")},
		})
}

func health(b *dashboard.DashboardBuilder, of string) {
	b.WithRow(row("Now")).
		WithPanel(figure("Ready", "Replicas that can do their work. 0: the panel of conditions shows what is missing.", units.Short, "sum(rumi_ready"+of+")").
			Thresholds(steps(bad, step{1, good}))).
		WithPanel(named("{{version}}", "Version", "The version that runs. Two at once: an upgrade is under way.", units.String, "max by (version) (rumi_build_info"+of+")").
			GraphMode(common.BigValueGraphModeNone).TextMode(common.BigValueTextModeName)).
		WithPanel(figure("Runs for", "Time since the youngest replica started. Short again and again: it crashes.", units.Seconds,
			"min(time() - process_start_time_seconds"+of+")").Thresholds(steps(warning, step{300, good}))).
		WithPanel(figure("Failed requests", "Share of requests that were answered with 5xx. Good is 0.", units.PercentUnit, failedShare("service", of)).
			Thresholds(steps(good, step{0.01, warning}, step{0.05, bad}))).
		WithPanel(figure("p99", "Time that 99 of 100 requests stay below.", units.Seconds, quantile(0.99, requests, of))).
		WithPanel(figure("Certificate ends", "Time until the service's certificate ends. It is renewed at the half of its life.", units.Seconds,
			"min(rumi_certificate_expiry_timestamp_seconds"+of+" - time())").Thresholds(steps(bad, step{7 * day, warning}, step{14 * day, good})))
}

func answers(b *dashboard.DashboardBuilder, s roster.Service, of string) {
	traces := links(searchTraces(s.Name))
	b.WithRow(row("Requests that it answers")).
		WithPanel(lines("By route", "Requests a second, by route.", units.RequestsPerSecond,
			query{rateBy("http_route, http_request_method", requests+"_count", of), "{{http_request_method}} {{http_route}}"}).DataLinks(traces)).
		WithPanel(stacked("By status", "Requests a second, by the class of their status.", units.RequestsPerSecond,
			query{class(rate(requests+"_count", of)), "{{class}}xx"}).DataLinks(traces)).
		WithPanel(lines("Under way", "Requests that are being answered, by method. Streams last, so some are always there.", units.Short,
			query{"sum by (http_request_method) (http_server_active_requests" + of + ")", "{{http_request_method}}"})).
		WithPanel(heat("Time to an answer", "How the durations are spread. Points are single requests: one leads to its trace.", requests, of).DataLinks(traces)).
		WithPanel(lines("Time to an answer", "The same as quantiles. Points lead to traces.", units.Seconds, quantiles(requests, of)...).DataLinks(traces)).
		WithPanel(lines("Conditions", "What the service needs to be ready: 1 is met, 0 is not.", units.Short,
			query{"min by (condition) (rumi_condition_ready" + of + ")", "{{condition}}"}).Max(1))
}

func calls(b *dashboard.DashboardBuilder, of string) {
	b.WithRow(row("Other services that it calls")).
		WithPanel(lines("Calls", "Calls a second, by service and result.", units.RequestsPerSecond,
			query{rateBy("peer, result", "rumi_peer_request_duration_seconds_count", of), "{{peer}}: {{result}}"})).
		WithPanel(lines("Time of calls, p99", "How long calls take, by service. Points lead to traces.", units.Seconds,
			query{quantile(0.99, "rumi_peer_request_duration_seconds", of, "peer"), "{{peer}}"})).
		WithPanel(lines("Given up for now", "1: the service failed again and again, and isn't asked for some seconds (the circuit is open). Good is 0.", units.Short,
			query{"max by (peer) (rumi_peer_circuit_open" + of + ")", "{{peer}}"}).Max(1))
}

func storage(b *dashboard.DashboardBuilder, s roster.Service, of string) {
	b.WithRow(row("What it keeps"))
	width := uint32(wide)
	if s.Stateful {
		width = graphWidth
		b.WithPanel(limit(lines("Store, p99", "Time of transactions of its database, waiting included. Good is under 50 ms. Above the line an alert fires: a slow disk, or a lock.", units.Seconds,
			query{quantile(0.99, "db_client_operation_duration_seconds", of, "db_operation_name"), "{{db_operation_name}}"}), 0.5))
	}
	b.WithPanel(lines("Audit entries", "Entries that it wrote, by category and result. Anything failed is refused to who asked.", units.OpsPerSecond,
		query{rateBy("category, result", "rumi_audit_entries_total", of), "{{category}}: {{result}}"}).Span(width)).
		WithPanel(limit(lines("Audit writes, p99", "Time to write entries; those of approval, permission and security are synced to the disk. Above the line an alert fires.", units.Seconds,
			query{quantile(0.99, "rumi_audit_write_duration_seconds", of, "category"), "{{category}}"}).Span(width), 0.25))
}

func process(b *dashboard.DashboardBuilder, of string) {
	b.WithRow(row("Process")).
		WithPanel(lines("Processor", "Processors that it uses. 100 % is one of them, always busy.", units.PercentUnit,
			query{rateBy("instance", "process_cpu_seconds_total", of), "{{instance}}"})).
		WithPanel(lines("Memory", "resident: what the kernel counts, at most 512 MiB. heap: what Go's values take.", units.BytesIEC,
			query{"sum by (instance) (process_resident_memory_bytes" + of + ")", "resident, {{instance}}"},
			query{"sum by (instance) (go_memstats_heap_inuse_bytes" + of + ")", "heap, {{instance}}"})).
		WithPanel(lines("Goroutines and files", "A number that only grows is a leak.", units.Short,
			query{"sum(go_goroutines" + of + ")", "goroutines"},
			query{"sum(process_open_fds" + of + ")", "open files"}))
}

func gatewayRow(b *dashboard.DashboardBuilder, of string) {
	b.WithRow(row("The API")).
		WithPanel(lines("Refused", "Requests that were refused before they reached a service, by reason.", units.RequestsPerSecond,
			query{rateBy("reason", "rumi_api_refusals_total", of), "{{reason}}"})).
		WithPanel(stacked("Tokens and streams", "API tokens by state, and streams of events that clients read.", units.Short,
			query{"max by (state) (rumi_api_tokens" + of + ")", "{{state}} tokens"},
			query{"sum(rumi_event_streams" + of + ")", "event streams"})).
		WithPanel(lines("Questions to the audit log", "Time of GET /api/audit. Good is under 100 ms.", units.Seconds,
			quantiles("rumi_audit_query_duration_seconds", of)...))
}

func secretsRow(b *dashboard.DashboardBuilder, of string) {
	b.WithRow(row("Secrets and certificates")).
		WithPanel(lines("Secrets", "Secrets that are kept. damaged: files that can't be trusted; the log names them. Good is 0.", units.Short, query{"max(rumi_secrets" + of + ")", "secrets"},
			query{"max(rumi_secrets_damaged" + of + ")", "damaged"})).
		WithPanel(stacked("Reads", "Values that capability-broker asked for, by result.", units.RequestsPerSecond,
			query{rateBy("result", "rumi_secret_reads_total", of), "{{result}}"})).
		WithPanel(stacked("Certificates", "Certificates that were signed in the last hour, by result.", units.Short,
			query{"sum by (result) (increase(rumi_certificates_issued_total" + of + "[1h]))", "{{result}}"}))
}

func egressRow(b *dashboard.DashboardBuilder, of string) {
	b.WithRow(row("Names, and spans of packs")).
		WithPanel(lines("Names", "Resolved names in the cache, and look-ups under way. Many look-ups: the DNS servers are slow.", units.Short,
			query{"sum(rumi_egress_cached_names" + of + ")", "in the cache"},
			query{"sum(rumi_egress_resolves_running" + of + ")", "look-ups"}).Span(wide)).
		WithPanel(lines("Spans of packs", "Spans that packs sent, exported to the collector or dropped, and why. rate_limited and over_limit: a pack sends more than it may.", units.CountsPerSecond,
			query{rateBy("result", "rumi_pack_spans_total", of), "{{result}}"}).Span(wide))
}

func registryRow(b *dashboard.DashboardBuilder, of string) {
	b.WithRow(row("Packs")).
		WithPanel(stacked("Changes", "Packs that were applied, rolled back or uninstalled in the last hour, by result.", units.Short,
			query{"sum by (operation, result) (increase(rumi_pack_changes_total" + of + "[1h]))", "{{result}}: {{operation}}"}).Span(wide)).
		WithPanel(lines("Unfinished", "Changes of packs and imports that have begun and not ended, also those that a crash has left. Good is 0 most of the time.", units.Short,
			query{"sum(rumi_pack_changes_unfinished" + of + ")", "changes"},
			query{"sum(rumi_imports_running" + of + ")", "imports"}).Span(wide))
}
