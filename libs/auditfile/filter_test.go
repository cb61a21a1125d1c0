package auditfile_test

import (
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/libs/auditfile"
	"github.com/rumi-ai/rumi/libs/fault"
)

func TestFilterMatches(t *testing.T) {
	long := strings.Replace(whole, `"deep":`, `"padding":"`+strings.Repeat("é", 3000)+`NEEDLE\"é","deep":`, 1)
	for _, c := range []struct {
		query auditfile.Query
		line  string
		want  bool
	}{
		{auditfile.Query{}, whole, true},
		{auditfile.Query{Category: "network"}, whole, true},
		{auditfile.Query{Category: "system,network"}, whole, true},
		{auditfile.Query{Category: "system"}, whole, false},
		{auditfile.Query{Action: "network_request,network_denied"}, whole, true},
		{auditfile.Query{Action: "network_request"}, whole, false},
		{auditfile.Query{Action: "x"}, whole, false}, // it is in the details only
		{auditfile.Query{PackID: "weather"}, whole, true},
		{auditfile.Query{PackID: "weather__child"}, whole, false},
		{auditfile.Query{Actor: "pack:weather"}, whole, true},
		{auditfile.Query{Actor: "weather"}, whole, false},
		{auditfile.Query{Success: "false"}, whole, true},
		{auditfile.Query{Success: "true"}, whole, false},
		{auditfile.Query{RequestID: "R", TraceID: "T"}, whole, true},
		{auditfile.Query{RequestID: "T"}, whole, false},
		{auditfile.Query{TraceID: "R"}, whole, false},
		{auditfile.Query{Since: "2026-01-31", Until: "2026-02-01"}, whole, true},
		{auditfile.Query{Since: "2026-01-31T12:00:00.000001Z"}, whole, true},
		{auditfile.Query{Since: "2026-01-31T12:00:00.000002Z"}, whole, false},
		{auditfile.Query{Until: "2026-01-31T12:00:00.000001Z"}, whole, false},
		{auditfile.Query{Until: "2026-01-31T13:00:00.000002+01:00"}, whole, true},
		{auditfile.Query{Q: "a.EXAMPLE"}, whole, true},
		{auditfile.Query{Q: "b.example"}, whole, false},
		{auditfile.Query{Q: `needle"é`}, long, true}, // a quote is escaped in the line
		{auditfile.Query{Q: "needles"}, long, false},
		{auditfile.Query{Q: strings.Repeat("é", 500) + "needle"}, long, true},
		{auditfile.Query{Q: strings.Repeat("\x00", 1000)}, long, false},
	} {
		filter, err := c.query.Filter()
		if err != nil {
			t.Errorf("%+v: %v", c.query, err)
			continue
		}
		e, err := auditfile.Parse([]byte(c.line))
		if err != nil {
			t.Fatal(err)
		}
		if got := filter.Match(&e); got != c.want {
			t.Errorf("%+v matches: %v, want %v", c.query, got, c.want)
		}
	}
}

func TestFilterNamesTheWrongParameter(t *testing.T) {
	for name, query := range map[string]auditfile.Query{
		"category": {Category: "networks"}, "success": {Success: "yes"}, "since": {Since: "yesterday"}, "until": {Until: "2026-13-01"},
		"'until'": {Since: "2026-01-02", Until: "2026-01-02"}, "'q'": {Q: strings.Repeat("x", 1025)}, "'actor'": {Actor: strings.Repeat("x", 1025)},
	} {
		_, err := query.Filter()
		if !fault.Is(err, fault.KindInvalid) || !strings.Contains(err.Error(), name) {
			t.Errorf("%+v: %v, want an invalid request that names %s", query, err, name)
		}
	}
}
