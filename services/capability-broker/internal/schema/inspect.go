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

// subschemas says where in the value of a keyword there are schemas.
type subschemas int

const (
	nothing    subschemas = iota
	one                   // a schema
	list                  // a list of schemas
	byName                // schemas by name
	byProperty            // schemas by the name of a property
	byPattern             // schemas by pattern
)

// keywords are those of draft 2020-12 that assert something or are comments. Every other one is refused, so that no misspelt keyword lets
// everything through.
var keywords = map[string]subschemas{
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

// formats are those that are checked. "regex" isn't among them: it would have patterns compiled that a pack sends as values.
var formats = []string{"date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "iri", "iri-reference", "json-pointer",
	"relative-json-pointer", "time", "uri", "uri-reference", "uri-template", "uuid"}

// walk goes through the schemas in a schema.
type walk struct {
	names   map[string]bool
	nodes   map[string]*node // by JSON pointer
	weights map[string]int   // by JSON pointer; 0 for a schema whose weight is being computed
}

// node is one schema: its weight without its subschemas, and where these and the targets of its references are.
type node struct {
	alone    int
	children []string // JSON pointers
}

// inspect refuses what this package has no use for, and returns the weight of a schema: how many schemas one value may have to be checked
// against, counting what a reference leads to each time. It adds the names of properties to names.
func inspect(doc any, names map[string]bool) (int, error) {
	w := walk{names, make(map[string]*node), make(map[string]int)}
	if err := w.visit("", doc); err != nil {
		return 0, err
	}
	return w.weight("")
}

func at(where, format string, args ...any) error {
	return fmt.Errorf("at '%s': %w", where, fmt.Errorf(format, args...))
}

// visit records a schema and those in it.
func (w *walk) visit(where string, schema any) error {
	n := &node{alone: 1}
	w.nodes[where] = n
	object, ok := schema.(map[string]any)
	if !ok {
		return nil // true and false; the metaschema refuses other values
	}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		what, known := keywords[name]
		if !known {
			return at(where, "the keyword '%s' is not known here", name)
		}
		pointer := where + "/" + escape(name)
		if err := w.keyword(n, name, pointer, object[name]); err != nil {
			return err
		}
		if err := w.visitChildren(n, what, pointer, object[name]); err != nil {
			return err
		}
	}
	return nil
}

// visitChildren records the schemas in the value of a keyword of n.
func (w *walk) visitChildren(n *node, what subschemas, pointer string, value any) error {
	inside := children(what, value)
	for _, key := range slices.Sorted(maps.Keys(inside)) {
		path := pointer
		if key != "" || what == byName || what == byProperty || what == byPattern {
			path += "/" + escape(key)
		}
		switch what {
		case byPattern:
			if _, err := newPattern(key, new(int)); err != nil {
				return at(path, "%w", err)
			}
		case byProperty:
			w.names[key] = true
		}
		if what != byName { // a definition costs nothing until a reference leads to it
			n.children = append(n.children, path)
		}
		if err := w.visit(path, inside[key]); err != nil {
			return err
		}
	}
	return nil
}

// keyword checks the keywords whose value matters here. Values of a wrong type are left to the metaschema, which refuses them.
func (w *walk) keyword(n *node, name, pointer string, value any) error {
	text, isText := value.(string)
	switch name {
	case "$schema":
		if !isText || strings.TrimSuffix(text, "#") != draft {
			return at(pointer, "only %s is known", draft)
		}
	case "$ref":
		target, err := reference(text)
		if err != nil {
			return at(pointer, "%w", err)
		}
		n.children = append(n.children, target)
	case "pattern":
		if !isText {
			return nil
		}
		if _, err := newPattern(text, new(int)); err != nil {
			return at(pointer, "%w", err)
		}
	case "format":
		if isText && !slices.Contains(formats, text) {
			return at(pointer, "the format '%s' is not known here", text)
		}
	case "required":
		n.alone += w.required(value)
	case "enum", "const", "dependentRequired":
		n.alone += size(value)
	}
	return nil
}

// reference is the JSON pointer that the value of a $ref leads to. Nothing outside the schema may be named: a schema must not make the
// broker fetch anything.
func reference(text string) (string, error) {
	fragment, ok := strings.CutPrefix(text, "#")
	target, err := url.PathUnescape(fragment)
	if !ok || err != nil || target != "" && target[0] != '/' {
		return "", errors.New("a reference must be a JSON pointer inside the schema, such as #/$defs/name")
	}
	return target, nil
}

// required adds the names in a list to those that the schema has, and returns its length.
func (w *walk) required(value any) int {
	list, _ := value.([]any)
	for _, item := range list {
		if name, ok := item.(string); ok {
			w.names[name] = true
		}
	}
	return len(list)
}

// children are the schemas in the value of a keyword, by name or index, "" for the value itself.
func children(what subschemas, value any) map[string]any {
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

// weight adds up what a schema leads to. Ten definitions that each refer twice to the next make a thousand schemas out of a few hundred
// bytes; recursion makes any number, so it is refused. Without it a check takes at most weight steps for each value.
func (w *walk) weight(where string) (int, error) {
	if n, known := w.weights[where]; known {
		if n == 0 {
			return 0, at(where, "a reference leads back to where it came from; recursive schemas are not known here")
		}
		return n, nil
	}
	n := w.nodes[where]
	if n == nil {
		return 0, at(where, "a reference leads here, but this is no schema")
	}
	w.weights[where] = 0
	total := n.alone
	for _, child := range n.children {
		more, err := w.weight(child)
		if err != nil {
			return 0, err
		}
		total += more
	}
	if total > maxWeight {
		return 0, errors.New("it is too complex")
	}
	w.weights[where] = total
	return total, nil
}

func escape(token string) string { return string(jsontext.Pointer("").AppendToken(token))[1:] }

// pattern is a regular expression that counts what its matching costs.
type pattern struct {
	*regexp.Regexp
	program int
	matched *int // bytes times instructions so far, of all patterns of one check
}

// newPattern compiles a pattern that adds to matched what each of its matches costs.
func newPattern(s string, matched *int) (*pattern, error) {
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
	return &pattern{compiled, len(program.Inst), matched}, nil
}

// MatchString implements jsonschema.Regexp. RE2 takes linear time, but linear in the pattern times the text, and a pack may send megabytes
// for a schema with hundreds of patterns. So each check has a budget, maxMatching. Once it is spent nothing matches any more; what the
// validator concludes from that doesn't matter, since Check reports the overrun whatever the result.
func (p *pattern) MatchString(s string) bool {
	if *p.matched += (len(s) + 1) * p.program; *p.matched > maxMatching {
		return false
	}
	return p.Regexp.MatchString(s)
}
