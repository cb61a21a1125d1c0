package openapi_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/rumi-ai/rumi/api"
	"github.com/rumi-ai/rumi/api/internal/generate"
	document "github.com/rumi-ai/rumi/api/openapi"
	"github.com/rumi-ai/rumi/libs/openapi"
)

const root = "../.."

// TestGeneratedFilesAreCurrent fails where the committed files differ from those that the generator makes now: somebody changed an endpoint, a
// type, a comment or docs/api.md, and didn't run go generate.
func TestGeneratedFilesAreCurrent(t *testing.T) {
	files, err := generate.Files(root)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join(root, name))
		if err != nil || string(got) != string(want) {
			t.Errorf("%s is not what the endpoints make now (%v); run: go generate ./api/openapi", name, err)
		}
	}
}

// A change that can break clients is declared, in the words of the failure here, before it is made.
func TestBreaksAreDeclared(t *testing.T) {
	breaks, err := generate.UndeclaredBreaks(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range breaks {
		t.Errorf("this can break clients: %s. Undo it, or declare it in docs/api-changes.md: | next version | `%s` | why, and what to do |", change, change)
	}
}

// Every public route is in the document, with all of its error codes and nothing else.
func TestEveryRouteIsInTheDocument(t *testing.T) {
	d := parsed(t)
	routes := api.Routes().Public()
	for _, r := range routes {
		op := d.Operation(r.Method, r.Pattern)
		if op == nil {
			t.Errorf("the document lacks %s", r.Name())
			continue
		}
		if got, want := d.ErrorCodes(op), r.ErrorCodes(); !slices.Equal(got, want) {
			t.Errorf("%s has the codes %v in the document, want %v", r.Name(), got, want)
		}
		if op.Verb != string(r.Verb) || op.Role != string(r.Verb.Least()) || op.Summary == "" {
			t.Errorf("%s has verb %q, role %q, summary %q; want those of the route", r.Name(), op.Verb, op.Role, op.Summary)
		}
	}
	if len(routes) < 40 {
		t.Errorf("there are %d routes only: this test doesn't see them any more", len(routes))
	}
}

// Every error code of the table belongs to a route, or to what is answered before a route is known.
func TestEveryCodeBelongsToARoute(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "docs", "api.md"))
	if err != nil {
		t.Fatal(err)
	}
	table, err := openapi.ReadCodes(string(page))
	if err != nil {
		t.Fatal(err)
	}
	known := slices.Concat(generate.InternalCodes(), parsed(t).Connection)
	for _, r := range api.Routes().Public() {
		known = append(known, r.ErrorCodes()...)
	}
	for code := range table.All() {
		if !slices.Contains(known, code) {
			t.Errorf("docs/api.md has the code %s, which no public route declares: add it to the Fails of the endpoints that answer it", code)
		}
	}
}

func parsed(t *testing.T) *openapi.Document {
	t.Helper()
	d, err := openapi.Parse([]byte(document.Document()))
	if err != nil {
		t.Fatal(err)
	}
	return d
}
