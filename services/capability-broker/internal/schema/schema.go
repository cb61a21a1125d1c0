// Package schema checks JSON values by JSON Schemas (draft 2020-12) that may be hostile, and so may the values. Schemas are written by
// operators (args_schema of a grant) and by packs (config_schema of a handler), values by packs. None of them may make the broker fetch
// anything, loop, or work for long; and no text that this package returns may repeat a value, which may be secret.
//
// Every keyword of 2020-12 that asserts something is known, format included. What asserts nothing here or reaches out of the schema is
// refused when the schema is compiled, so that a misspelt keyword lets nothing through: unknown keywords, content*, $id, anchors, dynamic
// and recursive references. References are JSON pointers inside the schema. Patterns are in Go's syntax (RE2).
//
// The work of a check is bounded before it begins: values in it times the weight of the schema (inspect.go), and bytes times instructions
// of all pattern matches.
package schema

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// Bounds of a schema and of what is checked against it.
const (
	MaxBytes = 64 << 10 // of a schema

	maxSchemaDepth = 64
	maxWeight      = 2000 // subschemas and their lists, counted each time a reference leads to them
	maxPattern     = 1000 // bytes of a pattern
	maxProgram     = 2000 // instructions of a pattern's automaton

	maxValueDepth = 64
	maxValues     = 100_000     // values and names in what is checked
	maxSteps      = 2_000_000   // values times weight
	maxMatching   = 100_000_000 // bytes times instructions, of all matches of one check
	maxNumber     = 128         // bytes of a number
	maxExponent   = 400         // of a number, beyond what a float64 holds; exact arithmetic takes its time with more
)

// location is the schema's own name, which only this package sees.
const location = "urn:rumi:schema"

// Schema is a compiled schema. It is safe for concurrent use.
type Schema struct {
	weight   int
	names    map[string]bool // of properties, in the schema itself: only these may be in an error
	compiled sync.Pool       // of *instance
}

// instance is a compiled schema with the count of its own matching, for one check at a time.
type instance struct {
	*jsonschema.Schema
	matched int
}

// Compile reads a schema, an object. The error's text is for the author: what is wrong, and at which keyword.
func Compile(raw jsontext.Value) (*Schema, error) {
	if raw.Kind() != '{' {
		return nil, errors.New("it must be an object")
	}
	if len(raw) > MaxBytes {
		return nil, fmt.Errorf("it is too large (max: %d bytes)", MaxBytes)
	}
	doc, _, err := decode(raw, maxSchemaDepth)
	if err != nil {
		return nil, err
	}
	s := &Schema{names: make(map[string]bool)}
	if s.weight, err = inspect(doc, s.names); err != nil {
		return nil, err
	}
	first, err := compile(doc)
	if err != nil {
		return nil, err
	}
	s.compiled.New = func() any {
		again, err := compile(doc)
		if err != nil {
			panic(fmt.Sprintf("compile schema: what compiled before does not: %v", err))
		}
		return again
	}
	s.compiled.Put(first)
	return s, nil
}

type noLoader struct{}

func (noLoader) Load(string) (any, error) {
	return nil, errors.New("nothing outside the schema is read")
}

func compile(doc any) (*instance, error) {
	i := &instance{}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertFormat()
	c.UseLoader(noLoader{})
	c.UseRegexpEngine(func(s string) (jsonschema.Regexp, error) { return newPattern(s, &i.matched) })
	if err := c.AddResource(location, doc); err != nil {
		return nil, err
	}
	var err error
	if i.Schema, err = c.Compile(location); err == nil {
		return i, nil
	}
	if meta, ok := errors.AsType[*jsonschema.SchemaValidationError](err); ok {
		if invalid, ok := errors.AsType[*jsonschema.ValidationError](meta.Err); ok {
			e := first(invalid, true)
			return nil, fmt.Errorf("at '%s': %s", pointer(e.InstanceLocation), e.ErrorKind.LocalizedString(message.NewPrinter(language.English)))
		}
	}
	return nil, err
}

// Check says what of the value doesn't fit, "" for nothing: where in the value, and which keyword of the schema. Nothing
// of the value itself is in the text, nor any name that the schema doesn't have.
func (s *Schema) Check(raw jsontext.Value) string {
	value, n, err := decode(raw, maxValueDepth)
	if err != nil {
		return err.Error()
	}
	if n*s.weight > maxSteps {
		return "there is too much in it to check"
	}
	i := s.compiled.Get().(*instance)
	defer s.compiled.Put(i)
	i.matched = 0
	err = i.Validate(value)
	if i.matched > maxMatching {
		return "there is too much in it to match with patterns"
	}
	if err == nil {
		return ""
	}
	invalid, ok := errors.AsType[*jsonschema.ValidationError](err)
	if !ok {
		return "it can't be checked"
	}
	e := first(invalid, false)
	return fmt.Sprintf("at '%s' it does not satisfy %s", s.path(e.InstanceLocation, value), keyword(e))
}

// path is where an error is, with * for names that only the value has.
func (s *Schema) path(tokens []string, value any) string {
	shown := make([]string, len(tokens))
	for i, token := range tokens {
		shown[i] = token
		switch v := value.(type) {
		case []any:
			if n, err := strconv.Atoi(token); err == nil && n < len(v) {
				value = v[n]
			}
		case map[string]any:
			if value = v[token]; !s.names[token] {
				shown[i] = "*"
			}
		}
	}
	return pointer(shown)
}

// first picks, of the errors that a check has found, the one to report: the same one each time. Of what is inside anyOf, not and the
// like no part is the cause; inner goes there all the same, for an example of what would have been right.
func first(e *jsonschema.ValidationError, inner bool) *jsonschema.ValidationError {
	switch e.ErrorKind.(type) {
	case *kind.Schema, *kind.Group, *kind.Reference, *kind.AllOf:
	default:
		if !inner {
			return e
		}
	}
	if len(e.Causes) == 0 {
		return e
	}
	found := make([]*jsonschema.ValidationError, len(e.Causes))
	for i, cause := range e.Causes {
		found[i] = first(cause, inner)
	}
	return slices.MinFunc(found, func(a, b *jsonschema.ValidationError) int {
		return cmp.Or(slices.Compare(a.InstanceLocation, b.InstanceLocation), strings.Compare(keyword(a), keyword(b)))
	})
}

// keyword is the path within the schema of the keyword that refused a value: "#/properties/a/type".
func keyword(e *jsonschema.ValidationError) string {
	_, fragment, _ := strings.Cut(e.SchemaURL, "#")
	switch e.ErrorKind.(type) {
	case *kind.Not:
		fragment += "/not"
	case *kind.PropertyNames: // the library has it in the URL
	default:
		if path := e.ErrorKind.KeywordPath(); len(path) > 0 {
			fragment += "/" + path[0]
		}
	}
	return "#" + fragment
}

func pointer(tokens []string) string {
	var p jsontext.Pointer
	for _, token := range tokens {
		p = p.AppendToken(token)
	}
	return string(p)
}
