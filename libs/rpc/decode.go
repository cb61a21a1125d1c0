package rpc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/jsonpos"
	"github.com/rumi-ai/rumi/libs/text"
)

// MaxBody bounds a JSON body, in bytes (contract.md, "HTTP").
const MaxBody = 10 << 20

// Decode reads a request strictly: JSON members into fields by their json tags (an unknown one, a duplicate, a wrong
// type and invalid UTF-8 are refused, naming the field), path values and query parameters into the fields tagged
// path:"name" and query:"name" (an unknown parameter, one that stands twice and a query that can't be parsed are refused, too). An absent body is an empty object. Req is a struct.
func Decode[Req any](r *http.Request) (Req, error) {
	var req Req
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, MaxBody))
	if err != nil {
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
			return req, fault.BodyTooLarge()
		}
		return req, fault.BodyUnreadable().Because(err)
	}
	if err := DecodeBody(body, &req); err != nil {
		return req, err
	}
	return req, bind(r, reflect.ValueOf(&req).Elem())
}

// DecodeBody is the part of Decode that reads the JSON body. into points to a struct. The gateway reads with it what a body names before
// it hands the request on: two readers of the same bytes must not find two things.
func DecodeBody(body []byte, into any) error {
	trimmed := bytes.TrimLeft(body, " \t\r\n")
	if len(trimmed) == 0 {
		return nil
	}
	if trimmed[0] != '{' && json.Unmarshal(body, new(jsontext.Value)) == nil {
		return invalidJSON(`want an object, such as {"name": "value"}`)
	}
	err := json.Unmarshal(body, into, json.RejectUnknownMembers(true))
	if err == nil {
		return nil
	}
	if semantic, ok := errors.AsType[*json.SemanticError](err); ok {
		field := fieldName(semantic.JSONPointer)
		switch {
		case field == "":
		case errors.Is(err, json.ErrUnknownName):
			return fault.UnknownField(field, members(semantic.GoType))
		case semantic.GoType != nil:
			return fault.InvalidField(field, jsonType(semantic.GoType)).Because(err)
		}
	}
	return invalidJSON(jsonpos.Describe(body, err)).Because(err)
}

// invalidJSON is the answer to a body that can't be read. why has nothing of the body.
func invalidJSON(why string) *fault.Fault {
	return fault.Invalid("Invalid JSON in request body: %s", why).With("invalid_json")
}

// members are the names of the members that t, a struct or a pointer to one, is read from; none where it has methods for that.
func members(t reflect.Type) []string {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil || t.Kind() != reflect.Struct {
		return nil
	}
	var names []string
	for i := range t.NumField() {
		field := t.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		switch {
		case name == "-" || !field.IsExported() && !field.Anonymous:
		case name == "" && field.Anonymous:
			names = append(names, members(field.Type)...)
		case name == "":
			names = append(names, field.Name)
		default:
			names = append(names, name)
		}
	}
	return names
}

// fieldName turns /allowed_ports/0 into allowed_ports[0]. Names come from outside, so they are cut and kept printable.
func fieldName(p jsontext.Pointer) string {
	var b strings.Builder
	for token := range p.Tokens() {
		if _, err := strconv.ParseUint(token, 10, 32); err == nil && b.Len() > 0 {
			fmt.Fprintf(&b, "[%s]", token)
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		if quoted := strconv.Quote(token); len(quoted) > 0 {
			b.WriteString(quoted[1 : len(quoted)-1])
		}
	}
	return text.Clip(b.String(), 100)
}

func jsonType(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return jsonType(t.Elem())
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number in range"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Slice, reflect.Array:
		return arrayOf(t.Elem())
	case reflect.Struct:
		if t.PkgPath() == "time" && t.Name() == "Time" {
			return "a time such as 2027-01-01T00:00:00Z"
		}
		return "an object"
	default:
		return "an object"
	}
}

// arrayOf is an array with elements of type t, by an example.
func arrayOf(t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch jsonType(t) {
	case "a string":
		return `an array such as ["a", "b"]`
	case "a whole number in range", "a number":
		return "an array such as [1, 2]"
	case "an object":
		return `an array of objects such as [{"name": "value"}]`
	}
	return "an array"
}

// binding is a field that comes from the path or the query.
type binding struct {
	index  int
	name   string
	query  bool
	source func(*http.Request, string) string
}

var bindings sync.Map // reflect.Type → []binding

func bindingsOf(t reflect.Type) []binding {
	if cached, ok := bindings.Load(t); ok {
		return cached.([]binding)
	}
	var found []binding
	for i := range t.NumField() {
		tag := t.Field(i).Tag
		if name := tag.Get("path"); name != "" {
			found = append(found, binding{i, name, false, (*http.Request).PathValue})
		}
		if name := tag.Get("query"); name != "" {
			found = append(found, binding{i, name, true, queryValue})
		}
	}
	bindings.Store(t, found)
	return found
}

func queryValue(r *http.Request, name string) string { return r.URL.Query().Get(name) }

// ParseQuery reads a query strictly. What net/url drops without a word (parameters with a semicolon or a bad escape) is refused: a
// filter that vanishes answers with everything.
func ParseQuery(raw string) (url.Values, error) {
	query, err := url.ParseQuery(raw)
	if err == nil {
		return query, nil
	}
	why := "a percent sign is no escape; write it as %25"
	if strings.Contains(raw, ";") {
		why = "a semicolon joins no parameters; join them by & or write it as %3B"
	}
	return nil, fault.Invalid("Invalid query: %s", why).With("invalid_query").Because(err)
}

// checkQuery refuses parameters that the endpoint doesn't have: a request with a misspelt filter must not be answered as if it had no filter.
func checkQuery(r *http.Request, known []binding) error {
	if r.URL.RawQuery == "" {
		return nil
	}
	query, err := ParseQuery(r.URL.RawQuery)
	if err != nil {
		return err
	}
	var names []string
	for _, b := range known {
		if b.query {
			names = append(names, b.name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		shown := fieldName(jsontext.Pointer("").AppendToken(name))
		if !slices.Contains(names, name) {
			return fault.UnknownParameter(shown, names)
		}
		if len(query[name]) > 1 {
			return fault.Invalid("Field '%s' stands twice in the query", shown).With("invalid_field")
		}
	}
	return nil
}

func bind(r *http.Request, into reflect.Value) error {
	known := bindingsOf(into.Type())
	if err := checkQuery(r, known); err != nil {
		return err
	}
	for _, b := range known {
		value := b.source(r, b.name)
		if value == "" {
			continue
		}
		field := into.Field(b.index)
		switch field.Kind() {
		case reflect.String:
			field.SetString(value)
		case reflect.Int, reflect.Int64:
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return fault.InvalidField(b.name, "a whole number")
			}
			field.SetInt(n)
		case reflect.Bool:
			v, err := strconv.ParseBool(value)
			if err != nil {
				return fault.InvalidField(b.name, "true or false")
			}
			field.SetBool(v)
		default:
			return fmt.Errorf("bind %s: a %s can't come from a path or a query", b.name, field.Type())
		}
	}
	return nil
}
