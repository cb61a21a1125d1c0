package table

import (
	"strings"
	"testing"
)

func TestVerdict(t *testing.T) {
	for name, c := range map[string]struct {
		row  Row
		want string
	}{
		"no goal":                       {Row{Ours: 1}, ""},
		"fast enough":                   {Row{Goal: Goal{Bound: 12000}, Ours: 12000}, Reached},
		"too slow":                      {Row{Goal: Goal{Bound: 12000}, Ours: 11999}, Missed},
		"short enough":                  {Row{Unit: Seconds, Goal: Goal{Bound: 1e-3}, Ours: 0.9e-3}, Reached},
		"too long":                      {Row{Unit: Seconds, Goal: Goal{Bound: 1e-3}, Ours: 1.1e-3}, Missed},
		"faster than they":              {Row{Goal: Goal{Ratio: 1}, Ours: 11, Theirs: 10}, Reached},
		"slower than they":              {Row{Goal: Goal{Ratio: 1}, Ours: 9, Theirs: 10}, Missed},
		"fast, but slower than they":    {Row{Goal: Goal{Bound: 5, Ratio: 1}, Ours: 9, Theirs: 10}, Missed},
		"within their time, times 1.3":  {Row{Unit: Seconds, Goal: Goal{Ratio: 1.3}, Ours: 1.2, Theirs: 1}, Reached},
		"beyond their time, times 1.3":  {Row{Unit: Seconds, Goal: Goal{Ratio: 1.3}, Ours: 1.4, Theirs: 1}, Missed},
		"fast, and nobody beside it":    {Row{Goal: Goal{Bound: 5, Ratio: 1}, Ours: 9}, NotCompared},
		"too slow, nobody beside it":    {Row{Goal: Goal{Bound: 5, Ratio: 1}, Ours: 4}, Missed},
		"not measured":                  {Row{Goal: Goal{Bound: 5}, Missing: "no Docker"}, NotMeasured},
		"too much memory":               {Row{Unit: Bytes, Goal: Goal{Bound: 200e6}, Ours: 201e6}, Missed},
		"throughput beyond its share":   {Row{Unit: Flow, Goal: Goal{Ratio: 0.7}, Ours: 0.8, Theirs: 1}, Reached},
		"a comparison that is no goal":  {Row{Ours: 1, Theirs: 2}, ""},
		"throughput short of its share": {Row{Unit: Flow, Goal: Goal{Ratio: 0.7}, Ours: 0.6, Theirs: 1}, Missed},
	} {
		if got := c.row.Verdict(); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestFormat(t *testing.T) {
	for _, c := range []struct {
		unit Unit
		v    float64
		want string
	}{
		{PerSecond, 12.34, "12.3/s"},
		{PerSecond, 688, "688/s"},
		{PerSecond, 7769, "7,769/s"},
		{PerSecond, 9999.6, "10,000/s"},
		{PerSecond, 18349, "18,300/s"},
		{PerSecond, 999940, "999,900/s"},
		{PerSecond, 2.5e6, "2.50 M/s"},
		{Seconds, 57.4e-6, "57 µs"},
		{Seconds, 1e-3, "1 ms"},
		{Seconds, 3.3514e-3, "3.35 ms"},
		{Seconds, 0.1, "100 ms"},
		{Seconds, 1, "1 s"},
		{Seconds, 12.345, "12.35 s"},
		{Bytes, 15.3e6, "15.3 MB"},
		{Bytes, 200e6, "200 MB"},
		{Bytes, 12e3, "12 kB"},
		{Flow, 1.49e9, "1.49 GB/s"},
	} {
		if got := c.unit.Format(c.v); got != c.want {
			t.Errorf("%v: %q, want %q", c.v, got, c.want)
		}
	}
}

func TestPrint(t *testing.T) {
	var out strings.Builder
	err := Print(&out, []Row{
		{Path: "requests", Goal: Goal{Bound: 12000, Ratio: 1}, Ours: 18300, OursMore: "(p99 1 ms)", Beside: "squid", Theirs: 12000, Published: "squid 11,800/s"},
		{Path: "cold start", Unit: Seconds, Goal: Goal{Ratio: 1.3}, Beside: "docker run", Missing: "needs Docker"},
		{Path: "tunnel", Unit: Flow, Ours: 1.5e9, Beside: "squid"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `path        goal                               ours                 beside it, same run   ratio  verdict       published (not run here)
----        ----                               ----                 -------------------   -----  -------       ------------------------
requests    at least 12,000/s and 1.0 × squid  18,300/s (p99 1 ms)  squid 12,000/s        1.52   reached       squid 11,800/s
cold start  at most 1.3 × docker run           needs Docker         docker run: not here         not measured
tunnel                                         1.50 GB/s            squid: not here

1 reached, 0 missed, 0 not compared, 1 not measured. ratio is ours divided by theirs: for rates more is better, for times and memory less.
`
	if out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", out.String(), want)
	}
}
