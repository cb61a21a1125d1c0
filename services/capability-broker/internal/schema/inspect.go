package schema

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

const draft = "https://json-schema.org/draft/2020-12/schema"

// holds is what the value of a keyword has for schemas in it.
type holds int

const (
	nothing    holds = iota
	one              // a schema
	list             // a list of schemas
	byName           // schemas by name
	byProperty       // schemas by the name of a property
	byPattern        // schemas by pattern
)

// keywords are those of draft 2020-12 that assert something or do no harm.
var keywords = map[string]holds{
	"$schema": nothing, "$comment": nothing, "$ref": nothing, "$defs": byName,
	"title": nothing, "description": nothing, "default": nothing, "deprecated": nothing, "readOnly": nothing, "writeOnly": nothing,
	"examples": nothing,

	"type": nothing, "enum": nothing, "const": nothing, "format": nothing,
	"allOf": list, "anyOf": list, "oneOf": list, "not": one, "if": one, "then": one, "else": one,

	"properties": byProperty, "patternProperties": byPattern, "additionalProperties": one, "propertyNames": one,
	"unevaluatedProperties": one, "required": nothing, "minProperties": nothing, "maxProperties": nothing,
	"dependentRequired": nothing, "dependentSchemas": byProperty,

	"prefixItems": list, "items": one, "contains": one, "minContains": nothing, "maxContains": nothing, "minItems": nothing,
	"maxItems": nothing, "uniqueItems": nothing, "unevaluatedItems": one,

	"minLength": nothing, "maxLength": nothing, "pattern": nothing,
	"minimum": nothing, "maximum": nothing, "exclusiveMinimum": nothing, "exclusiveMaximum": nothing, "multipleOf": nothing,
}

// formats are those that are checked. "regex" would have a pack's patterns compiled.
var formats = []string{"date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "iri", "iri-reference", "json-pointer",
	"relative-json-pointer", "time", "uri", "uri-reference", "uri-template", "uuid"}

// walk goes through the schemas in a schema.
type walk struct {
	names  map[string]bool
	nodes  map[string]*node // by JSON pointer
	weight map[string]int   // those that are known; 0 for one that is being weighed
}

// node is one schema: what it weighs alone, and where those are that it leads to.
type node struct {
	alone    int
	children []string
}

// inspect refuses what this package has no use for, and says what a schema weighs with all that references in it lead to.
// It adds the names of properties to names.
func inspect(doc any, names map[string]bool) (int, error) {
	w := walk{names, make(map[string]*node), make(map[string]int)}
	if err := w.visit("", doc); err != nil {
		return 0, err
	}
	return w.weigh("")
}

func at(where, format string, args ...any) error {
	return fmt.Errorf("at '%s': %w", where, fmt.Errorf(format, args...))
}

// visit notes a schema and those in it.
func (w *walk) visit(where string, schema any) error {
	n := &node{alone: 1}
	w.nodes[where] = n
	object, ok := schema.(map[string]any)
	if !ok {
		return nil // true and false; other values are left to the metaschema
	}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		value, place := object[name], where+"/"+escape(name)
		what, known := keywords[name]
		if !known {
			return at(where, "the keyword '%s' is not known here", name)
		}
		if err := w.keyword(n, name, place, value); err != nil {
			return err
		}
		inside := children(what, value)
		for _, key := range slices.Sorted(maps.Keys(inside)) {
			path := place
			if key != "" || what == byName || what == byProperty || what == byPattern {
				path += "/" + escape(key)
			}
			if what == byPattern {
				if _, err := newPattern(key, new(int)); err != nil {
					return at(path, "%w", err)
				}
			}
			if what == byProperty {
				w.names[key] = true
			}
			if what != byName {
				n.children = append(n.children, path)
			}
			if err := w.visit(path, inside[key]); err != nil {
				return err
			}
		}
	}
	return nil
}

// keyword looks at the keywords whose value matters here.
func (w *walk) keyword(n *node, name, place string, value any) error {
	switch name {
	case "$schema":
		if s, ok := value.(string); !ok || strings.TrimSuffix(s, "#") != draft {
			return at(place, "only %s is known", draft)
		}
	case "$ref":
		s, _ := value.(string)
		fragment, ok := strings.CutPrefix(s, "#")
		target, err := url.PathUnescape(fragment)
		if !ok || err != nil || target != "" && target[0] != '/' {
			return at(place, "a reference must be a JSON pointer inside the schema, such as #/$defs/name")
		}
		n.children = append(n.children, target)
	case "pattern":
		if s, ok := value.(string); ok {
			if _, err := newPattern(s, new(int)); err != nil {
				return at(place, "%w", err)
			}
		}
	case "format":
		if s, ok := value.(string); ok && !slices.Contains(formats, s) {
			return at(place, "the format '%s' is not known here", s)
		}
	case "required":
		list, _ := value.([]any)
		for _, item := range list {
			if s, ok := item.(string); ok {
				w.names[s] = true
			}
		}
		n.alone += len(list)
	case "enum", "const", "dependentRequired":
		n.alone += size(value)
	}
	return nil
}

// children are the schemas in the value of a keyword, by name or index, "" for the value itself.
func children(what holds, value any) map[string]any {
	switch what {
	case one:
		return map[string]any{"": value}
	case list:
		items, _ := value.([]any)
		found := make(map[string]any, len(items))
		for i, item := range items {
			found[strconv.Itoa(i)] = item
		}
		return found
	case byName, byProperty, byPattern:
		found, _ := value.(map[string]any)
		return found
	}
	return nil
}

// size counts the values in a value.
func size(value any) int {
	n := 1
	switch v := value.(type) {
	case []any:
		for _, item := range v {
			n += size(item)
		}
	case map[string]any:
		for _, item := range v {
			n += size(item)
		}
	}
	return n
}

// weigh adds up what a schema leads to. Without recursion in it a check takes no more steps than its weight for each
// value.
func (w *walk) weigh(where string) (int, error) {
	if n, known := w.weight[where]; known {
		if n == 0 {
			return 0, at(where, "a reference leads back to where it came from; recursive schemas are not known here")
		}
		return n, nil
	}
	n := w.nodes[where]
	if n == nil {
		return 0, at(where, "a reference leads here, but this is no schema")
	}
	w.weight[where] = 0
	total := n.alone
	for _, child := range n.children {
		more, err := w.weigh(child)
		if err != nil {
			return 0, err
		}
		total += more
	}
	if total > maxWeight {
		return 0, errors.New("it is too complex")
	}
	w.weight[where] = total
	return total, nil
}

func escape(token string) string { return string(jsontext.Pointer("").AppendToken(token))[1:] }

// pattern is a regular expression that counts what its matching costs.
type pattern struct {
	*regexp.Regexp
	program int
	spent   *int
}

func newPattern(s string, spent *int) (*pattern, error) {
	if len(s) > maxPattern {
		return nil, fmt.Errorf("a pattern is too long (max: %d bytes)", maxPattern)
	}
	parsed, err := syntax.Parse(s, syntax.Perl)
	if err != nil {
		return nil, fmt.Errorf("a pattern is not valid in RE2 syntax: %w", err)
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return nil, fmt.Errorf("a pattern can't be compiled: %w", err)
	}
	if len(program.Inst) > maxProgram {
		return nil, errors.New("a pattern is too complex")
	}
	compiled, err := regexp.Compile(s)
	if err != nil {
		return nil, fmt.Errorf("a pattern is not valid in RE2 syntax: %w", err)
	}
	return &pattern{compiled, len(program.Inst), spent}, nil
}

// MatchString implements jsonschema.Regexp. Beyond what one check may spend nothing matches, and the check fails whatever
// follows from that.
func (p *pattern) MatchString(s string) bool {
	if *p.spent += (len(s) + 1) * p.program; *p.spent > maxMatching {
		return false
	}
	return p.Regexp.MatchString(s)
}
