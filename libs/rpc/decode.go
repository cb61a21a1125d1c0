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
)

// MaxBody bounds a JSON body, in bytes (contract.md, "HTTP").
const MaxBody = 10 << 20

// errInvalidJSON is what a body that can't be read gets.
const errInvalidJSON = "Invalid JSON in request body"

// Decode reads a request strictly: JSON members into fields by their json tags (an unknown one, a duplicate, a wrong
// type and invalid UTF-8 are refused, naming the field), path values and query parameters into the fields tagged
// path:"name" and query:"name" (an unknown parameter is refused like an unknown field). An absent body is an empty object. Req is a struct.
func Decode[Req any](r *http.Request) (Req, error) {
	var req Req
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, MaxBody))
	if err != nil {
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
			return req, fault.TooLarge("Request body too large")
		}
		return req, fault.Invalid("Request body could not be read").Because(err)
	}
	if err := decodeBody(body, &req); err != nil {
		return req, err
	}
	return req, bind(r, reflect.ValueOf(&req).Elem())
}

func decodeBody(body []byte, into any) error {
	body = bytes.TrimLeft(body, " \t\r\n")
	if len(body) == 0 {
		return nil
	}
	if body[0] != '{' {
		return fault.Invalid(errInvalidJSON)
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
			return fault.Invalid("Unknown field '%s'", field).With("unknown_field")
		case semantic.GoType != nil:
			return fault.Invalid("Invalid value for field '%s': want %s", field, jsonType(semantic.GoType)).With("invalid_field").Because(err)
		}
	}
	return fault.Invalid(errInvalidJSON).Because(err)
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
	if b.Len() > 100 {
		return strings.ToValidUTF8(b.String()[:100], "") + "…"
	}
	return b.String()
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
		return "an array"
	case reflect.Struct:
		if t.PkgPath() == "time" && t.Name() == "Time" {
			return "an RFC 3339 time"
		}
		return "an object"
	default:
		return "an object"
	}
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

// checkQuery refuses parameters that nobody would look at: a misspelt filter must not answer as if there were none.
func checkQuery(r *http.Request, known []binding) error {
	if r.URL.RawQuery == "" {
		return nil
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return fault.Invalid("Invalid query").Because(err)
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		shown := fieldName(jsontext.Pointer("").AppendToken(name))
		if !slices.ContainsFunc(known, func(b binding) bool { return b.query && b.name == name }) {
			return fault.Invalid("Unknown field '%s'", shown).With("unknown_field")
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
				return fault.Invalid("Invalid value for '%s': want a whole number", b.name)
			}
			field.SetInt(n)
		case reflect.Bool:
			v, err := strconv.ParseBool(value)
			if err != nil {
				return fault.Invalid("Invalid value for '%s': want true or false", b.name)
			}
			field.SetBool(v)
		default:
			return fmt.Errorf("bind %s: a %s can't come from a path or a query", b.name, field.Type())
		}
	}
	return nil
}
