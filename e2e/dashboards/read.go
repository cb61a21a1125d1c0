package dashboards

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-json-experiment/json"
)

// Query is one query of a panel, as Grafana would send it.
type Query struct {
	Dashboard string // its title
	Panel     string // its title
	Expr      string // with Grafana's variables
	Exemplars bool   // whether the panel asks for exemplars, too
}

// String says where the query is.
func (q Query) String() string { return fmt.Sprintf("%s, panel %q: %s", q.Dashboard, q.Panel, q.Expr) }

// file is what Read needs of a dashboard's JSON.
type file struct {
	Title  string `json:"title"`
	Panels []struct {
		Title   string `json:"title"`
		Targets []struct {
			Expr     string `json:"expr"`
			Exemplar bool   `json:"exemplar"`
		} `json:"targets"`
	} `json:"panels"`
}

// Read returns all queries of the dashboards in a folder.
func Read(folder string) ([]Query, error) {
	paths, err := filepath.Glob(filepath.Join(folder, "*.json"))
	if err != nil {
		return nil, err
	}
	var queries []Query
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		var f file
		if err := json.Unmarshal(text, &f); err != nil {
			return nil, fmt.Errorf("read the dashboard %s: %w", path, err)
		}
		for _, p := range f.Panels {
			for _, t := range p.Targets {
				queries = append(queries, Query{Dashboard: f.Title, Panel: p.Title, Expr: t.Expr, Exemplars: t.Exemplar})
			}
		}
	}
	return queries, nil
}

// Resolve is the query with values in place of Grafana's variables: all replicas, and rates over window, such as "1m".
func (q Query) Resolve(window string) string {
	return strings.NewReplacer("$__rate_interval", window, "$instance", ".*").Replace(q.Expr)
}
