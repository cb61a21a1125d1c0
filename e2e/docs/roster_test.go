package docs

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/libs/roster"
)

// TestRosterLists compares each list of services in a file that can't read the roster with the roster. The first group of a pattern matches a
// name, or several names with white space between them. also has the names in a list that aren't services.
func TestRosterLists(t *testing.T) {
	all := roster.Names()
	without := func(name string) []string {
		return roster.Where(func(s roster.Service) bool { return s.Name != name })
	}
	for _, c := range []struct {
		file, list, pattern string
		want, also          []string
	}{
		{file: "docker-compose.yml", list: "services", pattern: `(?m)^    image: rumi-([a-z-]+):`, want: all, also: []string{"init", "pack", "builder"}},
		{file: "docker-compose.yml", list: "health checks", pattern: `test: \[CMD, /usr/local/bin/([a-z-]+), healthcheck\]`, want: all},
		{file: "docker-compose.yml", list: "state folders", pattern: `user_data/state/([a-z-]+):`,
			want: roster.Where(func(s roster.Service) bool { return s.Stateful })},
		{file: "docker-compose.yml", list: "identities", pattern: `:/rumi/user_data/settings/identity/([a-z-]+)\b`, want: all, also: []string{"authority"}},
		{file: "deploy/Dockerfile", list: "binaries", pattern: `\./services/([a-z-]+)`, want: all},
		{file: "deploy/Dockerfile", list: "images", pattern: `(?m)^FROM .* AS ([a-z-]+)\nCOPY --from=build /out/`, want: all, also: []string{"init", "demo"}},
		{file: "go.work", list: "modules", pattern: `\./services/([a-z-]+)`, want: all},
		{file: "README.md", list: "services", pattern: `(?s)\| service \| owns \|\n\|---\|---\|\n(.*?)\n\n`, want: all},
		{file: "docs/architecture.md", list: "services", pattern: `(?s)\| service \| owns \| page \|\n\|---\|---\|---\|\n(.*?)\n\n`, want: all},
		{file: "deploy/monitoring/prometheus/prometheus.yml", list: "targets", pattern: `(?m)^          - ([a-z-]+)$`, want: all},
		{file: "e2e/journeys/suite_test.go", list: "services", pattern: `(?m)^\t\{"([a-z-]+)", "/api/`, want: without(roster.Gateway)},
		{file: "services/egress-proxy/internal/address/address_test.go", list: "names that are denied", pattern: `(?m)^\t\t("gateway", "pack-registry", .*"secrets"), "consul"`, want: all},
		{file: "services/egress-proxy/internal/egress/policy_test.go", list: "names that are denied", pattern: `(?m)^\t\t("gateway", .*"secrets"),`, want: all,
			also: []string{"GATEWAY", "gateway."}},
	} {
		text, err := os.ReadFile(filepath.Join(root, c.file))
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]bool{}
		for _, match := range regexp.MustCompile(c.pattern).FindAllStringSubmatch(string(text), -1) {
			for _, name := range listed(match[1]) {
				if !slices.Contains(c.also, name) {
					found[name] = true
				}
			}
		}
		if got := slices.Sorted(maps.Keys(found)); !slices.Equal(got, c.want) {
			t.Errorf("%s, %s: got %v, want the roster's %v", c.file, c.list, got, c.want)
		}
	}
}

// TestModulesReachTheBuild checks that each module of the workspace reaches the images' build. Docker sends only the folders that .dockerignore
// excepts.
func TestModulesReachTheBuild(t *testing.T) {
	excepted := strings.Fields(read(t, ".dockerignore"))
	modules := regexp.MustCompile(`(?m)^\t\./(\S+)$`).FindAllStringSubmatch(read(t, "go.work"), -1)
	if len(modules) < len(roster.Names()) {
		t.Errorf("go.work has %d modules, want one for each service at least", len(modules))
	}
	for _, module := range modules {
		folder, _, _ := strings.Cut(module[1], "/")
		if !slices.Contains(excepted, "!"+folder) {
			t.Errorf(".dockerignore has no line !%s, want one: go.work has the module %s", folder, module[1])
		}
	}
}

// TestPagesOfServices checks that each service has a page in docs/services, with the headings that a new reader needs.
func TestPagesOfServices(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join(root, "docs/services/*.md"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, page := range pages {
		got = append(got, strings.TrimSuffix(filepath.Base(page), ".md"))
		text := read(t, "docs/services/"+filepath.Base(page))
		for _, heading := range []string{"What it owns", "Its store", "Who calls it, whom it calls", "When it dies", "Read the code in this order"} {
			if !strings.Contains(text, "\n## "+heading+"\n") {
				t.Errorf("%s lacks the heading %q", page, heading)
			}
		}
	}
	if want := roster.Names(); !slices.Equal(got, want) {
		t.Errorf("docs/services has pages of %v, want the roster's %v", got, want)
	}
}

// listed returns the names in a part of a file: the first cells of a table's rows, or words, quoted or not.
func listed(text string) []string {
	if strings.HasPrefix(text, "|") {
		var names []string
		for row := range strings.Lines(text) {
			names = append(names, strings.TrimSpace(strings.Split(row, "|")[1]))
		}
		return names
	}
	return strings.FieldsFunc(text, func(c rune) bool { return c == ' ' || c == ',' || c == '"' })
}
