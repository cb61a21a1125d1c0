package dashboards

import (
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/units"

	"github.com/rumi-ai/rumi/libs/roster"
)

// approvals is which packs may run, who decides it, and how fast the others hear of it.
func approvals() *dashboard.DashboardBuilder {
	traces := links(searchTraces(roster.Approval))
	b := board("rumi-approvals", "Rumi: approvals and gates", "Which packs may run, and how fast a decision takes effect. Who decided is in the audit log: GET /api/audit?category=approval.")
	approvalsNow(b)
	approvalsPacks(b, traces)
	approvalsGates(b, traces)
	return b
}

func approvalsNow(b *dashboard.DashboardBuilder) {
	b.WithRow(row("Now")).
		WithPanel(figure("Packs", "Packs that approval knows, in any status.", units.Short, "sum(rumi_packs)")).
		WithPanel(figure("Wait for a person", "Packs that are pending, modified or blocked.", units.Short, `sum(rumi_packs{status=~"pending|modified|blocked"})`).
			Thresholds(steps(good, step{1, refused}))).
		WithPanel(figure("Gates open", "Packs that may run at this moment, as approval says.", units.Short, `max(rumi_gates{state="open"})`)).
		WithPanel(figure("Followers", "Streams of gates that approval serves: one for each replica of egress-proxy, capability-broker and pip-installer. Good is 3 or more.", units.Short,
			"sum(rumi_gate_followers)").Thresholds(steps(bad, step{3, good}))).
		WithPanel(figure("Oldest gate", "Time since a service last heard from approval. Good is under 2 s. From 5 s on its gates count as closed.", units.Seconds,
			"max(rumi_gate_age_seconds)").Thresholds(steps(good, step{2, warning}, step{lease, bad}))).
		WithPanel(figure("Not watched", "Packs that may run whose changes the kernel can't tell of; they are read at an interval instead. Good is 0.", units.Short,
			"sum(rumi_approval_unwatched_packs)").Thresholds(steps(good, step{1, warning})))
}

func approvalsPacks(b *dashboard.DashboardBuilder, traces traceLinks) {
	b.WithRow(row("Packs")).
		WithPanel(stacked("By status", "Packs by status. A growing modified: something writes to the packs' folders.", units.Short,
			query{"sum by (status) (rumi_packs)", "{{status}}"}).Span(wide)).
		WithPanel(stacked("Decisions", "Decisions of persons in the last 5 minutes. waiting: a second person has to confirm. refused: the pack's state forbids it.", units.Short,
			query{"sum by (decision, result) (increase(rumi_approval_decisions_total[5m]))", "{{result}}: {{decision}}"}).DataLinks(traces).Span(wide)).
		WithPanel(heat("Scans", "Time to read and hash a pack. A scan of an unchanged pack is short, since only fingerprints are compared.",
			"rumi_pack_scan_duration_seconds", "")).
		WithPanel(lines("Scans", "The same as quantiles.", units.Seconds, quantiles("rumi_pack_scan_duration_seconds", "")...).DataLinks(traces)).
		WithPanel(lines("Exceptions", "changed: packs that may run and differed from what was approved, in the last 5 minutes. held closed: a change couldn't be recorded. Good is 0.", units.Short,
			query{"sum(increase(rumi_pack_modifications_total[5m]))", "changed"},
			query{"sum(rumi_packs_held_closed)", "held closed"},
			query{"sum(rumi_approval_requests)", "wait for a second person"}))
}

func approvalsGates(b *dashboard.DashboardBuilder, traces traceLinks) {
	b.WithRow(row("Gates")).
		WithPanel(limit(lines("Age", "Time since each follower last heard from approval. The line is the lease: beyond it, its gates count as closed.", units.Seconds,
			query{"max by (service, instance) (rumi_gate_age_seconds)", "{{service}} {{instance}}"}), lease)).
		WithPanel(limit(lines("Take effect", "Time from a decision until each follower decides by it. Good is under 100 ms. The line is the objective. Points lead to traces.", units.Seconds,
			query{quantile(0.5, "rumi_gate_propagation_seconds", "", "service"), "p50, {{service}}"},
			query{quantile(0.99, "rumi_gate_propagation_seconds", "", "service"), "p99, {{service}}"}).DataLinks(traces), propagationObjective)).
		WithPanel(lines("Open, by follower", "Gates that each follower has open. All should have as many: otherwise one missed a change.", units.Short,
			query{`max by (service, instance) (rumi_gates{state="open"})`, "{{service}} {{instance}}"}))
}
