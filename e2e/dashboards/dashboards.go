// Package dashboards makes Grafana's dashboards. `go generate` writes them to deploy/monitoring/grafana/dashboards, as JSON of the classic
// schema, where Grafana is provisioned with them. To change a dashboard, change the function that makes it and generate anew: what is
// changed in Grafana is lost when Grafana starts again.
//
// The tests hold every dashboard to the same rules: no two panels overlap, each panel has a description and a unit, every variable that is
// defined is used, and every query names metrics and labels that docs/metrics.md has. The journeys run every query against a real Prometheus.
package dashboards

import (
	"encoding/json"
	"fmt"

	"github.com/grafana/grafana-foundation-sdk/go/dashboard"

	"github.com/rumi-ai/rumi/libs/roster"
)

//go:generate go run ./write ../../deploy/monitoring/grafana/dashboards

// all are the builders of all dashboards.
func all() []*dashboard.DashboardBuilder {
	boards := []*dashboard.DashboardBuilder{overview(), egress(), capability(), approvals(), installs()}
	for _, s := range roster.Services() {
		boards = append(boards, service(s))
	}
	return boards
}

// Files are all dashboards as JSON, by the name of their file.
func Files() (map[string][]byte, error) {
	files := make(map[string][]byte)
	for _, builder := range all() {
		board, err := builder.Build()
		if err != nil {
			return nil, err
		}
		numberPanels(board)
		text, err := json.MarshalIndent(board, "", "  ")
		if err != nil {
			return nil, fmt.Errorf("write the dashboard %s: %w", *board.Uid, err)
		}
		files[*board.Uid+".json"] = append(text, '\n')
	}
	return files, nil
}

// numberPanels gives each panel an id. Without one, Grafana numbers panels itself, and links to a panel end with each provisioning.
func numberPanels(board dashboard.Dashboard) {
	for i, p := range board.Panels {
		id := uint32(i + 1)
		if p.RowPanel != nil {
			p.RowPanel.Id = id
		} else {
			p.Panel.Id = &id
		}
	}
}
