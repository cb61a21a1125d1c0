// Package docs shows the OpenAPI document to a person: one page that needs nothing else, no script and no other host.
package docs

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"strconv"
	"strings"
	"sync"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	document "github.com/rumi-ai/rumi/api/openapi"
	"github.com/rumi-ai/rumi/libs/openapi"
)

//go:embed page.html.tmpl
var layout string

//go:embed page.css
var style string

//go:embed page.js
var script string

// Policy is the Content-Security-Policy of the page: its own style and script, and nothing else, from nowhere.
var Policy = "default-src 'none'; style-src " + hashOf(style) + "; script-src " + hashOf(script) +
	"; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

func hashOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// Page is the page. It is made when it is asked for first, and kept: most gateways never show it.
var Page = sync.OnceValues(func() (string, error) {
	d, err := openapi.Parse([]byte(document.Document()))
	if err != nil {
		return "", err
	}
	return render(d)
})

// render makes the page of a document.
func render(d *openapi.Document) (string, error) {
	p := &page{d}
	parsed, err := template.New("page").Funcs(template.FuncMap{
		"style": func() template.CSS { return template.CSS(style) }, "script": func() template.JS { return template.JS(script) },
		"type": p.typeOf, "rows": p.rows, "json": pretty, "text": text, "paragraphs": paragraphs, "statuses": statuses, "event": p.event,
	}).Parse(layout)
	if err != nil {
		return "", fmt.Errorf("parse the page of the API: %w", err)
	}
	var out strings.Builder
	if err := parsed.Execute(&out, p); err != nil {
		return "", fmt.Errorf("make the page of the API: %w", err)
	}
	return out.String(), nil
}

// page is what the template reads.
type page struct{ *openapi.Document }

// section is a service with its calls.
type section struct {
	openapi.Tag
	Calls []call
}

// call is an operation where it is found.
type call struct {
	Method, Path string
	*openapi.Operation
	Own []ownCode
}

// ownCode is an error code of one operation, beside those that all have.
type ownCode struct {
	Name string
	openapi.Code
}

// Sections are the services in the document's order, each with its calls in the order of their paths.
func (p *page) Sections() []section {
	var all []section
	for _, tag := range p.Tags {
		s := section{Tag: tag}
		for path, item := range p.Paths.All() {
			for method, op := range item.Operations() {
				if op.Tags[0] == tag.Name {
					s.Calls = append(s.Calls, call{method, path, op, p.ownCodes(op)})
				}
			}
		}
		all = append(all, s)
	}
	return all
}

func (p *page) ownCodes(op *openapi.Operation) []ownCode {
	var own []ownCode
	for _, name := range op.Codes {
		code, _ := p.Codes.Get(name)
		own = append(own, ownCode{name, code})
	}
	return own
}

// row is a field of an object.
type row struct {
	Name, Description string
	Schema            *openapi.Schema
	Required          bool
}

// rows are the fields of an object, none for anything else.
func (p *page) rows(schema *openapi.Schema) []row {
	var all []row
	for name, of := range schema.Properties.All() {
		required := false
		for _, r := range schema.Required {
			required = required || r == name
		}
		all = append(all, row{name, of.Description, of, required})
	}
	return all
}

// typeOf is a schema's type in a few words, with links to the objects in it.
func (p *page) typeOf(schema *openapi.Schema) template.HTML {
	if schema == nil {
		return "anything"
	}
	if name, ok := strings.CutPrefix(schema.Ref, "#/components/schemas/"); ok {
		return template.HTML(fmt.Sprintf(`<a href="#%s">%s</a>`, template.HTMLEscapeString(name), template.HTMLEscapeString(name)))
	}
	if len(schema.AnyOf) > 0 {
		var parts []string
		for _, one := range schema.AnyOf {
			parts = append(parts, string(p.typeOf(one)))
		}
		return template.HTML(strings.Join(parts, " or "))
	}
	return p.plain(schema) + template.HTML(template.HTMLEscapeString(bounds(schema)))
}

func (p *page) plain(schema *openapi.Schema) template.HTML {
	if schema.Items != nil {
		return "list of " + p.typeOf(schema.Items)
	}
	if values, ok := schema.AdditionalProperties.(map[string]any); ok {
		return "object of " + p.typeOf(schemaOf(values)) + " by name"
	}
	var kinds []string
	switch kind := schema.Type.(type) {
	case string:
		kinds = []string{kind}
	case []any:
		for _, one := range kind {
			kinds = append(kinds, fmt.Sprint(one))
		}
	default:
		kinds = []string{"anything"}
	}
	if schema.Format == "date-time" {
		kinds[0] = "time"
	}
	return template.HTML(template.HTMLEscapeString(strings.Join(kinds, " or ")))
}

// schemaOf reads a schema that was read as any JSON.
func schemaOf(value any) *openapi.Schema {
	text, err := json.Marshal(value)
	if err != nil {
		return nil
	}
	schema := &openapi.Schema{}
	if json.Unmarshal(text, schema) != nil {
		return nil
	}
	return schema
}

// bounds say what narrows a type: " (current, approved)", " (1 to 10000)".
func bounds(schema *openapi.Schema) string {
	var said []string
	if len(schema.Enum) > 0 {
		var values []string
		for _, v := range schema.Enum {
			if v == "" {
				v = `""`
			}
			if v != nil {
				values = append(values, fmt.Sprint(v))
			}
		}
		said = append(said, strings.Join(values, ", "))
	}
	switch {
	case schema.Minimum != nil && schema.Maximum != nil:
		said = append(said, fmt.Sprintf("%d to %d", *schema.Minimum, *schema.Maximum))
	case schema.Minimum != nil:
		said = append(said, fmt.Sprintf("at least %d", *schema.Minimum))
	case schema.Maximum != nil:
		said = append(said, fmt.Sprintf("at most %d", *schema.Maximum))
	}
	if schema.Pattern != "" {
		said = append(said, schema.Pattern)
	}
	if schema.Default != nil {
		said = append(said, fmt.Sprintf("else %v", schema.Default))
	}
	if len(said) == 0 {
		return ""
	}
	return " (" + strings.Join(said, "; ") + ")"
}

// event is the schema of a call's server-sent events, nil for none.
func (p *page) event(op *openapi.Operation) *openapi.Schema {
	ok, _ := op.Responses.Get("200")
	if ok == nil {
		return nil
	}
	stream, _ := ok.Content.Get("text/event-stream")
	return stream.Event
}

// pretty is JSON on several lines, "" for none.
func pretty(value any) (string, error) {
	if value == nil {
		return "", nil
	}
	out, err := json.Marshal(value, json.Deterministic(true), jsontext.WithIndent("  "))
	return string(out), err
}

// text shows the code in a sentence of Markdown as code.
func text(markdown string) template.HTML {
	parts := strings.Split(template.HTMLEscapeString(markdown), "`")
	var b strings.Builder
	for i, part := range parts {
		switch {
		case i%2 == 0:
			b.WriteString(part)
		case i == len(parts)-1:
			b.WriteString("`" + part) // without an end
		default:
			b.WriteString("<code>" + part + "</code>")
		}
	}
	return template.HTML(b.String())
}

func paragraphs(markdown string) []string { return strings.Split(markdown, "\n\n") }

func statuses(all []int) string {
	texts := make([]string, len(all))
	for i, n := range all {
		texts[i] = strconv.Itoa(n)
	}
	return strings.Join(texts, ", ")
}

// RoleOf is the least role that has a verb.
func (p *page) RoleOf(verb string) string {
	for _, item := range p.Paths {
		for _, op := range item.Value.Operations() {
			if op.Verb == verb {
				return op.Role
			}
		}
	}
	return ""
}

// Data is the schema of the data in a success, nil for an answer that is no envelope.
func (p *page) Data(success *openapi.Schema) *openapi.Schema {
	data, _ := success.Properties.Get("data")
	return data
}

// Shared are the error codes of every call.
func (p *page) Shared() []string {
	var all []string
	for _, r := range p.Components.Responses {
		body, _ := r.Value.Content.Get("application/json")
		for _, example := range body.Examples {
			all = append(all, example.Name)
		}
	}
	return all
}
