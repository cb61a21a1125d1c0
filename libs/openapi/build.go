package openapi

import (
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/rumi-ai/rumi/libs/route"
)

// Input is what a document is made of.
type Input struct {
	Info      Info
	Tags      []Tag // the services, in the order of the document; each owner of a route is one
	Routes    route.Table
	IDs       map[string]string // of operations, by the route's name
	Codes     Map[Code]         // every error code
	Examples  []route.Example
	Values    func(field string) (any, bool) // examples of fields by their JSON name, where a type has no example
	Source    *Source
	Overrides map[reflect.Type]Schema // of types with JSON of their own
	Open      []Open                  // paths without a token
}

// Open is a path that needs no token.
type Open struct {
	ID, Path, Summary, Tag string
	MediaType              string       // "application/json" for Data in the envelope
	Data                   reflect.Type // nil where the answer is no envelope
}

type builder struct {
	Input
	schemas  *schemas
	examples map[string]route.Example
	shared   map[int][]string // the codes that every route of a service has, by status
}

// Build makes the document. It fails where a route has no id, an error code that isn't in Codes, or a type that has no schema.
func Build(in Input) (*Document, error) {
	b := &builder{Input: in, examples: map[string]route.Example{}}
	b.schemas = &schemas{source: in.Source, overrides: in.Overrides, made: map[string]*Schema{}, types: map[string]reflect.Type{}}
	for _, e := range in.Examples {
		b.examples[e.Route] = e
	}
	var err error
	everywhere := route.Route{Owner: "one", Callers: []string{"another"}}
	if b.shared, err = b.byStatus(everywhere.SharedCodes()); err != nil {
		return nil, err
	}
	d := &Document{
		OpenAPI: "3.1.0", Info: in.Info, Tags: in.Tags, Codes: in.Codes, Connection: route.ConnectionCodes(),
		Servers:  []Server{{URL: "/", Description: "the gateway that answered this document"}},
		Security: []map[string][]string{{"token": {}}},
	}
	if err := b.addPaths(d); err != nil {
		return nil, err
	}
	b.addComponents(d)
	return d, nil
}

func (b *builder) addPaths(d *Document) error {
	routes := slices.Clone(b.Routes)
	slices.SortStableFunc(routes, func(x, y route.Route) int { return strings.Compare(x.Pattern, y.Pattern) })
	for i := range routes {
		op, err := b.operation(&routes[i])
		if err != nil {
			return fmt.Errorf("document %s: %w", routes[i].Name(), err)
		}
		if err := place(d, routes[i].Method, routes[i].Pattern, op); err != nil {
			return err
		}
	}
	for _, open := range b.Open {
		op, err := b.openOperation(open)
		if err != nil {
			return fmt.Errorf("document GET %s: %w", open.Path, err)
		}
		if err := place(d, http.MethodGet, open.Path, op); err != nil {
			return err
		}
	}
	for name := range b.examples {
		return fmt.Errorf("there is an example of %s, which is no public route, or has two", name)
	}
	return nil
}

func place(d *Document, method, path string, op *Operation) error {
	item, known := d.Paths.Get(path)
	if !known {
		item = &PathItem{}
		d.Paths.Set(path, item)
	}
	return item.set(method, op)
}

func (b *builder) operation(r *route.Route) (*Operation, error) {
	op := &Operation{
		ID: b.IDs[r.Name()], Tags: []string{r.Owner}, Summary: r.Summary, Description: r.Document.Remarks,
		Verb: string(r.Verb), Role: string(r.Verb.Least()), Codes: r.Document.Codes, Timeout: int(r.Class.Timeout.Seconds()),
	}
	if op.ID == "" {
		return nil, fmt.Errorf("it has no operationId")
	}
	var err error
	if op.Parameters, err = b.parameters(r); err != nil {
		return nil, err
	}
	if op.Body, err = b.body(r); err != nil {
		return nil, err
	}
	if err := b.addSuccesses(op, r); err != nil {
		return nil, err
	}
	delete(b.examples, r.Name())
	return op, b.addFailures(op, r.ErrorCodes())
}

// parameters are the fields of the request type that travel in the path and in the query.
func (b *builder) parameters(r *route.Route) ([]Parameter, error) {
	var all []Parameter
	for i := range r.Request.NumField() {
		f := r.Request.Field(i)
		p := Parameter{Name: f.Tag.Get("path"), In: "path", Required: true}
		if p.Name == "" {
			p = Parameter{Name: f.Tag.Get("query"), In: "query"}
		}
		if p.Name == "" {
			continue
		}
		schema, required, err := b.schemas.field(r.Request, f, request, true)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name, err)
		}
		p.Description, schema.Description = schema.Description, ""
		p.Schema, p.Required = schema, p.Required || required
		if given, ok := b.examples[r.Name()]; ok {
			if v := reflect.ValueOf(given.Request).Field(i); !v.IsZero() {
				p.Example = v.Interface()
			}
		} else if v, ok := b.Values(p.Name); ok && p.In == "path" {
			p.Example = v
		}
		all = append(all, p)
	}
	return all, nil
}

// body is that of the request; nil where no field travels there.
func (b *builder) body(r *route.Route) (*RequestBody, error) {
	schema, err := b.schemas.of(r.Request, request)
	if err != nil {
		return nil, err
	}
	object := b.schemas.resolve(schema)
	if len(object.Properties) == 0 {
		b.schemas.forget(schema)
		return nil, nil
	}
	example, err := b.example(r, schema, true)
	if err != nil {
		return nil, err
	}
	body := &RequestBody{Required: len(object.Required) > 0, Content: Map[Media]{{"application/json", Media{Schema: schema, Example: example}}}}
	if r.Document.Form == nil {
		return body, nil
	}
	form, err := b.schemas.of(r.Document.Form, request)
	if err != nil {
		return nil, err
	}
	body.Content.Set("multipart/form-data", Media{Schema: form})
	return body, nil
}

func (b *builder) addSuccesses(op *Operation, r *route.Route) error {
	if r.Streams() {
		return b.addStream(op, r)
	}
	if r.Document.Text != nil {
		addText(op, r.Document.Text)
		return nil
	}
	data, err := b.schemas.of(r.Response, answer)
	if err != nil {
		return err
	}
	example, err := b.example(r, data, false)
	if err != nil {
		return err
	}
	media := Media{Schema: envelope(data), Example: successOf(example)}
	ok := &Response{Description: "Done.", Headers: headers("RequestId"), Content: Map[Media]{{"application/json", media}}}
	if r.Document.Event != nil {
		events, err := b.events(r, "With `follow=true`: server-sent events")
		if err != nil {
			return err
		}
		ok.Content.Set("text/event-stream", events)
	}
	op.Responses.Set("200", ok)
	if r.Document.Waits {
		op.Responses.Set("202", &Response{
			Description: "Noted, not done: a second person must confirm it.", Headers: headers("RequestId"),
			Content: Map[Media]{{"application/json", Media{Schema: envelope(data)}}},
		})
	}
	return nil
}

// addStream adds the answer of a route that always streams.
func (b *builder) addStream(op *Operation, r *route.Route) error {
	events, err := b.events(r, "Server-sent events")
	if err != nil {
		return err
	}
	op.Responses.Set("200", &Response{
		Description: "Done.", Headers: headers("RequestId"), Content: Map[Media]{{"text/event-stream", events}},
	})
	return nil
}

// addText adds the answer of a route that answers with text.
func addText(op *Operation, mediaTypes []string) {
	ok := &Response{Description: "Done.", Headers: headers("RequestId")}
	for _, of := range mediaTypes {
		ok.Content.Set(of, Media{Schema: &Schema{Type: "string"}})
	}
	op.Responses.Set("200", ok)
}

// events describes a stream; begin begins the sentence.
func (b *builder) events(r *route.Route, begin string) (Media, error) {
	event, err := b.schemas.of(r.Document.Event, answer)
	return Media{
		Schema: &Schema{Type: "string", Description: begin + ", each with one JSON object as its `data`, until the client ends the connection. Lines that begin with a colon keep the connection alive."},
		Event:  event,
	}, err
}

// envelope is a success with data of a schema.
func envelope(data *Schema) *Schema {
	return &Schema{Type: "object", Required: []string{"success", "data", "error"}, Properties: Map[*Schema]{
		{"success", &Schema{Const: true}}, {"data", data}, {"error", &Schema{Type: "null"}},
	}}
}

func successOf(data any) any {
	if data == nil {
		return nil
	}
	return Map[any]{{"success", true}, {"data", data}, {"error", nil}}
}

func headers(names ...string) Map[Header] {
	shown := map[string]string{"RequestId": "X-Request-Id", "RetryAfter": "Retry-After", "Challenge": "WWW-Authenticate"}
	var all Map[Header]
	for _, name := range names {
		all.Set(shown[name], Header{Ref: "#/components/headers/" + name})
	}
	return all
}

// addFailures adds a response for each status that one of the codes has.
func (b *builder) addFailures(op *Operation, codes []string) error {
	byStatus, err := b.byStatus(codes)
	if err != nil {
		return err
	}
	for _, status := range slices.Sorted(maps.Keys(byStatus)) {
		name := strconv.Itoa(status)
		if slices.Equal(byStatus[status], b.shared[status]) {
			op.Responses.Set(name, &Response{Ref: "#/components/responses/Failure" + name})
			continue
		}
		op.Responses.Set(name, b.failure(status, byStatus[status], op.Codes))
	}
	return nil
}

// byStatus sorts codes by the statuses that they have.
func (b *builder) byStatus(codes []string) (map[int][]string, error) {
	sorted := map[int][]string{}
	for _, code := range codes {
		known, ok := b.Codes.Get(code)
		if !ok {
			return nil, fmt.Errorf("the error code %s has no row in the table of docs/api.md", code)
		}
		for _, status := range known.Statuses {
			sorted[status] = append(sorted[status], code)
		}
	}
	return sorted, nil
}

// meanings say what a status means in this API.
var meanings = map[int]string{
	400: "The request is wrong, whatever the state.", 401: "There is no token, or a wrong one.", 403: "The caller may not do this.",
	404: "What the request names doesn't exist.", 409: "The present state forbids it.", 413: "The body is too large.",
	429: "Too often; `Retry-After` says when to try again.", 500: "Nobody foresaw it; the log of the service has it, by `X-Request-Id`.",
	503: "Something that is needed doesn't answer; `Retry-After` says when to try again.",
}

// failure is an answer with one of the codes. shown are those with an example in it.
func (b *builder) failure(status int, codes, shown []string) *Response {
	wanted := headers("RequestId")
	switch status {
	case http.StatusUnauthorized:
		wanted = headers("RequestId", "Challenge")
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		wanted = headers("RequestId", "RetryAfter")
	}
	enum := &Schema{Type: "string"}
	var examples Map[Example]
	for _, code := range codes {
		enum.Enum = append(enum.Enum, code)
		if slices.Contains(shown, code) {
			examples.Set(code, Example{Ref: "#/components/examples/" + code})
		}
	}
	only := &Schema{Properties: Map[*Schema]{{"error_code", enum}}}
	return &Response{Description: meanings[status], Headers: wanted, Content: Map[Media]{{"application/json", Media{
		Schema: &Schema{AllOf: []*Schema{{Ref: "#/components/schemas/Failure"}, only}}, Examples: examples,
	}}}}
}

func (b *builder) openOperation(open Open) (*Operation, error) {
	op := &Operation{ID: open.ID, Tags: []string{open.Tag}, Summary: open.Summary, Security: []map[string][]string{{}}}
	schema := &Schema{Type: "string"}
	switch {
	case open.Data != nil:
		data, err := b.schemas.of(open.Data, answer)
		if err != nil {
			return nil, err
		}
		schema = envelope(data)
	case open.MediaType == "application/json":
		schema = &Schema{Type: "object"}
	}
	op.Responses.Set("200", &Response{Description: "Done.", Headers: headers("RequestId"), Content: Map[Media]{{open.MediaType, Media{Schema: schema}}}})
	return op, nil
}

func (b *builder) addComponents(d *Document) {
	c := &d.Components
	for _, name := range slices.Sorted(maps.Keys(b.schemas.made)) {
		c.Schemas.Set(name, b.schemas.made[name])
	}
	c.Schemas.Set("Failure", &Schema{
		Type: "object", Description: "Failure is the answer to every request that failed. Scripts compare error_code; error is for a person, and may change.",
		Required: []string{"success", "data", "error", "error_code"},
		Properties: Map[*Schema]{
			{"success", &Schema{Const: false}},
			{"data", &Schema{Description: "null, but for the few failures that have something to show"}},
			{"error", &Schema{Type: "string", Description: "what is wrong, for a person"}},
			{"error_code", &Schema{Type: "string", Description: "what is wrong, for a script"}},
		},
	})
	for _, status := range slices.Sorted(maps.Keys(b.shared)) {
		c.Responses.Set("Failure"+strconv.Itoa(status), b.failure(status, b.shared[status], b.shared[status]))
	}
	c.Headers = Map[Header]{
		{"RequestId", Header{Description: "the request's own X-Request-Id, or a new one: logs and audit entries have it", Schema: &Schema{Type: "string"}}},
		{"RetryAfter", Header{Description: "seconds to wait before the next try", Schema: &Schema{Type: "integer", Minimum: number(1)}}},
		{"Challenge", Header{Description: "what the Authorization header lacks (RFC 6750)", Schema: &Schema{Type: "string"}}},
	}
	for name, code := range b.Codes.All() {
		text := code.Cause
		if len(code.Texts) > 0 {
			text = code.Texts[0]
		}
		c.Examples.Set(name, Example{
			Summary: code.Cause, Description: code.Remedy,
			Value: Map[any]{{"success", false}, {"data", nil}, {"error", text}, {"error_code", name}},
		})
	}
	c.Security = map[string]SecurityScheme{"token": {
		Type: "http", Scheme: "bearer", Description: "`Authorization: Bearer TOKEN`. The first token is in `user_data/settings/api_token`.",
	}}
}

// resolve is the component that a schema refers to, or the schema itself.
func (s *schemas) resolve(schema *Schema) *Schema {
	if name, ok := strings.CutPrefix(schema.Ref, "#/components/schemas/"); ok {
		return s.made[name]
	}
	return schema
}

// forget removes a component that nothing will refer to: a request without a body.
func (s *schemas) forget(schema *Schema) {
	delete(s.made, strings.TrimPrefix(schema.Ref, "#/components/schemas/"))
}
