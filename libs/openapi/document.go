package openapi

import (
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Document is an OpenAPI document, as far as this package makes one.
type Document struct {
	OpenAPI    string                `json:"openapi"`
	Info       Info                  `json:"info"`
	Servers    []Server              `json:"servers"`
	Security   []map[string][]string `json:"security"`
	Tags       []Tag                 `json:"tags"`
	Paths      Map[*PathItem]        `json:"paths"`
	Components Components            `json:"components"`
	Codes      Map[Code]             `json:"x-rumi-error-codes"`      // every error code of the API
	Connection []string              `json:"x-rumi-connection-codes"` // codes of answers that belong to no path
}

// Info describes the API.
type Info struct {
	Title       string `json:"title"`
	Version     string `json:"version"`
	Description string `json:"description"`
}

// Server is where the API is.
type Server struct {
	URL         string `json:"url"`
	Description string `json:"description,omitzero"`
}

// Tag is a group of operations: those of one service.
type Tag struct {
	Name        string `json:"name"`
	Description string `json:"description,omitzero"`
}

// PathItem has the operations of a path, by method.
type PathItem struct {
	Get    *Operation `json:"get,omitzero"`
	Post   *Operation `json:"post,omitzero"`
	Put    *Operation `json:"put,omitzero"`
	Delete *Operation `json:"delete,omitzero"`
}

// Operations yields the operations by their methods.
func (p *PathItem) Operations() iter.Seq2[string, *Operation] {
	return func(yield func(string, *Operation) bool) {
		for _, of := range []struct {
			method string
			is     *Operation
		}{{"GET", p.Get}, {"POST", p.Post}, {"PUT", p.Put}, {"DELETE", p.Delete}} {
			if of.is != nil && !yield(of.method, of.is) {
				return
			}
		}
	}
}

func (p *PathItem) set(method string, op *Operation) error {
	of := map[string]**Operation{"GET": &p.Get, "POST": &p.Post, "PUT": &p.Put, "DELETE": &p.Delete}[method]
	if of == nil {
		return fmt.Errorf("the method %s has no place in a path", method)
	}
	*of = op
	return nil
}

// Operation is one route.
type Operation struct {
	ID          string                `json:"operationId"`
	Tags        []string              `json:"tags"`
	Summary     string                `json:"summary"`
	Description string                `json:"description,omitzero"`
	Verb        string                `json:"x-rumi-verb,omitzero"`         // that the caller needs
	Role        string                `json:"x-rumi-role,omitzero"`         // the least that has the verb
	Codes       []string              `json:"x-rumi-error-codes,omitempty"` // of its own, beside those that every operation has
	Timeout     int                   `json:"x-rumi-timeout-seconds,omitzero"`
	Security    []map[string][]string `json:"security,omitzero"`
	Parameters  []Parameter           `json:"parameters,omitzero"`
	Body        *RequestBody          `json:"requestBody,omitzero"`
	Responses   Map[*Response]        `json:"responses"` // by status
}

// Parameter is a name in the path or in the query.
type Parameter struct {
	Name        string  `json:"name"`
	In          string  `json:"in"`
	Description string  `json:"description,omitzero"`
	Required    bool    `json:"required,omitzero"`
	Schema      *Schema `json:"schema"`
	Example     any     `json:"example,omitzero"`
}

// RequestBody is what a request may carry.
type RequestBody struct {
	Required bool       `json:"required,omitzero"`
	Content  Map[Media] `json:"content"`
}

// Media is a body of one media type.
type Media struct {
	Schema   *Schema      `json:"schema"`
	Event    *Schema      `json:"x-rumi-event,omitzero"` // of the data of each server-sent event
	Example  any          `json:"example,omitzero"`
	Examples Map[Example] `json:"examples,omitzero"`
}

// Example is an example of a body, or a reference to one.
type Example struct {
	Ref         string `json:"$ref,omitzero"`
	Summary     string `json:"summary,omitzero"`
	Description string `json:"description,omitzero"`
	Value       any    `json:"value,omitzero"`
}

// Response is an answer with one status, or a reference to one.
type Response struct {
	Ref         string      `json:"$ref,omitzero"` // then nothing else
	Description string      `json:"description,omitzero"`
	Headers     Map[Header] `json:"headers,omitzero"`
	Content     Map[Media]  `json:"content,omitzero"`
}

// Header is a field of an answer's head, or a reference to one.
type Header struct {
	Ref         string  `json:"$ref,omitzero"`
	Description string  `json:"description,omitzero"`
	Schema      *Schema `json:"schema,omitzero"`
}

// Components are what the rest of the document refers to.
type Components struct {
	Schemas   Map[*Schema]              `json:"schemas"`
	Responses Map[*Response]            `json:"responses"`
	Headers   Map[Header]               `json:"headers"`
	Examples  Map[Example]              `json:"examples"`
	Security  map[string]SecurityScheme `json:"securitySchemes"`
}

// SecurityScheme says how a request proves whom it is from.
type SecurityScheme struct {
	Type        string `json:"type"`
	Scheme      string `json:"scheme"`
	Description string `json:"description"`
}

// Code is an error code.
type Code struct {
	Statuses []int    `json:"statuses"`
	Texts    []string `json:"texts,omitempty"` // how the error can begin, with … for what differs; none where all of it differs
	Cause    string   `json:"cause"`
	Remedy   string   `json:"remedy"`
}

// Schema is a JSON Schema (2020-12), as far as this package makes one.
type Schema struct {
	Ref                  string       `json:"$ref,omitzero"`
	Description          string       `json:"description,omitzero"`
	Type                 any          `json:"type,omitzero"` // a string, or a list of strings
	Format               string       `json:"format,omitzero"`
	ContentEncoding      string       `json:"contentEncoding,omitzero"`
	ContentMediaType     string       `json:"contentMediaType,omitzero"`
	Pattern              string       `json:"pattern,omitzero"`
	Const                any          `json:"const,omitzero"`
	Enum                 []any        `json:"enum,omitzero"`
	Default              any          `json:"default,omitzero"`
	Minimum              *int64       `json:"minimum,omitzero"`
	Maximum              *int64       `json:"maximum,omitzero"`
	Required             []string     `json:"required,omitzero"`
	Properties           Map[*Schema] `json:"properties,omitzero"`
	AdditionalProperties any          `json:"additionalProperties,omitzero"` // false, or a *Schema
	Items                *Schema      `json:"items,omitzero"`
	AnyOf                []*Schema    `json:"anyOf,omitzero"`
	AllOf                []*Schema    `json:"allOf,omitzero"`
}

// Map is a JSON object whose members keep their order.
type Map[V any] []Member[V]

// Member is a name with its value.
type Member[V any] struct {
	Name  string
	Value V
}

// Get is the value of a name.
func (m Map[V]) Get(name string) (V, bool) {
	for _, member := range m {
		if member.Name == name {
			return member.Value, true
		}
	}
	var none V
	return none, false
}

// Set gives a name a value; a new name comes last.
func (m *Map[V]) Set(name string, value V) {
	for i := range *m {
		if (*m)[i].Name == name {
			(*m)[i].Value = value
			return
		}
	}
	*m = append(*m, Member[V]{name, value})
}

// All yields names and values in order.
func (m Map[V]) All() iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for _, member := range m {
			if !yield(member.Name, member.Value) {
				return
			}
		}
	}
}

// MarshalJSONTo writes an object.
func (m Map[V]) MarshalJSONTo(out *jsontext.Encoder) error {
	if err := out.WriteToken(jsontext.BeginObject); err != nil {
		return err
	}
	for _, member := range m {
		if err := out.WriteToken(jsontext.String(member.Name)); err != nil {
			return err
		}
		if err := json.MarshalEncode(out, member.Value); err != nil {
			return err
		}
	}
	return out.WriteToken(jsontext.EndObject)
}

// UnmarshalJSONFrom reads an object.
func (m *Map[V]) UnmarshalJSONFrom(in *jsontext.Decoder) error {
	*m = nil
	token, err := in.ReadToken()
	if err != nil {
		return err
	}
	if token.Kind() != '{' {
		return fmt.Errorf("want an object, got %v", token.Kind())
	}
	for in.PeekKind() != '}' {
		name, err := in.ReadToken()
		if err != nil {
			return err
		}
		member := Member[V]{Name: name.String()}
		if err := json.UnmarshalDecode(in, &member.Value); err != nil {
			return err
		}
		*m = append(*m, member)
	}
	_, err = in.ReadToken()
	return err
}

// JSON is the document's text, indented, with a line end at the end.
func (d *Document) JSON() ([]byte, error) {
	text, err := json.Marshal(d, json.Deterministic(true), jsontext.WithIndent("\t"))
	if err != nil {
		return nil, fmt.Errorf("encode the document: %w", err)
	}
	return append(text, '\n'), nil
}

// Parse reads a document that this package made.
func Parse(text []byte) (*Document, error) {
	d := &Document{}
	if err := json.Unmarshal(text, d); err != nil {
		return nil, fmt.Errorf("read the document: %w", err)
	}
	return d, nil
}

// Operation is the operation of a method and a path, nil for none. The path is that of the document: "/api/packs/{pack_id}".
func (d *Document) Operation(method, path string) *Operation {
	item, _ := d.Paths.Get(path)
	if item == nil {
		return nil
	}
	for of, op := range item.Operations() {
		if of == method {
			return op
		}
	}
	return nil
}

// Resolve is the response that r refers to, or r itself.
func (d *Document) Resolve(r *Response) *Response {
	if name, ok := strings.CutPrefix(r.Ref, "#/components/responses/"); ok {
		found, _ := d.Components.Responses.Get(name)
		return found
	}
	return r
}

// ErrorCodes are all error codes of an operation, sorted.
func (d *Document) ErrorCodes(op *Operation) []string {
	var codes []string
	for _, r := range op.Responses.All() {
		codes = append(codes, r.codes(d)...)
	}
	slices.Sort(codes)
	return slices.Compact(codes)
}

// codes are the error codes of a response, none for a success.
func (r *Response) codes(d *Document) []string {
	var codes []string
	body, _ := d.Resolve(r).Content.Get("application/json")
	if body.Schema == nil {
		return nil
	}
	for _, part := range body.Schema.AllOf {
		of, _ := part.Properties.Get("error_code")
		if of == nil {
			continue
		}
		for _, code := range of.Enum {
			codes = append(codes, fmt.Sprint(code))
		}
	}
	return codes
}

// Close lets no object have a field that its schema doesn't name, where nothing is said of others: for tests, which must notice a field that is
// answered and not documented. Clients must take such fields, so the document itself doesn't forbid them.
func (d *Document) Close() {
	for _, schema := range d.Components.Schemas {
		schema.Value.close()
	}
	for _, item := range d.Paths {
		for _, op := range item.Value.Operations() {
			for _, r := range op.Responses {
				for i := range r.Value.Content {
					r.Value.Content[i].Value.Schema.close()
				}
			}
		}
	}
}

func (s *Schema) close() {
	if s == nil {
		return
	}
	if len(s.Properties) > 0 && s.Type == "object" && s.AdditionalProperties == nil {
		s.AdditionalProperties = false
	}
	s.Items.close()
	for _, p := range s.Properties {
		p.Value.close()
	}
}
