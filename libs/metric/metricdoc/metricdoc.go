// Package metricdoc compares docs/metrics.md with the metrics that services expose. A test of each service starts it and calls Check. The page
// is written by
//
//	go generate ./e2e/docs
//
// which runs these tests with RUMI_WRITE_METRICS=1.
package metricdoc

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
)

// Common is the section of the page with the metrics that every service has.
const Common = "every service"

// writing is the variable of the environment that has the page written instead of compared.
const writing = "RUMI_WRITE_METRICS"

// open are the labels whose values aren't listed on the page, with what it says of them instead. A label that isn't here has few values, all of
// which are there from the start of the service.
var open = map[string]string{
	"condition":                 "a condition of the service, as `GET /api/health` names it",
	"db_system_name":            "`sqlite` or `postgresql`",
	"folder":                    "`audit`, `state` and other folders that the service writes to",
	"go_version":                "the version of Go that built the service",
	"http_request_method":       "the method; `_OTHER` for one that HTTP doesn't define",
	"http_response_status_code": "the status",
	"http_route":                "a pattern of the service's routes; empty for a path that is none",
	"peer":                      "the name of a service that this one calls",
	"quantile":                  "a quantile",
	"revision":                  "the Git revision of the build",
	"version":                   "the version of the build",
}

// maxValues bounds the values of a label that isn't open.
const maxValues = 40

// Check fails t where the section of docs/metrics.md isn't what registry exposes, in either direction; and where a metric has no good name, no
// series yet, or a label that isn't bounded. Metrics of the section Common are in no other.
func Check(t testing.TB, registry *prometheus.Registry, section string) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range problems(registry, families) {
		t.Error(problem)
	}
	page := readPage(t)
	if section != Common {
		families = withoutCommon(t, families, page)
	}
	slices.SortStableFunc(families, func(a, b *dto.MetricFamily) int { return cmp.Compare(foreign(a), foreign(b)) })
	want := table(families)
	got, ok := page.section(section)
	if !ok {
		t.Fatalf("%s has no section of %s: add the lines %q and %q", page.path, section, begin(section), end)
	}
	if os.Getenv(writing) != "" {
		page.replace(t, section, want)
		return
	}
	if got != want {
		t.Errorf("%s isn't what %s exposes; run: go generate ./e2e/docs\n%s", page.path, section, difference(got, want))
	}
}

// problems are what is wrong with the metrics themselves.
func problems(registry *prometheus.Registry, families []*dto.MetricFamily) []string {
	var found []string
	exposed := map[string]bool{}
	for _, f := range families {
		exposed[f.GetName()] = true
		for name, values := range labels(f) {
			if _, ok := open[name]; !ok && len(values) > maxValues {
				found = append(found, fmt.Sprintf("%s has %d values of the label %s, want %d at most: the label isn't bounded", f.GetName(), len(values), name, maxValues))
			}
		}
	}
	for _, name := range described(registry) {
		if !exposed[name] {
			found = append(found, name+" is registered, and exposed by nothing: make its series when the service starts (WithLabelValues)")
		}
	}
	linted, err := promlint.NewWithMetricFamilies(own(families)).Lint()
	if err != nil {
		found = append(found, err.Error())
	}
	for _, p := range linted {
		found = append(found, p.Metric+": "+p.Text)
	}
	return found
}

// foreign is 1 for the metrics of the library's collectors, whose names are as they are, and 0 for ours.
func foreign(f *dto.MetricFamily) int {
	for _, prefix := range []string{"go_", "process_", "promhttp_"} {
		if strings.HasPrefix(f.GetName(), prefix) {
			return 1
		}
	}
	return 0
}

// own are the families that aren't foreign.
func own(families []*dto.MetricFamily) []*dto.MetricFamily {
	return slices.DeleteFunc(slices.Clone(families), func(f *dto.MetricFamily) bool { return foreign(f) == 1 })
}

// descName finds the name of a metric in its description, which has no other way to it.
var descName = regexp.MustCompile(`^Desc\{fqName: "([^"]+)"`)

// described are the names of all metrics that are registered.
func described(registry *prometheus.Registry) []string {
	descs := make(chan *prometheus.Desc)
	go func() { registry.Describe(descs); close(descs) }()
	var names []string
	for d := range descs {
		if m := descName.FindStringSubmatch(d.String()); m != nil {
			names = append(names, m[1])
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// labels are the values of each label of a family, sorted.
func labels(f *dto.MetricFamily) map[string][]string {
	found := map[string][]string{}
	for _, m := range f.Metric {
		for _, l := range m.Label {
			found[l.GetName()] = append(found[l.GetName()], l.GetValue())
		}
	}
	for name, values := range found {
		slices.Sort(values)
		found[name] = slices.Compact(values)
	}
	return found
}

// table is a section of the page.
func table(families []*dto.MetricFamily) string {
	if len(families) == 0 {
		return "None of its own.\n"
	}
	var out strings.Builder
	out.WriteString("| metric | type | unit | labels | what |\n|---|---|---|---|---|\n")
	for _, f := range families {
		fmt.Fprintf(&out, "| `%s` | %s | %s | %s | %s |\n", f.GetName(), strings.ToLower(f.GetType().String()), unit(f.GetName()), labelCell(f), strings.ReplaceAll(f.GetHelp(), "|", `\|`))
	}
	return out.String()
}

// unit is what a metric's name says about its unit; "" for a count.
func unit(name string) string {
	name = strings.TrimSuffix(name, "_total")
	switch {
	case strings.HasSuffix(name, "_timestamp_seconds"), strings.HasSuffix(name, "_start_time_seconds"):
		return "seconds since 1970"
	case strings.HasSuffix(name, "_seconds"):
		return "seconds"
	case strings.HasSuffix(name, "_bytes"):
		return "bytes"
	}
	return ""
}

// labelCell lists the labels, sorted, with their values.
func labelCell(f *dto.MetricFamily) string {
	var cells []string
	for name, values := range labels(f) {
		text := open[name]
		if text == "" {
			text = "`" + strings.Join(values, "`, `") + "`"
		}
		cells = append(cells, "`"+name+"`: "+text)
	}
	slices.Sort(cells)
	return strings.Join(cells, "<br>")
}

// page is docs/metrics.md. A section is between two comments; all else is written by hand.
type page struct{ path, text string }

const end = "<!-- end -->"

func begin(section string) string { return "<!-- metrics of " + section + " -->" }

// readPage reads the page of the repository in which the test runs.
func readPage(t testing.TB) *page {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			break
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.work in any folder above the test's: the repository isn't whole")
		}
	}
	p := &page{path: filepath.Join(dir, "docs", "metrics.md")}
	text, err := os.ReadFile(p.path)
	if err != nil {
		t.Fatal(err)
	}
	p.text = string(text)
	return p
}

// bounds are where the text of a section begins and ends.
func (p *page) bounds(section string) (from, to int, ok bool) {
	at := strings.Index(p.text, begin(section)+"\n")
	if at < 0 {
		return 0, 0, false
	}
	from = at + len(begin(section)) + 1
	length := strings.Index(p.text[from:], end)
	return from, from + length, length >= 0
}

func (p *page) section(name string) (string, bool) {
	from, to, ok := p.bounds(name)
	if !ok {
		return "", false
	}
	return p.text[from:to], true
}

func (p *page) replace(t testing.TB, section, text string) {
	t.Helper()
	from, to, _ := p.bounds(section)
	if err := os.WriteFile(p.path, []byte(p.text[:from]+text+p.text[to:]), 0o644); err != nil {
		t.Fatal(err)
	}
}

// rowName finds the metric of a row.
var rowName = regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)`")

// withoutCommon drops the metrics of the section Common, and fails t where one of them isn't there.
func withoutCommon(t testing.TB, families []*dto.MetricFamily, p *page) []*dto.MetricFamily {
	t.Helper()
	text, _ := p.section(Common)
	common := map[string]bool{}
	for _, m := range rowName.FindAllStringSubmatch(text, -1) {
		common[m[1]] = true
	}
	rest := slices.DeleteFunc(slices.Clone(families), func(f *dto.MetricFamily) bool { return common[f.GetName()] })
	for _, f := range families {
		delete(common, f.GetName())
	}
	for name := range common {
		t.Errorf("%s is in the section of %s, and this service doesn't expose it", name, Common)
	}
	return rest
}

// difference lists the lines that only one of two texts has.
func difference(got, want string) string {
	var out strings.Builder
	list := func(sign, of, without string) {
		lines := strings.Split(without, "\n")
		for _, line := range strings.Split(of, "\n") {
			if !slices.Contains(lines, line) {
				out.WriteString(sign + " " + line + "\n")
			}
		}
	}
	list("-", got, want)
	list("+", want, got)
	return out.String()
}
