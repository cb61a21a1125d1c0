package docs

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/api"
	"github.com/rumi-ai/rumi/libs/route"
)

// mention is a call that a document names: "POST /api/packs/scan". The contract writes "…" for the two prefixes of candidates.
var mention = regexp.MustCompile(`\b(GET|POST|PUT|DELETE) (/api/|…/)([^\s` + "`" + `?|)",;]+)`)

// mentioned returns the calls that a text names, as "METHOD /path".
func mentioned(text string) []string {
	var found []string
	for _, match := range mention.FindAllStringSubmatch(text, -1) {
		prefixes := []string{"/api/"}
		if match[2] != "/api/" {
			prefixes = []string{"/api/capability/", "/api/pip/"}
		}
		for _, prefix := range prefixes {
			found = append(found, match[1]+" "+prefix+strings.TrimRight(match[3], ".:"))
		}
	}
	return found
}

// TestEndpointsAreDescribed checks that docs/contract.md or docs/api.md names each public endpoint.
func TestEndpointsAreDescribed(t *testing.T) {
	described := mentioned(read(t, "docs/contract.md") + read(t, "docs/api.md"))
	for _, r := range api.Routes().Public() {
		if !slices.Contains(described, r.Name()) {
			t.Errorf("neither docs/contract.md nor docs/api.md names `%s`, which %s answers", r.Name(), r.Owner)
		}
	}
}

// TestDescribedEndpointsExist checks that each call that a document names is an endpoint.
func TestDescribedEndpointsExist(t *testing.T) {
	matcher, err := route.NewMatcher(api.Routes().Public())
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, name := range documents(t) {
		if strings.HasPrefix(name, "CHANGELOG") { // it names endpoints of earlier versions, too
			continue
		}
		for _, call := range mentioned(read(t, name)) {
			checked++
			method, path, _ := strings.Cut(call, " ")
			if found, _ := matcher.Find(method, path); found == nil && !strings.Contains(path, "…") {
				t.Errorf("%s names `%s`, which no service answers", name, call)
			}
		}
	}
	if checked < len(api.Routes().Public()) {
		t.Errorf("only %d calls were found in the documents", checked)
	}
}
