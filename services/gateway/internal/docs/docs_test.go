package docs

import (
	"crypto/sha256"
	"encoding/base64"
	"regexp"
	"slices"
	"strings"
	"testing"

	document "github.com/rumi-ai/rumi/api/openapi"
	"github.com/rumi-ai/rumi/libs/openapi"
)

// The page has every call, type and error code, every link in it leads somewhere, and nothing comes from elsewhere.
func TestPage(t *testing.T) {
	page, err := Page()
	if err != nil {
		t.Fatal(err)
	}
	d, err := openapi.Parse([]byte(document.Document()))
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for _, m := range regexp.MustCompile(` id="([^"]+)"`).FindAllStringSubmatch(page, -1) {
		if ids[m[1]] {
			t.Errorf("the id %q stands twice", m[1])
		}
		ids[m[1]] = true
	}
	for _, m := range regexp.MustCompile(` href="([^"]+)"`).FindAllStringSubmatch(page, -1) {
		if name, inside := strings.CutPrefix(m[1], "#"); m[1] != "/openapi.json" && (!inside || !ids[name]) {
			t.Errorf("the link %q leads nowhere", m[1])
		}
	}
	for _, item := range d.Paths {
		for method, op := range item.Value.Operations() {
			if !ids[op.ID] {
				t.Errorf("the page lacks %s %s", method, item.Name)
			}
		}
	}
	for _, code := range d.Codes {
		if !ids["code-"+code.Name] {
			t.Errorf("the page lacks the error code %s", code.Name)
		}
	}
	for _, foreign := range []string{"<img", "<link", "<iframe", " src=", "@import", "url(", " style=", " onclick"} {
		if strings.Contains(page, foreign) {
			t.Errorf("the page has %q, which its policy forbids", foreign)
		}
	}
}

// The policy allows the page's own style and script, byte by byte as the page has them, and nothing else.
func TestPolicy(t *testing.T) {
	page, err := Page()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(Policy, "default-src 'none'; ") || strings.Contains(Policy, "unsafe") {
		t.Errorf("the policy is %q, want one that forbids everything else", Policy)
	}
	for _, tag := range []string{"style", "script"} {
		_, rest, _ := strings.Cut(page, "<"+tag+">")
		text, _, found := strings.Cut(rest, "</"+tag+">")
		sum := sha256.Sum256([]byte(text))
		if want := tag + "-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"; !found || !strings.Contains(Policy, want) {
			t.Errorf("the policy is %q, want %q in it", Policy, want)
		}
	}
}

// What a comment or a table says is text: it can't become a part of the page.
func TestTextIsEscaped(t *testing.T) {
	evil := `<script>alert(1)</script>"'&` + "`<b>`"
	d := &openapi.Document{Tags: []openapi.Tag{{Name: "one", Description: evil}}, Info: openapi.Info{Description: evil}}
	op := &openapi.Operation{ID: "oneCall", Tags: []string{"one"}, Summary: evil, Description: evil, Parameters: []openapi.Parameter{
		{Name: evil, In: "query", Description: evil, Schema: &openapi.Schema{Type: "string", Enum: []any{evil}, Pattern: evil}},
	}}
	d.Paths.Set("/api/"+evil, &openapi.PathItem{Get: op})
	d.Components.Schemas.Set("T", &openapi.Schema{Type: evil, Description: evil})
	d.Codes.Set("code", openapi.Code{Cause: evil, Remedy: evil})
	page, err := render(d)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(page, "<script>alert") || strings.Contains(page, "<b>`") {
		t.Error("a text became a part of the page")
	}
	if n := strings.Count(page, "&lt;script&gt;alert(1)"); n < 8 {
		t.Errorf("the text stands %d times in the page, want all of it", n)
	}
}

// Types are told in words, with links to the objects in them.
func TestTypes(t *testing.T) {
	one, ten := int64(1), int64(10)
	p := &page{&openapi.Document{}}
	for _, c := range []struct {
		schema *openapi.Schema
		want   string
	}{
		{nil, "anything"},
		{&openapi.Schema{}, "anything"},
		{&openapi.Schema{Type: "string", Format: "date-time"}, "time"},
		{&openapi.Schema{Type: []any{"string", "null"}}, "string or null"},
		{&openapi.Schema{Type: "string", Enum: []any{"a", "", nil}}, `string (a, &#34;&#34;)`},
		{&openapi.Schema{Type: "integer", Minimum: &one, Maximum: &ten, Default: 5}, "integer (1 to 10; else 5)"},
		{&openapi.Schema{Type: "array", Items: &openapi.Schema{Ref: "#/components/schemas/a.B"}}, `list of <a href="#a.B">a.B</a>`},
		{&openapi.Schema{Type: "object", AdditionalProperties: map[string]any{"type": "integer"}}, "object of integer by name"},
		{&openapi.Schema{AnyOf: []*openapi.Schema{{Ref: "#/components/schemas/a.B"}, {Type: "null"}}}, `<a href="#a.B">a.B</a> or null`},
	} {
		if got := string(p.typeOf(c.schema)); got != c.want {
			t.Errorf("the type of %+v is %q, want %q", c.schema, got, c.want)
		}
	}
	if got := bounds(&openapi.Schema{Pattern: "^a$"}); got != " (^a$)" {
		t.Errorf("the bounds are %q, want the pattern", got)
	}
	if shared := p.Shared(); !slices.Equal(shared, nil) {
		t.Errorf("a document without responses has the shared codes %v, want none", shared)
	}
}
