package openapi

import (
	"cmp"
	"fmt"
	"math"
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/libs/route"
)

// direction says who writes the JSON that a schema is of. The same type is described in two ways: an answer has all its fields, a request
// may leave them out, and nothing else may be in it.
type direction int

const (
	answer direction = iota
	request
)

// schemas makes schemas of types, and keeps those of named structs as components.
type schemas struct {
	source    *Source
	overrides map[reflect.Type]Schema
	made      map[string]*Schema      // by name
	types     map[string]reflect.Type // whose they are
}

var (
	timeType  = reflect.TypeFor[time.Time]()
	valueType = reflect.TypeFor[jsontext.Value]()
	fileType  = reflect.TypeFor[route.File]()
	bytesType = reflect.TypeFor[[]byte]()

	marshaler     = reflect.TypeFor[json.MarshalerTo]()
	oldMarshaler  = reflect.TypeFor[json.Marshaler]()
	unmarshaler   = reflect.TypeFor[json.UnmarshalerFrom]()
	oldUnmarshale = reflect.TypeFor[json.Unmarshaler]()
)

// of is the schema of a type as a value of its own; a named struct's is a reference to a component.
func (s *schemas) of(t reflect.Type, d direction) (*Schema, error) {
	if known, ok := s.overrides[t]; ok {
		return &known, nil
	}
	switch t {
	case timeType:
		return &Schema{Type: "string", Format: "date-time"}, nil
	case valueType:
		return &Schema{}, nil // any JSON
	case fileType:
		return &Schema{Type: "string", ContentMediaType: "application/octet-stream"}, nil
	case bytesType:
		return &Schema{Type: "string", ContentEncoding: "base64"}, nil
	}
	if t.Kind() == reflect.Pointer {
		inner, err := s.of(t.Elem(), d)
		if err != nil {
			return nil, err
		}
		return nullable(inner), nil
	}
	if custom(t, d) {
		return nil, fmt.Errorf("%v reads or writes its JSON itself: give the generator a schema for it", t)
	}
	return s.plain(t, d)
}

// custom says whether a type has JSON of its own in a direction. A type that only refuses unknown members has none.
func custom(t reflect.Type, d direction) bool {
	if d == answer {
		return t.Implements(marshaler) || t.Implements(oldMarshaler)
	}
	p := reflect.PointerTo(t)
	return p.Implements(unmarshaler) || p.Implements(oldUnmarshale)
}

// plain is the schema of a type that encodes as its kind does.
func (s *schemas) plain(t reflect.Type, d direction) (*Schema, error) {
	switch t.Kind() {
	case reflect.String:
		return s.text(t)
	case reflect.Bool:
		return &Schema{Type: "boolean"}, nil
	case reflect.Int, reflect.Int64, reflect.Int32, reflect.Int16, reflect.Int8:
		return &Schema{Type: "integer"}, nil
	case reflect.Uint16:
		return &Schema{Type: "integer", Minimum: number(0), Maximum: number(math.MaxUint16)}, nil
	case reflect.Uint, reflect.Uint64, reflect.Uint32, reflect.Uint8:
		return &Schema{Type: "integer", Minimum: number(0)}, nil
	case reflect.Float64, reflect.Float32:
		return &Schema{Type: "number"}, nil
	case reflect.Interface:
		return &Schema{}, nil
	case reflect.Slice, reflect.Array:
		items, err := s.of(t.Elem(), d)
		return &Schema{Type: "array", Items: items}, err
	case reflect.Map:
		values, err := s.of(t.Elem(), d)
		return &Schema{Type: "object", AdditionalProperties: values}, err
	case reflect.Struct:
		return s.named(t, d)
	default:
		return nil, fmt.Errorf("%v has no JSON", t)
	}
}

func (s *schemas) text(t reflect.Type) (*Schema, error) {
	constants, err := s.source.constants(t)
	if err != nil {
		return nil, err
	}
	schema := &Schema{Type: "string"}
	for _, c := range constants {
		schema.Enum = append(schema.Enum, c)
	}
	if len(constants) > 0 {
		schema.Description, err = s.source.typeDoc(t)
	}
	return schema, err
}

// named is a reference to the component of a struct, which is made where it isn't yet. A struct without a name stands where it is used.
func (s *schemas) named(t reflect.Type, d direction) (*Schema, error) {
	if t.Name() == "" {
		return s.object(t, d)
	}
	name := componentName(t)
	if d == request && !strings.HasSuffix(name, "Request") && !strings.HasSuffix(name, "Form") {
		name += ".Input"
	}
	ref := &Schema{Ref: "#/components/schemas/" + name}
	if _, known := s.made[name]; known {
		if s.types[name] != t {
			return nil, fmt.Errorf("%v and %v would both be the component %s", t, s.types[name], name)
		}
		return ref, nil
	}
	s.made[name], s.types[name] = nil, t // a type may be within itself
	schema, err := s.object(t, d)
	if err != nil {
		return nil, err
	}
	schema.Description, err = s.source.typeDoc(t)
	s.made[name] = schema
	return ref, err
}

// componentName is package and name: "approval.Listed"; of a generic type with its arguments: "wire.ListResponse_pip.LockItem".
func componentName(t reflect.Type) string {
	name, args, generic := strings.Cut(t.Name(), "[")
	name = path.Base(t.PkgPath()) + "." + name
	if !generic {
		return name
	}
	for arg := range strings.SplitSeq(strings.TrimSuffix(args, "]"), ",") {
		name += "_" + path.Base(arg)
	}
	return name
}

// object is the schema of a struct: its fields, and those of structs that are embedded without a name.
func (s *schemas) object(t reflect.Type, d direction) (*Schema, error) {
	schema := &Schema{Type: "object"}
	if d == request {
		schema.AdditionalProperties = false
	}
	return schema, s.addFields(schema, t, d)
}

func (s *schemas) addFields(schema *Schema, t reflect.Type, d direction) error {
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" && options == "", !f.IsExported() && !f.Anonymous:
			continue
		case f.Anonymous && name == "":
			if err := s.addFields(schema, f.Type, d); err != nil {
				return err
			}
			continue
		}
		mayLack := strings.Contains(options, "omitzero") || strings.Contains(options, "omitempty")
		property, required, err := s.field(t, f, d, mayLack)
		if err != nil {
			return fmt.Errorf("%v.%s: %w", t, f.Name, err)
		}
		name = cmp.Or(name, f.Name)
		schema.Properties.Set(name, property)
		if required {
			schema.Required = append(schema.Required, name)
		}
	}
	return nil
}

// field is the schema of a field, and whether it is always there.
func (s *schemas) field(t reflect.Type, f reflect.StructField, d direction, mayLack bool) (schema *Schema, required bool, err error) {
	of := f.Type
	if of.Kind() == reflect.Pointer && mayLack && d == answer {
		of = of.Elem() // null would be left out
	}
	schema, err = s.of(of, d)
	if err != nil {
		return nil, false, err
	}
	said, err := s.source.fieldDoc(t, f.Name)
	if err != nil {
		return nil, false, err
	}
	own := *schema // an override, or one that others have, too
	if said != "" {
		own.Description = said
	}
	required, err = applyTag(&own, f.Tag.Get("api"))
	return &own, required || d == answer && !mayLack, err
}

// nullable is a schema that null fits, too.
func nullable(inner *Schema) *Schema {
	one := *inner
	switch kind, ok := one.Type.(string); {
	case ok && len(one.Enum) == 0:
		one.Type = []string{kind, "null"}
		return &one
	case ok:
		one.Type, one.Enum = []string{kind, "null"}, append(slices.Clone(one.Enum), nil)
		return &one
	case one.Ref == "":
		return &one // anything, or several types already
	}
	return &Schema{AnyOf: []*Schema{inner, {Type: "null"}}}
}

// applyTag reads the tag of a field that says more than its type does:
//
//	api:"required"              a request must have it; answers have all that isn't omitted
//	api:"type=object"           what a field of raw JSON holds
//	api:"enum=stdout|stderr"    the texts that it can be, beside the constants of its type; "enum=" is the empty text
//	api:"min=1,max=10000"       bounds of a number
//	api:"default=100"           what counts where it is absent
//	api:"pattern=^[A-Z]+$"      what a text looks like; the last of the tag, since it may hold commas
//
// Nothing but the document reads it: what refuses a wrong value is the handler.
func applyTag(schema *Schema, tag string) (required bool, err error) {
	for tag != "" {
		var part string
		if part, tag, _ = strings.Cut(tag, ","); strings.HasPrefix(part, "pattern=") && tag != "" {
			part, tag = part+","+tag, ""
		}
		key, value, _ := strings.Cut(part, "=")
		switch key {
		case "required":
			required = true
		case "type":
			schema.Type = value
		case "enum":
			for one := range strings.SplitSeq(value, "|") {
				schema.Enum = append(schema.Enum, one)
			}
		case "min", "max":
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return false, fmt.Errorf("the tag api has %s=%q, want a whole number", key, value)
			}
			if key == "min" {
				schema.Minimum = &n
			} else {
				schema.Maximum = &n
			}
		case "default":
			schema.Default = typed(schema, value)
		case "pattern":
			schema.Pattern = value
		default:
			return false, fmt.Errorf("the tag api has %q, want required, type, enum, min, max, default or pattern", key)
		}
	}
	return required, nil
}

// typed is a tag's text as the schema's type has it.
func typed(schema *Schema, value string) any {
	if n, err := strconv.ParseInt(value, 10, 64); err == nil && schema.Type == "integer" {
		return n
	}
	if b, err := strconv.ParseBool(value); err == nil && schema.Type == "boolean" {
		return b
	}
	return value
}

func number(n int64) *int64 { return &n }
