package openapi

import (
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/libs/access"
)

// Breaking lists what in now can break a client that was written for before, one sentence for each: what was removed (calls, fields, values of
// texts, error codes), what a request must have that it need not have before, what an answer may be that it could not be, and what needs more
// rights. Additions are no breaks: clients take what they don't know for something new (docs/api-changes.md).
func Breaking(before, now *Document) []string {
	c := &comparison{before: before, now: now}
	for path, item := range before.Paths.All() {
		for method, op := range item.Operations() {
			c.at = method + " " + path
			found := now.Operation(method, path)
			if found == nil {
				c.say("the call was removed")
				continue
			}
			c.operation(op, found)
		}
	}
	slices.Sort(c.breaks)
	return slices.Compact(c.breaks)
}

// comparison walks two documents side by side.
type comparison struct {
	before, now *Document
	at          string // the call
	breaks      []string
	walked      map[string]bool // pairs of components that were compared already, of this call and direction
}

func (c *comparison) say(format string, args ...any) {
	c.breaks = append(c.breaks, c.at+": "+fmt.Sprintf(format, args...))
}

func (c *comparison) operation(before, now *Operation) {
	if before.Verb != now.Verb {
		c.say("needs the verb %q, was %q", now.Verb, before.Verb)
	}
	if !access.Role(before.Role).Covers(access.Role(now.Role)) && now.Role != "" {
		c.say("needs the role %s, was %q", now.Role, before.Role)
	}
	c.parameters(before.Parameters, now.Parameters)
	c.requestBody(before.Body, now.Body)
	for _, status := range before.Responses {
		c.response(status.Name, before, now)
	}
	codes := c.now.ErrorCodes(now)
	for _, code := range c.before.ErrorCodes(before) {
		if !slices.Contains(codes, code) {
			c.say("the error code %s was removed", code)
		}
	}
}

func (c *comparison) parameters(before, now []Parameter) {
	named := func(all []Parameter, p Parameter) *Parameter {
		i := slices.IndexFunc(all, func(one Parameter) bool { return one.In == p.In && one.Name == p.Name })
		if i < 0 {
			return nil
		}
		return &all[i]
	}
	for _, p := range before {
		found := named(now, p)
		if found == nil {
			c.say("the parameter %s was removed", p.Name)
			continue
		}
		if found.Required && !p.Required {
			c.say("the parameter %s is required", p.Name)
		}
		c.walked = map[string]bool{}
		c.schema("the parameter "+p.Name, p.Schema, found.Schema, request)
	}
	for _, p := range now {
		if p.Required && named(before, p) == nil {
			c.say("the new parameter %s is required", p.Name)
		}
	}
}

func (c *comparison) requestBody(before, now *RequestBody) {
	if now != nil && now.Required && (before == nil || !before.Required) {
		c.say("a body is required")
	}
	if before == nil {
		return
	}
	for kind, media := range before.Content.All() {
		if now == nil {
			c.say("no body of %s is taken", kind)
			continue
		}
		found, ok := now.Content.Get(kind)
		if !ok {
			c.say("no body of %s is taken", kind)
			continue
		}
		c.walked = map[string]bool{}
		c.schema("the body", media.Schema, found.Schema, request)
	}
}

// response compares the answers of a status that is a success. Failures are compared by their codes.
func (c *comparison) response(status string, before, now *Operation) {
	if status >= "300" {
		return
	}
	old, _ := before.Responses.Get(status)
	found, ok := now.Responses.Get(status)
	if !ok {
		c.say("the answer %s was removed", status)
		return
	}
	for kind, media := range c.before.Resolve(old).Content.All() {
		same, ok := c.now.Resolve(found).Content.Get(kind)
		if !ok {
			c.say("the answer %s is no %s any more", status, kind)
			continue
		}
		c.walked = map[string]bool{}
		c.schema("the answer", media.Schema, same.Schema, answer)
		if media.Event != nil {
			c.schema("an event", media.Event, same.Event, answer)
		}
	}
}

// schema compares what is at a place in a body. A request may take more than before, an answer may hold less.
func (c *comparison) schema(place string, before, now *Schema, d direction) {
	if before == nil || now == nil {
		return
	}
	before, old := c.before.component(before)
	now, found := c.now.component(now)
	if pair := old + " " + found; old != "" && found != "" {
		if c.walked[pair] {
			return // a type may be within itself
		}
		c.walked[pair] = true
	}
	c.types(place, before, now, d)
	c.values(place, before, now, d)
	c.fields(place, before, now, d)
	if before.Items != nil {
		c.schema(place+"[]", before.Items, now.Items, d)
	}
	c.schema(place+".*", additional(before), additional(now), d)
}

// component is the schema that another refers to, and its name; of "this or null" the former. A schema that refers to none is itself, without a name.
func (d *Document) component(schema *Schema) (found *Schema, of string) {
	for {
		switch name, isRef := strings.CutPrefix(schema.Ref, "#/components/schemas/"); {
		case isRef:
			found, ok := d.Components.Schemas.Get(name)
			if !ok {
				return &Schema{}, name
			}
			schema, of = found, name
		case len(schema.AnyOf) == 2 && schema.AnyOf[1].Type == "null":
			schema = schema.AnyOf[0]
		default:
			return schema, of
		}
	}
}

// additional is the schema of the members that a map has, nil for none.
func additional(schema *Schema) *Schema {
	switch of := schema.AdditionalProperties.(type) {
	case *Schema:
		return of
	case map[string]any:
		text, err := json.Marshal(of)
		read := &Schema{}
		if err != nil || json.Unmarshal(text, read) != nil {
			return nil
		}
		return read
	}
	return nil
}

// kinds are the types that a schema allows; none for anything.
func kinds(schema *Schema) []string {
	var all []string
	switch kind := schema.Type.(type) {
	case string:
		all = []string{kind}
	case []any:
		for _, one := range kind {
			all = append(all, fmt.Sprint(one))
		}
	case []string:
		all = kind
	}
	for _, one := range schema.AnyOf {
		all = append(all, kinds(one)...)
	}
	return all
}

func (c *comparison) types(place string, before, now *Schema, d direction) {
	wide, narrow := kinds(before), kinds(now) // of an answer: what may come now must be among what came before
	if d == request {
		wide, narrow = narrow, wide
	}
	if len(wide) == 0 {
		return // anything
	}
	fits := len(narrow) > 0
	for _, kind := range narrow {
		fits = fits && (slices.Contains(wide, kind) || kind == "integer" && slices.Contains(wide, "number"))
	}
	if !fits || before.Format != now.Format && now.Format != "" && d == request {
		c.say("%s is %s, was %s", place, orAny(kinds(now)), orAny(kinds(before)))
	}
}

func orAny(kinds []string) string {
	if len(kinds) == 0 {
		return "anything"
	}
	return strings.Join(kinds, " or ")
}

// values compares the values that a text can have, and the bounds of a number.
func (c *comparison) values(place string, before, now *Schema, d direction) {
	for _, value := range before.Enum {
		if len(now.Enum) > 0 && !slices.Contains(now.Enum, value) {
			c.say("%s is never %v any more", place, value)
		}
	}
	if d == answer {
		return
	}
	if len(before.Enum) == 0 && len(now.Enum) > 0 {
		c.say("%s takes some values only", place)
	}
	if now.Pattern != "" && now.Pattern != before.Pattern {
		c.say("%s must match %s", place, now.Pattern)
	}
	if now.Minimum != nil && (before.Minimum == nil || *before.Minimum < *now.Minimum) {
		c.say("%s must be %d at least", place, *now.Minimum)
	}
	if now.Maximum != nil && (before.Maximum == nil || *before.Maximum > *now.Maximum) {
		c.say("%s must be %d at most", place, *now.Maximum)
	}
}

func (c *comparison) fields(place string, before, now *Schema, d direction) {
	for name, field := range before.Properties.All() {
		found, ok := now.Properties.Get(name)
		if !ok {
			c.say("the field %s.%s was removed", place, name)
			continue
		}
		had, has := slices.Contains(before.Required, name), slices.Contains(now.Required, name)
		switch {
		case d == request && has && !had:
			c.say("the field %s.%s is required", place, name)
		case d == answer && had && !has:
			c.say("the field %s.%s may lack", place, name)
		}
		c.schema(place+"."+name, field, found, d)
	}
	for name := range now.Properties.All() {
		if _, known := before.Properties.Get(name); !known && d == request && slices.Contains(now.Required, name) {
			c.say("the new field %s.%s is required", place, name)
		}
	}
}

// Contract is what Breaking compares of a document: without texts and examples, which may change at any time.
func Contract(of *Document) (*Document, error) {
	text, err := of.JSON()
	if err != nil {
		return nil, err
	}
	d, err := Parse(text)
	if err != nil {
		return nil, err
	}
	d.Info, d.Tags, d.Codes, d.Connection, d.Components.Examples = Info{}, nil, nil, nil, nil
	for _, item := range d.Paths {
		for _, op := range item.Value.Operations() {
			op.strip()
		}
	}
	for _, r := range d.Components.Responses {
		r.Value.strip()
	}
	for _, schema := range d.Components.Schemas {
		schema.Value.strip()
	}
	return d, nil
}

func (op *Operation) strip() {
	op.Summary, op.Description = "", ""
	for i := range op.Parameters {
		op.Parameters[i].Description, op.Parameters[i].Example = "", nil
		op.Parameters[i].Schema.strip()
	}
	if op.Body != nil {
		stripAll(op.Body.Content)
	}
	for _, r := range op.Responses {
		r.Value.strip()
	}
}

func (r *Response) strip() {
	r.Description, r.Headers = "", nil
	stripAll(r.Content)
}

func stripAll(content Map[Media]) {
	for i := range content {
		content[i].Value.Example, content[i].Value.Examples = nil, nil
		content[i].Value.Schema.strip()
		content[i].Value.Event.strip()
	}
}

func (s *Schema) strip() {
	if s == nil {
		return
	}
	s.Description, s.Default = "", nil
	s.Items.strip()
	for _, p := range s.Properties {
		p.Value.strip()
	}
	for _, one := range append(s.AnyOf, s.AllOf...) {
		one.strip()
	}
	if _, isSchema := s.AdditionalProperties.(map[string]any); isSchema {
		if of := additional(s); of != nil {
			of.strip()
			s.AdditionalProperties = of
		}
	}
}
