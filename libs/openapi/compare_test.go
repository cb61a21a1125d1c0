package openapi

import (
	"slices"
	"testing"
)

// one is a document of one call, which a case changes.
func one() *Document {
	two := int64(2)
	d := &Document{Components: Components{Schemas: Map[*Schema]{
		{"a.Thing", &Schema{Type: "object", Required: []string{"id", "state"}, Properties: Map[*Schema]{
			{"id", &Schema{Type: "string"}}, {"state", &Schema{Type: "string", Enum: []any{"on", "off"}}},
			{"parent", &Schema{AnyOf: []*Schema{{Ref: "#/components/schemas/a.Thing"}, {Type: "null"}}}},
			{"sizes", &Schema{Type: "object", AdditionalProperties: &Schema{Type: "integer"}}},
		}}},
		{"a.Request", &Schema{Type: "object", AdditionalProperties: false, Properties: Map[*Schema]{
			{"name", &Schema{Type: "string"}}, {"mode", &Schema{Type: "string", Enum: []any{"x", "y"}}}, {"n", &Schema{Type: "integer", Maximum: &two}},
			{"tags", &Schema{Type: "array", Items: &Schema{Type: "string"}}},
		}}},
	}}}
	op := &Operation{
		ID: "aPost", Verb: "packs.approve", Role: "operator", Parameters: []Parameter{{Name: "id", In: "path", Required: true, Schema: &Schema{Type: "string"}}, {Name: "tail", In: "query", Schema: &Schema{Type: "integer"}}},
		Body: &RequestBody{Content: Map[Media]{{"application/json", Media{Schema: &Schema{Ref: "#/components/schemas/a.Request"}}}}},
	}
	op.Responses.Set("200", &Response{Content: Map[Media]{{"application/json", Media{Schema: envelope(&Schema{Ref: "#/components/schemas/a.Thing"})}}}})
	codes := &Schema{Properties: Map[*Schema]{{"error_code", &Schema{Enum: []any{"gone", "busy"}}}}}
	op.Responses.Set("409", &Response{Content: Map[Media]{{"application/json", Media{Schema: &Schema{AllOf: []*Schema{codes}}}}}})
	d.Paths.Set("/api/a/{id}", &PathItem{Post: op})
	return d
}

func (d *Document) post() *Operation        { return d.Operation("POST", "/api/a/{id}") }
func (d *Document) schema(n string) *Schema { s, _ := d.Components.Schemas.Get("a." + n); return s }
func (s *Schema) property(n string) *Schema { p, _ := s.Properties.Get(n); return p }

func remove(m *Map[*Schema], name string) {
	*m = slices.DeleteFunc(*m, func(e Member[*Schema]) bool { return e.Name == name })
}

func TestBreaking(t *testing.T) {
	const at = "POST /api/a/{id}: "
	three := int64(3)
	for name, c := range map[string]struct {
		change func(*Document)
		want   []string // after at; none for a change that breaks nothing
	}{
		"nothing":              {func(*Document) {}, nil},
		"no call":              {func(d *Document) { d.Paths = nil }, []string{"the call was removed"}},
		"a new call":           {func(d *Document) { d.Paths.Set("/api/b", &PathItem{Get: &Operation{}}) }, nil},
		"another verb":         {func(d *Document) { d.post().Verb = "packs.grant" }, []string{`needs the verb "packs.grant", was "packs.approve"`}},
		"a higher role":        {func(d *Document) { d.post().Role = "admin" }, []string{`needs the role admin, was "operator"`}},
		"a lower role":         {func(d *Document) { d.post().Role = "viewer" }, nil},
		"a parameter less":     {func(d *Document) { d.post().Parameters = d.post().Parameters[:1] }, []string{"the parameter tail was removed"}},
		"a parameter required": {func(d *Document) { d.post().Parameters[1].Required = true }, []string{"the parameter tail is required"}},
		"a new parameter": {func(d *Document) {
			d.post().Parameters = append(d.post().Parameters, Parameter{Name: "more", In: "query"})
		}, nil},
		"a new parameter, required": {func(d *Document) {
			d.post().Parameters = append(d.post().Parameters, Parameter{Name: "more", In: "query", Required: true})
		}, []string{"the new parameter more is required"}},
		"a request's field less": {func(d *Document) { remove(&d.schema("Request").Properties, "name") }, []string{"the field the body.name was removed"}},
		"a request's field more": {func(d *Document) { d.schema("Request").Properties.Set("more", &Schema{}) }, nil},
		"a new field, required": {func(d *Document) {
			d.schema("Request").Properties.Set("more", &Schema{})
			d.schema("Request").Required = []string{"more"}
		}, []string{"the new field the body.more is required"}},
		"a field required":       {func(d *Document) { d.schema("Request").Required = []string{"name"} }, []string{"the field the body.name is required"}},
		"a body required":        {func(d *Document) { d.post().Body.Required = true }, []string{"a body is required"}},
		"a request's value less": {func(d *Document) { d.schema("Request").property("mode").Enum = []any{"x"} }, []string{"the body.mode is never y any more"}},
		"a request's value more": {func(d *Document) { d.schema("Request").property("mode").Enum = []any{"x", "y", "z"} }, nil},
		"values instead of any":  {func(d *Document) { d.schema("Request").property("name").Enum = []any{"x"} }, []string{"the body.name takes some values only"}},
		"a narrower bound":       {func(d *Document) { d.schema("Request").property("n").Minimum = &three }, []string{"the body.n must be 3 at least"}},
		"a wider bound":          {func(d *Document) { d.schema("Request").property("n").Maximum = &three }, nil},
		"a pattern":              {func(d *Document) { d.schema("Request").property("name").Pattern = "^a$" }, []string{"the body.name must match ^a$"}},
		"another type":           {func(d *Document) { d.schema("Request").property("name").Type = "integer" }, []string{"the body.name is integer, was string"}},
		"null, too":              {func(d *Document) { d.schema("Request").property("name").Type = []string{"string", "null"} }, nil},
		"another type of items":  {func(d *Document) { d.schema("Request").property("tags").Items = &Schema{Type: "object"} }, []string{"the body.tags[] is object, was string"}},
		"an answer's field less": {func(d *Document) { remove(&d.schema("Thing").Properties, "sizes") }, []string{"the field the answer.data.sizes was removed"}},
		"an answer's field more": {func(d *Document) { d.schema("Thing").Properties.Set("more", &Schema{}) }, nil},
		"a field that may lack":  {func(d *Document) { d.schema("Thing").Required = []string{"state"} }, []string{"the field the answer.data.id may lack"}},
		"null in an answer":      {func(d *Document) { d.schema("Thing").property("id").Type = []string{"string", "null"} }, []string{"the answer.data.id is string or null, was string"}},
		"an answer's value less": {func(d *Document) { d.schema("Thing").property("state").Enum = []any{"on"} }, []string{"the answer.data.state is never off any more"}},
		"an answer's value more": {func(d *Document) { d.schema("Thing").property("state").Enum = []any{"on", "off", "broken"} }, nil},
		"another type of a map":  {func(d *Document) { d.schema("Thing").property("sizes").AdditionalProperties = &Schema{Type: "string"} }, []string{"the answer.data.sizes.* is string, was integer"}},
		"an error code less":     {func(d *Document) { d.post().Responses = d.post().Responses[:1] }, []string{"the error code busy was removed", "the error code gone was removed"}},
		"no success":             {func(d *Document) { d.post().Responses = d.post().Responses[1:] }, []string{"the answer 200 was removed"}},
		"a component's other name": {func(d *Document) {
			d.Components.Schemas.Set("b.Thing", d.schema("Thing"))
			ok, _ := d.post().Responses.Get("200")
			ok.Content[0].Value = Media{Schema: envelope(&Schema{Ref: "#/components/schemas/b.Thing"})}
		}, nil},
	} {
		now := one()
		c.change(now)
		var want []string
		for _, text := range c.want {
			want = append(want, at+text)
		}
		if got := Breaking(parse(t, one()), parse(t, now)); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

// parse writes a document and reads it, as documents that are compared have been.
func parse(t *testing.T, d *Document) *Document {
	t.Helper()
	text, err := d.JSON()
	if err != nil {
		t.Fatal(err)
	}
	read, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return read
}
