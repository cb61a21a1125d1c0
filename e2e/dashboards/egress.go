package dashboards

import (
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/units"

	"github.com/rumi-ai/rumi/libs/roster"
)

// egress makes the dashboard of packs' requests to the network: what is refused and why, how long requests take, how many bytes flow.
func egress() *dashboard.DashboardBuilder {
	const of = `{service="egress-proxy"}`
	traces := links(searchTraces(roster.EgressProxy))
	b := board("rumi-egress", "Rumi: egress", "Requests of packs to the network. What a refused request was, the audit log says: GET /api/audit?category=network.")
	egressNow(b)
	egressRequests(b, traces)
	egressTime(b, of, traces)
	egressFlow(b, of)
	return b
}

func egressNow(b *dashboard.DashboardBuilder) {
	b.WithRow(row("Now")).
		WithPanel(figure("Requests", "Requests of packs a second, all results.", units.RequestsPerSecond, "sum("+rate("rumi_egress_requests_total", "")+")")).
		WithPanel(figure("Denied", "Share of requests that were refused by policy. It should change only when packs or grants do.", units.PercentUnit,
			"sum("+rate("rumi_egress_requests_total", `{result="denied"}`)+") / clamp_min(sum("+rate("rumi_egress_requests_total", "")+"), 0.001)").
			Thresholds(steps(good, step{0.1, refused}, step{0.5, bad}))).
		WithPanel(figure("Decision, p99", "Time from a request until it is judged, before its host's name is resolved (99 of 100). Good is under 5 ms. 25 ms is the objective.", units.Seconds,
			quantile(0.99, "rumi_egress_decision_duration_seconds", "")).Thresholds(steps(good, step{0.005, warning}, step{decisionObjective, bad}))).
		WithPanel(figure("Under way", "Streams, tunnels and requests that last now.", units.Short, "sum(rumi_egress_streams)")).
		WithPanel(figure("Grants in force", "Network grants that allow something.", units.Short, `sum(rumi_grants{service="egress-proxy",state="active"})`)).
		WithPanel(figure("Grants suspended", "Network grants that the policy no longer covers: they allow nothing.", units.Short,
			`sum(rumi_grants{service="egress-proxy",state="suspended"})`).Thresholds(steps(good, step{1, refused})))
}

func egressRequests(b *dashboard.DashboardBuilder, traces traceLinks) {
	b.WithRow(row("Requests")).
		WithPanel(stacked("By result", "allowed: a server answered. denied: refused by policy. failed: allowed, but no server answered.", units.RequestsPerSecond,
			query{rateBy("result", "rumi_egress_requests_total", ""), "{{result}}"}).DataLinks(traces)).
		WithPanel(lines("Denied, by reason", "Why requests were refused. One reason that surges is one pack, or one grant that is missing.", units.RequestsPerSecond,
			query{rateBy("reason", "rumi_egress_requests_total", `{result="denied"}`), "{{reason}}"})).
		WithPanel(lines("Failed, by reason", "Why allowed requests got no answer: names that don't resolve, servers that refuse or are too slow.", units.RequestsPerSecond,
			query{rateBy("reason", "rumi_egress_requests_total", `{result="failed"}`), "{{reason}}"}))
}

func egressTime(b *dashboard.DashboardBuilder, of string, traces traceLinks) {
	b.WithRow(row("Time")).
		WithPanel(heat("Whole requests", "From a request to the end of its answer; mostly the server's time. Points are single requests: one leads to its trace.",
			"rumi_egress_request_duration_seconds", "").DataLinks(traces)).
		WithPanel(lines("Whole requests", "The same as quantiles, without tunnels and upgraded connections. Points lead to traces.", units.Seconds,
			quantiles("rumi_egress_request_duration_seconds", "")...).DataLinks(traces)).
		WithPanel(limit(lines("Decision", "From a request until it is judged. The line is the objective. Above it: the processor is busy, or the audit log's disk is slow.", units.Seconds,
			quantiles("rumi_egress_decision_duration_seconds", "")...).DataLinks(traces), decisionObjective)).
		WithPanel(lines("Resolve names, p99", "Time to resolve the name of a granted host, by result. Over 1 s: look at the DNS servers.", units.Seconds,
			query{quantile(0.99, "rumi_egress_resolve_duration_seconds", "", "result"), "{{result}}"}).DataLinks(traces)).
		WithPanel(lines("Connect, p99", "Time to connect to the address that was decided on, TLS included, by result.", units.Seconds,
			query{quantile(0.99, "rumi_egress_connect_duration_seconds", "", "result"), "{{result}}"}).DataLinks(traces)).
		WithPanel(limit(lines("Changes take effect, p99", "Time from a change of a gate or a grant until the proxy decides by it. Good is under 100 ms. The line is the objective.", units.Seconds,
			query{quantile(0.99, "rumi_gate_propagation_seconds", of), "gates"},
			query{quantile(0.99, "rumi_snapshot_propagation_seconds", of, "snapshot"), "{{snapshot}}"}), propagationObjective))
}

func egressFlow(b *dashboard.DashboardBuilder, of string) {
	b.WithRow(row("What flows")).
		WithPanel(lines("Under way, by kind", "Requests that last: frame and http (over the pack's socket), tunnel (TLS), websocket.", units.Short,
			query{"sum by (kind) (rumi_egress_streams)", "{{kind}}"})).
		WithPanel(lines("Bytes", "What flows to servers and from them, while it flows; tunnels and streams included.", units.BytesPerSecondIEC,
			query{"sum(" + rate("rumi_egress_sent_bytes_total", "") + ")", "sent by packs"},
			query{"sum(" + rate("rumi_egress_received_bytes_total", "") + ")", "received by packs"})).
		WithPanel(lines("Sockets", "Sockets of packs, connections on them, and requests that wait because their pack has 64 at servers.", units.Short,
			query{"sum(rumi_sockets" + of + ")", "sockets"},
			query{"sum(rumi_socket_connections" + of + ")", "connections"},
			query{"sum(rumi_egress_requests_waiting)", "requests waiting"}))
}
