package dashboards

import (
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/units"

	"github.com/rumi-ai/rumi/libs/roster"
)

// capability is what packs call, and the containers that serve it.
func capability() *dashboard.DashboardBuilder {
	const of = `{service="capability-broker"}`
	traces := links(searchTraces(roster.CapabilityBroker))
	return board("rumi-capability", "Rumi: capabilities and containers", "Capability calls of packs, the workers that serve them, and all containers. Single calls are in the audit log: GET /api/audit?category=permission.").
		WithRow(row("Now")).
		WithPanel(figure("Calls", "Capability calls a second, all results.", units.RequestsPerSecond, "sum("+rate("rumi_capability_calls_total", "")+")")).
		WithPanel(figure("Not ok", "Share of calls that were refused or failed.", units.PercentUnit,
			"sum("+rate("rumi_capability_calls_total", `{result!="ok"}`)+") / clamp_min(sum("+rate("rumi_capability_calls_total", "")+"), 0.001)").
			Thresholds(steps(good, step{0.1, warning}, step{0.5, bad}))).
		WithPanel(figure("Decision, p99", "Time from a call until it is judged (99 of 100). Good is under 5 ms.", units.Seconds,
			quantile(0.99, "rumi_capability_decision_duration_seconds", "")).Thresholds(steps(good, step{0.005, warning}, step{0.05, bad}))).
		WithPanel(figure("Queue", "Calls that wait for a free worker. Good is 0 most of the time.", units.Short, "sum(rumi_capability_queue_length)").
			Thresholds(steps(good, step{10, warning}, step{50, bad}))).
		WithPanel(figure("Containers running", "Containers of packs and handlers that run.", units.Short, `sum(rumi_containers{state="running"})`)).
		WithPanel(figure("Restart loops", "Containers that end again and again, and wait for their next start. Good is 0.", units.Short,
			"sum(rumi_containers_backing_off)").Thresholds(steps(good, step{1, bad}))).
		WithRow(row("Calls")).
		WithPanel(stacked("By result", "ok, or the type of the error that the pack got.", units.RequestsPerSecond,
			query{rateBy("result", "rumi_capability_calls_total", ""), "{{result}}"}).DataLinks(traces)).
		WithPanel(heat("Whole calls", "From a call's frame to its answer; with the handler's own time. Points are single calls: one leads to its trace.",
			"rumi_capability_call_duration_seconds", "").DataLinks(traces)).
		WithPanel(lines("Whole calls", "The same as quantiles. Points lead to traces.", units.Seconds,
			quantiles("rumi_capability_call_duration_seconds", "")...).DataLinks(traces)).
		WithPanel(limit(lines("Decision", "From a call until it is judged, the audit entry included. The line is the promise.", units.Seconds,
			quantiles("rumi_capability_decision_duration_seconds", "")...).DataLinks(traces), 0.005)).
		WithPanel(lines("Secret reads", "Values of secrets that handlers and packs asked for, by result.", units.RequestsPerSecond,
			query{rateBy("result", "rumi_secret_reads_total", of), "{{result}}"})).
		WithPanel(lines("Grants take effect, p99", "Time from a change of a grant, a trust or a gate until the broker acts on it. Good is under 100 ms.", units.Seconds,
			query{quantile(0.99, "rumi_gate_propagation_seconds", of), "gates"},
			query{quantile(0.99, "rumi_snapshot_propagation_seconds", of, "snapshot"), "{{snapshot}}"})).
		WithRow(row("Workers and containers")).
		WithPanel(stacked("Workers", "Workers of handlers by state. All busy and a queue: raise the limit of workers.", units.Short,
			query{"sum by (state) (rumi_capability_workers)", "{{state}}"})).
		WithPanel(lines("Queue", "Calls that wait for a free worker.", units.Short, query{"sum(rumi_capability_queue_length)", "waiting"})).
		WithPanel(stacked("Starts of workers", "Starts in the last 5 minutes, by result. Workers are warm: few starts are good.", units.Short,
			query{"sum by (result) (increase(rumi_capability_worker_starts_total[5m]))", "{{result}}"})).
		WithPanel(stacked("Containers", "Containers of packs and handlers by state.", units.Short,
			query{"sum by (state) (rumi_containers)", "{{state}}"})).
		WithPanel(stacked("Starts of containers", "Starts in the last 5 minutes, by result, and restarts of packs that ended.", units.Short,
			query{"sum by (result) (increase(rumi_container_starts_total[5m]))", "{{result}}"},
			query{"sum(increase(rumi_container_restarts_total[5m]))", "restarts"})).
		WithPanel(stacked("Grants and handlers", "Capability grants by state, and handlers that wait for a decision.", units.Short,
			query{"sum by (state) (rumi_grants" + of + ")", "{{state}} grants"},
			query{`sum(rumi_candidates{service="capability-broker",state="pending"})`, "pending handlers"}))
}
