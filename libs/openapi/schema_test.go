package openapi

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// inner is embedded.
type inner struct {
	Level int `json:"level"`
}

// thing has each form that a field can have.
type thing struct {
	inner
	Path  string            `json:"-" path:"id"`
	Name  string            `json:"name" api:"required,pattern=^[a,b]+$"` // what it is called
	May   *string           `json:"may"`
	Left  *string           `json:"left,omitzero"`
	Other *thing            `json:"other"`
	Tags  []string          `json:"tags"`
	Sizes map[string]uint16 `json:"sizes"`
	At    time.Time         `json:"at"`
	Any   jsontext.Value    `json:"any"`
	Raw   []byte            `json:"raw"`
	Tail  int               `json:"tail" api:"min=1,max=9,default=5"`
	Mode  string            `json:"mode" api:"enum=a|b"`
}

func made(t *testing.T, d direction) map[string]string {
	t.Helper()
	s := &schemas{source: NewSource("github.com/rumi-ai/rumi/", "../.."), made: map[string]*Schema{}, types: map[string]reflect.Type{}}
	if _, err := s.of(reflect.TypeFor[thing](), d); err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{}
	for name, schema := range s.made {
		text, err := json.Marshal(schema, json.Deterministic(true))
		if err != nil {
			t.Fatal(err)
		}
		texts[name] = string(text)
	}
	return texts
}

// An answer has every field that isn't omitted; what is null, listed or raw is said.
func TestSchemaOfAnAnswer(t *testing.T) {
	got := made(t, answer)["openapi.thing"]
	for _, want := range []string{
		`"required":["level","name","may","other","tags","sizes","at","any","raw","tail","mode"]`,
		`"level":{"type":"integer"}`, `"name":{"type":"string","pattern":"^[a,b]+$"}`,
		`"may":{"type":["string","null"]}`, `"left":{"type":"string"}`, `"other":{"anyOf":[{"$ref":"#/components/schemas/openapi.thing"},{"type":"null"}]}`,
		`"tags":{"type":"array","items":{"type":"string"}}`, `"sizes":{"type":"object","additionalProperties":{"type":"integer","minimum":0,"maximum":65535}}`,
		`"at":{"type":"string","format":"date-time"}`, `"any":{}`, `"raw":{"type":"string","contentEncoding":"base64"}`,
		`"tail":{"type":"integer","default":5,"minimum":1,"maximum":9}`, `"mode":{"type":"string","enum":["a","b"]}`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the schema is %s, want %s in it", got, want)
		}
	}
	if strings.Contains(got, `"id"`) || strings.Contains(got, `"additionalProperties":false`) {
		t.Errorf("the schema is %s, want no field of the path, and room for more", got)
	}
}

// A request must have what its tags say, and nothing that it doesn't know; its component has a name of its own.
func TestSchemaOfARequest(t *testing.T) {
	got := made(t, request)["openapi.thing.Input"]
	for _, want := range []string{`"required":["name"]`, `"additionalProperties":false`, `"other":{"anyOf":[{"$ref":"#/components/schemas/openapi.thing.Input"},{"type":"null"}]}`} {
		if !strings.Contains(got, want) {
			t.Errorf("the schema is %s, want %s in it", got, want)
		}
	}
}

// opaque writes its own JSON.
type opaque struct{}

func (opaque) MarshalJSON() ([]byte, error) { return []byte(`"x"`), nil }

// What can't be described is refused, not guessed.
func TestSchemasThatAreRefused(t *testing.T) {
	for name, of := range map[string]reflect.Type{
		"a type with JSON of its own": reflect.TypeFor[opaque](),
		"a function":                  reflect.TypeFor[func()](),
		"an unknown tag": reflect.TypeFor[struct {
			A string `json:"a" api:"requried"`
		}](),
		"a bound that is no number": reflect.TypeFor[struct {
			A int `json:"a" api:"min=x"`
		}](),
	} {
		s := &schemas{source: NewSource("github.com/rumi-ai/rumi/", "../.."), made: map[string]*Schema{}, types: map[string]reflect.Type{}}
		if schema, err := s.of(of, answer); err == nil {
			t.Errorf("%s has the schema %+v, want an error", name, schema)
		}
	}
}

// The source gives comments of types and fields, and the constants of a type.
func TestSource(t *testing.T) {
	s := NewSource("github.com/rumi-ai/rumi/", "../..")
	of := reflect.TypeFor[Operation]()
	if doc, err := s.typeDoc(of); err != nil || doc != "Operation is one route." {
		t.Errorf("the comment is %q, %v", doc, err)
	}
	if doc, err := s.fieldDoc(of, "Verb"); err != nil || doc != "that the caller needs" {
		t.Errorf("the field's comment is %q, %v", doc, err)
	}
	if doc, err := s.typeDoc(reflect.TypeFor[time.Time]()); err != nil || doc != "" {
		t.Errorf("the comment of a type of another module is %q, %v; want none", doc, err)
	}
}

func TestReadCodes(t *testing.T) {
	const head = "# x\n\n## Error codes\n\n| `error_code` | status | `error` begins with | cause | what to do |\n|---|---|---|---|---|\n"
	table, err := ReadCodes(head + "| `b_c` | 403, 409 | `B …`, `C` | why | do |\n| `a` | 400 | | why `x` | do |\n\n## Next\n| `z` | 400 | | a | b |\n")
	if err != nil || len(table) != 2 || table[0].Name != "a" || len(table[1].Value.Texts) != 2 || table[1].Value.Statuses[1] != 409 || table[0].Value.Cause != "why `x`" {
		t.Errorf("got %+v, %v; want both rows, sorted", table, err)
	}
	for name, page := range map[string]string{
		"no section": "# x", "a row of another form": head + "| `a` | 400 | why |\n", "a row twice": head + "| `a` | 400 | | b | c |\n| `a` | 400 | | b | c |\n",
	} {
		if _, err := ReadCodes(page); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}
