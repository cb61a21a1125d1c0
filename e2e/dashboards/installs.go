package dashboards

import (
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/units"

	"github.com/rumi-ai/rumi/libs/roster"
)

// installs is how packs and their Python packages come onto the machine.
func installs() *dashboard.DashboardBuilder {
	traces := links(searchTraces(roster.PipInstaller))
	b := board("rumi-installs", "Rumi: installs and imports", "How packs and their Python packages arrive. Single installs are in the audit log: GET /api/audit?category=pip.")
	installsNow(b)
	installsPackages(b, traces)
	installsImports(b)
	return b
}

func installsNow(b *dashboard.DashboardBuilder) {
	b.WithRow(row("Now")).
		WithPanel(figure("Running", "Builder containers that install now.", units.Short, "sum(rumi_installs_running)")).
		WithPanel(figure("Waiting", "Installs that wait for a free builder. Good is 0 most of the time.", units.Short, "sum(rumi_installs_waiting)").
			Thresholds(steps(good, step{5, warning}))).
		WithPanel(figure("Failed today", "Installs that failed in the last 24 hours.", units.Short, `sum(increase(rumi_installs_total{result="failed"}[1d]))`).
			Thresholds(steps(good, step{1, bad}))).
		WithPanel(figure("Locks to decide", "Locks of requirements that wait for a person.", units.Short,
			`sum(rumi_candidates{service="pip-installer",state="pending"})`).Thresholds(steps(good, step{1, refused}))).
		WithPanel(figure("Imports failed today", "Imports of packs that failed or were refused in the last 24 hours.", units.Short,
			`sum(increase(rumi_imports_total{result=~"refused|failed"}[1d]))`).Thresholds(steps(good, step{1, warning}))).
		WithPanel(figure("Staged", "Imports that were unpacked and not applied yet. They take disk space.", units.Short, "sum(rumi_staged_packs)"))
}

func installsPackages(b *dashboard.DashboardBuilder, traces traceLinks) {
	b.WithRow(row("Python packages")).
		WithPanel(stacked("Installs", "Installs of approved locks in the last hour. refused: the lock or the pack isn't what was approved. failed: an index or a package.", units.Short,
			query{"sum by (result) (increase(rumi_installs_total[1h]))", "{{result}}"}).DataLinks(traces)).
		WithPanel(lines("Duration of installs", "Time of one install, downloads and the wait for other installs included. Points lead to traces.", units.Seconds,
			quantiles("rumi_install_duration_seconds", "")...).DataLinks(traces)).
		WithPanel(lines("Under way", "Installs that run, and those that wait for a builder.", units.Short,
			query{"sum(rumi_installs_running)", "running"}, query{"sum(rumi_installs_waiting)", "waiting"})).
		WithPanel(stacked("Locks", "Locks of requirements by state.", units.Short,
			query{`sum by (state) (rumi_candidates{service="pip-installer"})`, "{{state}}"}).Span(wide)).
		WithPanel(limit(lines("Gates take effect, p99", "Time from a change of a gate until the installer decides by it. Good is under 100 ms. The line is the objective.", units.Seconds,
			query{quantile(0.99, "rumi_gate_propagation_seconds", `{service="pip-installer"}`), "gates"}).Span(wide), propagationObjective))
}

func installsImports(b *dashboard.DashboardBuilder) {
	b.WithRow(row("Imports of packs")).
		WithPanel(stacked("Imports", "Imports in the last hour. refused: what was sent can't be packs.", units.Short,
			query{"sum by (result) (increase(rumi_imports_total[1h]))", "{{result}}"}).DataLinks(links(searchTraces(roster.PackRegistry)))).
		WithPanel(lines("Duration of imports", "Time to judge, unpack and hash an import. Points lead to traces.", units.Seconds,
			quantiles("rumi_import_duration_seconds", "")...).DataLinks(links(searchTraces(roster.PackRegistry)))).
		WithPanel(lines("Staged", "Imports that were unpacked and not applied yet.", units.Short, query{"sum(rumi_staged_packs)", "staged"}))
}
