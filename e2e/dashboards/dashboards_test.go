package dashboards

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"

	"github.com/rumi-ai/rumi/libs/roster"
)

// folder has the dashboards that Grafana is provisioned with.
const folder = "../../deploy/monitoring/grafana/dashboards"

// committed reads the dashboards of the folder strictly, by the name of their file: what the classic schema doesn't know is an error.
func committed(t *testing.T) map[string]dashboard.Dashboard {
	t.Helper()
	plugins.RegisterDefaultPlugins()
	paths, err := filepath.Glob(filepath.Join(folder, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	boards := make(map[string]dashboard.Dashboard)
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		// The SDK's error is a list, which is there also when it is empty; then it has left out what it was reading.
		var problems cog.BuildErrors
		if err := new(dashboard.Dashboard).UnmarshalJSONStrict(text); err != nil && (!errors.As(err, &problems) || len(problems) > 0) {
			t.Errorf("%s isn't of the classic schema: %v", path, err)
		}
		var board dashboard.Dashboard
		if err := json.Unmarshal(text, &board); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if err := board.Validate(); err != nil {
			t.Errorf("%s isn't valid: %v", path, err)
		}
		boards[filepath.Base(path)] = board
	}
	return boards
}

// panels are the panels of a dashboard without its rows.
func panels(board dashboard.Dashboard) []dashboard.Panel {
	var all []dashboard.Panel
	for _, p := range board.Panels {
		if p.Panel != nil {
			all = append(all, *p.Panel)
		}
	}
	return all
}

// targets are the queries of a panel.
func targets(t *testing.T, p dashboard.Panel) []*prometheus.Dataquery {
	t.Helper()
	var all []*prometheus.Dataquery
	for _, target := range p.Targets {
		q, ok := target.(*prometheus.Dataquery)
		if !ok {
			t.Fatalf("panel %q has a target of the type %T, want a query to Prometheus", *p.Title, target)
		}
		all = append(all, q)
	}
	return all
}

func TestCommitted(t *testing.T) {
	want, err := Files()
	if err != nil {
		t.Fatal(err)
	}
	paths, err := filepath.Glob(filepath.Join(folder, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if want[filepath.Base(path)] == nil {
			t.Errorf("%s isn't generated; run `go generate ./e2e/dashboards`", path)
		}
	}
	for name, text := range want {
		if got, err := os.ReadFile(filepath.Join(folder, name)); err != nil || !bytes.Equal(got, text) {
			t.Errorf("%s isn't what the code makes (%v); run `go generate ./e2e/dashboards`", name, err)
		}
	}
}

func TestOneForEachService(t *testing.T) {
	boards := committed(t)
	for _, name := range roster.Names() {
		if _, ok := boards["rumi-service-"+name+".json"]; !ok {
			t.Errorf("no dashboard of the service %s", name)
		}
	}
}

// TestSchema checks what a dashboard's schema can't say: unique ids, and names of data sources that are provisioned.
func TestSchema(t *testing.T) {
	for name, board := range committed(t) {
		if got, want := *board.Uid+".json", name; got != want {
			t.Errorf("%s has the uid of %s", want, got)
		}
		ids := make(map[uint32]bool)
		for _, p := range panels(board) {
			if p.Id == nil || ids[*p.Id] {
				t.Fatalf("%s, panel %q: no id, or one that another has", name, *p.Title)
			}
			ids[*p.Id] = true
			for _, q := range targets(t, p) {
				if q.Datasource == nil || *q.Datasource.Uid != "prometheus" {
					t.Errorf("%s, panel %q: %s isn't of the data source prometheus", name, *p.Title, q.Expr)
				}
			}
		}
	}
}

// TestLayout checks that panels fill the grid: each cell of 24 columns belongs to one panel, down to the last line.
func TestLayout(t *testing.T) {
	const columns, most = 24, 24
	for name, board := range committed(t) {
		cells, height := make(map[[2]uint32]string), uint32(0)
		for _, p := range board.Panels {
			title, at := "", dashboard.GridPos{}
			if p.RowPanel != nil {
				title, at = *p.RowPanel.Title, *p.RowPanel.GridPos
			} else {
				title, at = *p.Panel.Title, *p.Panel.GridPos
			}
			height = max(height, at.Y+at.H)
			for x := at.X; x < at.X+at.W; x++ {
				for y := at.Y; y < at.Y+at.H; y++ {
					if other, taken := cells[[2]uint32{x, y}]; taken || x >= columns {
						t.Fatalf("%s: %q is at column %d, line %d, where %q is, or beyond the last column", name, title, x, y, other)
					}
					cells[[2]uint32{x, y}] = title
				}
			}
		}
		if got, want := len(cells), int(height*columns); got != want {
			t.Errorf("%s: panels take %d cells of the grid, want all %d: it has a hole", name, got, want)
		}
		if got := len(panels(board)); got > most {
			t.Errorf("%s has %d panels, want %d at most: nobody reads more", name, got, most)
		}
	}
}

// TestPanelsExplainThemselves checks that each panel has a title, a sentence and a unit, and that its series have names.
func TestPanelsExplainThemselves(t *testing.T) {
	for name, board := range committed(t) {
		for _, p := range panels(board) {
			if *p.Title == "" || p.Description == nil || !strings.HasSuffix(*p.Description, ".") {
				t.Errorf("%s, panel %q: no title, or no sentence that describes it", name, *p.Title)
			}
			if p.Type != "table" && p.FieldConfig.Defaults.Unit == nil {
				t.Errorf("%s, panel %q has no unit", name, *p.Title)
			}
			for _, q := range targets(t, p) {
				if p.Type != "table" && *q.LegendFormat == "" {
					t.Errorf("%s, panel %q: the series of %s have no name", name, *p.Title, q.Expr)
				}
			}
		}
	}
}

// TestHistogramsLeadToTraces checks that each graph of a histogram asks for exemplars.
func TestHistogramsLeadToTraces(t *testing.T) {
	for name, board := range committed(t) {
		for _, p := range panels(board) {
			for _, q := range targets(t, p) {
				graph := p.Type == "timeseries" || p.Type == "heatmap"
				if got, want := q.Exemplar != nil && *q.Exemplar, graph && strings.Contains(q.Expr, "_bucket"); got != want {
					t.Errorf("%s, panel %q: exemplars %v, want %v", name, *p.Title, got, want)
				}
			}
		}
	}
}

// builtIn are the variables that Grafana defines.
var builtIn = []string{"__rate_interval", "__from", "__to", "__value", "__url_time_range", "__all"}

// TestVariables checks that each variable that a dashboard defines is used in a query, and that each one that is used is defined.
func TestVariables(t *testing.T) {
	variable := regexp.MustCompile(`\$\{?([A-Za-z_]\w*)`)
	for name, board := range committed(t) {
		used := make(map[string]bool)
		for _, p := range panels(board) {
			for _, q := range targets(t, p) {
				for _, match := range variable.FindAllStringSubmatch(q.Expr, -1) {
					used[match[1]] = true
				}
			}
		}
		var defined []string
		for _, v := range board.Templating.List {
			defined = append(defined, v.Name)
			if !used[v.Name] {
				t.Errorf("%s defines the variable %s, which no query uses", name, v.Name)
			}
		}
		for _, v := range variable.FindAllStringSubmatch(whole(t, board), -1) {
			if !slices.Contains(builtIn, v[1]) && !slices.Contains(defined, v[1]) {
				t.Errorf("%s uses the variable %s, which it doesn't define; it defines %v", name, v[1], defined)
			}
		}
	}
}

// whole is a dashboard as JSON.
func whole(t *testing.T, board dashboard.Dashboard) string {
	t.Helper()
	out, err := json.Marshal(board)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// TestLinks checks that links to dashboards lead to dashboards that there are.
func TestLinks(t *testing.T) {
	boards := committed(t)
	uid := regexp.MustCompile(`/d/(rumi-[a-z-]+)`)
	for name, board := range boards {
		for _, match := range uid.FindAllStringSubmatch(whole(t, board), -1) {
			// The overview's table makes its links of the names of services.
			if !strings.HasSuffix(match[1], "-") && boards[match[1]+".json"].Uid == nil {
				t.Errorf("%s leads to %s, which isn't among %v", name, match[1], slices.Sorted(maps.Keys(boards)))
			}
		}
	}
}
