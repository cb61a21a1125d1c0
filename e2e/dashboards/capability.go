package dashboards

import (
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/units"

	"github.com/rumi-ai/rumi/libs/roster"
)

// capability makes the dashboard of packs' capability calls and of the containers that serve them.
func capability() *dashboard.DashboardBuilder {
	const of = `{service="capability-broker"}`
	traces := links(searchTraces(roster.CapabilityBroker))
	b := board("rumi-capability", "Rumi: capabilities and containers", "Capability calls of packs, the workers that serve them, and all containers. Single calls are in the audit log: GET /api/audit?category=permission.")
	capabilityNow(b)
	capabilityCalls(b, of, traces)
	capabilityWorkers(b, traces)
	capabilityDecisions(b, of)
	return b
}

func capabilityNow(b *dashboard.DashboardBuilder) {
	b.WithRow(row("Now")).
		WithPanel(figure("Calls", "Capability calls a second, all results.", units.RequestsPerSecond, "sum("+rate("rumi_capability_calls_total", "")+")")).
		WithPanel(figure("Not ok", "Share of calls that were refused or failed.", units.PercentUnit,
			"sum("+rate("rumi_capability_calls_total", `{result!="ok"}`)+") / clamp_min(sum("+rate("rumi_capability_calls_total", "")+"), 0.001)").
			Thresholds(steps(good, step{0.1, warning}, step{0.5, bad}))).
		WithPanel(figure("Decision, p99", "Time from a call until it is judged (99 of 100). Good is under 5 ms. 25 ms is the objective.", units.Seconds,
			quantile(0.99, "rumi_capability_decision_duration_seconds", "")).Thresholds(steps(good, step{0.005, warning}, step{decisionObjective, bad}))).
		WithPanel(figure("Queue", "Calls that wait for a free worker. Good is 0 most of the time.", units.Short, "sum(rumi_capability_queue_length)").
			Thresholds(steps(good, step{10, warning}, step{50, bad}))).
		WithPanel(figure("Packs running", "Containers of packs that run.", units.Short, `sum(rumi_containers{state="running"})`)).
		WithPanel(figure("Restart loops", "Packs that end soon after each start, and are started ever later. Good is 0. After 10 minutes an alert fires.", units.Short,
			"sum(rumi_containers_backing_off)").Thresholds(steps(good, step{1, bad})))
}

func capabilityCalls(b *dashboard.DashboardBuilder, of string, traces traceLinks) {
	b.WithRow(row("Calls")).
		WithPanel(stacked("By result", "ok, or the type of the error that the pack got.", units.RequestsPerSecond,
			query{rateBy("result", "rumi_capability_calls_total", ""), "{{result}}"}).DataLinks(traces)).
		WithPanel(heat("Whole calls", "From a call's frame to its answer; with the handler's own time. Points are single calls: one leads to its trace.",
			"rumi_capability_call_duration_seconds", "").DataLinks(traces)).
		WithPanel(lines("Whole calls", "The same as quantiles. Points lead to traces.", units.Seconds,
			quantiles("rumi_capability_call_duration_seconds", "")...).DataLinks(traces)).
		WithPanel(limit(lines("Decision", "From a call until it is judged, the audit entry included. The line is the objective.", units.Seconds,
			quantiles("rumi_capability_decision_duration_seconds", "")...).DataLinks(traces), decisionObjective)).
		WithPanel(lines("Denied, by reason", "Why calls were refused. One reason that surges is one pack, or one grant that is missing. workers_busy: too few workers.", units.RequestsPerSecond,
			query{rateBy("reason", "rumi_capability_denials_total", ""), "{{reason}}"})).
		WithPanel(limit(lines("Changes take effect, p99", "Time from a change of a gate, a grant or a trust until the broker decides by it. Good is under 100 ms. The line is the objective.", units.Seconds,
			query{quantile(0.99, "rumi_gate_propagation_seconds", of), "gates"},
			query{quantile(0.99, "rumi_snapshot_propagation_seconds", of, "snapshot"), "{{snapshot}}"}), propagationObjective))
}

func capabilityWorkers(b *dashboard.DashboardBuilder, traces traceLinks) {
	b.WithRow(row("Workers and containers")).
		WithPanel(stacked("Workers", "Workers of handlers by state. All busy, and a queue: raise RUMI_CAPABILITY_WORKERS.", units.Short,
			query{"sum by (state) (rumi_capability_workers)", "{{state}}"})).
		WithPanel(lines("Wait for a worker", "Time that calls waited for a free worker. It grows: handlers are slow, or workers too few.", units.Seconds,
			quantiles("rumi_capability_queue_duration_seconds", "")...).DataLinks(traces)).
		WithPanel(stacked("Starts of workers", "Starts in the last 5 minutes, by result. Workers are warm: few starts are good. paused: handlers that ended too often.", units.Short,
			query{"sum by (result) (increase(rumi_capability_worker_starts_total[5m]))", "{{result}}"},
			query{"sum(rumi_capability_handlers_paused)", "handlers paused"})).
		WithPanel(stacked("Packs", "Containers of packs by state. One that is restarting has ended, and waits for its next start. stuck: the engine doesn't do what it is asked.", units.Short,
			query{"sum by (state) (rumi_containers)", "{{state}}"},
			query{"sum(rumi_containers_unreconciled)", "stuck"})).
		WithPanel(stacked("Starts of packs", "Starts in the last 5 minutes, by operators and after an end, by result.", units.Short,
			query{"sum by (result) (increase(rumi_container_starts_total[5m]))", "{{result}}"})).
		WithPanel(lines("Ends of packs", "How often packs ended in the last 5 minutes, by reason. out_of_memory: raise the pack's memory, or ask its author.", units.Short,
			query{"sum by (reason) (increase(rumi_container_ends_total[5m]))", "{{reason}}"}))
}

func capabilityDecisions(b *dashboard.DashboardBuilder, of string) {
	b.WithRow(row("Decisions of persons")).
		WithPanel(stacked("Grants", "Capability grants by state. A suspended one is no longer covered by the policy.", units.Short,
			query{"sum by (state) (rumi_grants" + of + ")", "{{state}}"})).
		WithPanel(stacked("Handlers", "Handlers that packs bring, by state. Pending ones wait for a person.", units.Short,
			query{"sum by (state) (rumi_candidates" + of + ")", "{{state}}"})).
		WithPanel(stacked("Reads of secrets", "Values of secrets that packs asked for, by result.", units.RequestsPerSecond,
			query{rateBy("result", "rumi_secret_reads_total", of), "{{result}}"}))
}
