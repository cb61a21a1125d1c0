package openapi

import (
	"fmt"
	"reflect"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/libs/route"
)

// example is what somebody wrote for a route, or else one that is made of the schema.
func (b *builder) example(r *route.Route, schema *Schema, ofRequest bool) (any, error) {
	given := b.examples[r.Name()]
	value := given.Response
	if ofRequest {
		value = given.Request
	}
	if value == nil || reflect.ValueOf(value).IsZero() {
		return b.synthesize(schema, "", ofRequest, 0), nil
	}
	text, err := json.Marshal(value, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("encode its example: %w", err)
	}
	return jsontext.Value(text), nil
}

// maxDepth bounds an example of a type that is within itself.
const maxDepth = 6

// synthesize makes an example of a schema. name is that of the field, by which Values knows what such a field looks like.
func (b *builder) synthesize(schema *Schema, name string, ofRequest bool, depth int) any {
	if v, ok := b.Values(name); ok && fits(schema, v) && schema.Default == nil {
		return v
	}
	schema = b.schemas.resolve(schema)
	switch {
	case schema == nil || depth > maxDepth:
		return nil
	case schema.Const != nil:
		return schema.Const
	case schema.Default != nil:
		return schema.Default
	case len(schema.Enum) > 0:
		return schema.Enum[0]
	case len(schema.AnyOf) > 0:
		return b.synthesize(schema.AnyOf[0], name, ofRequest, depth)
	}
	return b.synthesizeKind(schema, name, ofRequest, depth)
}

// synthesizeKind makes an example of a schema that says no value.
func (b *builder) synthesizeKind(schema *Schema, name string, ofRequest bool, depth int) any {
	switch kindOf(schema) {
	case "object":
		return b.synthesizeObject(schema, ofRequest, depth)
	case "array":
		return []any{b.synthesize(schema.Items, name, ofRequest, depth+1)}
	case "string":
		return textOf(schema)
	case "integer", "number":
		if schema.Minimum != nil {
			return *schema.Minimum
		}
		return 0
	case "boolean":
		return false
	}
	return nil
}

// textOf is an example of a text that Values doesn't know.
func textOf(schema *Schema) any {
	if _, several := schema.Type.([]string); several {
		return nil
	}
	if schema.Format == "date-time" {
		return "2027-01-31T12:00:00Z"
	}
	return ""
}

func (b *builder) synthesizeObject(schema *Schema, ofRequest bool, depth int) any {
	object := Map[any]{}
	for name, property := range schema.Properties.All() {
		if ofRequest && len(schema.Required) > 0 && depth == 0 && !slices.Contains(schema.Required, name) {
			continue // the least that works
		}
		object.Set(name, b.synthesize(property, name, ofRequest, depth+1))
	}
	if values, ok := schema.AdditionalProperties.(*Schema); ok && len(object) == 0 {
		object.Set("my_pack", b.synthesize(values, "", ofRequest, depth+1))
	}
	return object
}

// kindOf is the schema's type; of several the first.
func kindOf(schema *Schema) string {
	switch kind := schema.Type.(type) {
	case string:
		return kind
	case []string:
		return kind[0]
	}
	return ""
}

// fits says whether a value is of the schema's type.
func fits(schema *Schema, value any) bool {
	kind := kindOf(schema)
	switch value.(type) {
	case string:
		return kind == "string" && len(schema.Enum) == 0 && schema.Format == ""
	case int:
		return kind == "integer" || kind == "number"
	case bool:
		return kind == "boolean"
	case []any:
		return kind == "array"
	}
	return kind == "" && schema.Ref == ""
}
