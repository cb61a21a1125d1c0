package schema_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/schema"
)

func TestCompile(t *testing.T) {
	doubling := `{"$ref": "#/$defs/a0", "$defs": {`
	for i := range 30 {
		doubling += fmt.Sprintf(`"a%d": {"allOf": [{"$ref": "#/$defs/a%d"}, {"$ref": "#/$defs/a%d"}]}, `, i, i+1, i+1)
	}
	doubling += `"a30": {}}}`
	for name, c := range map[string]struct{ schema, want string }{ // want is part of the error, "" for none
		"empty":               {`{}`, ""},
		"draft":               {`{"$schema": "https://json-schema.org/draft/2020-12/schema"}`, ""},
		"all kinds":           {`{"type":"object","properties":{"a":{"type":"string","pattern":"^a+$","format":"ipv4"},"b":{"prefixItems":[true,{"const":1}],"items":false}},"required":["a"],"additionalProperties":false,"patternProperties":{"^x":{}},"dependentSchemas":{"a":{}},"$comment":"c"}`, ""},
		"reference":           {`{"$ref":"#/$defs/a%20~1","$defs":{"a /":{"type":"string"}}}`, ""},
		"reference to a part": {`{"properties":{"a":{},"b":{"$ref":"#/properties/a"}}}`, ""},

		"no object":              {`true`, "must be an object"},
		"a list":                 {`[]`, "must be an object"},
		"too large":              {`{"title":"` + strings.Repeat("x", schema.MaxBytes) + `"}`, "too large"},
		"too deep":               {strings.Repeat(`{"not":`, 70) + `{}` + strings.Repeat(`}`, 70), "too deeply"},
		"wrong type":             {`{"properties":{"a":{"type":"strin"}}}`, "at '/properties/a/type'"},
		"wrong value":            {`{"properties":{"a":{"minLength":-1}}}`, "at '/properties/a/minLength'"},
		"list of wrong things":   {`{"allOf":[1]}`, "at '/allOf/0'"},
		"misspelt":               {`{"properties":{"a":{"maxlength":1}}}`, "at '/properties/a': the keyword 'maxlength'"},
		"misspelt and closed":    {`{"additionalPropertes":false}`, "'additionalPropertes' is not known"},
		"content":                {`{"contentMediaType":"application/json"}`, "is not known"},
		"id":                     {`{"$id":"http://127.0.0.1/x"}`, "'$id' is not known"},
		"anchor":                 {`{"$anchor":"a"}`, "is not known"},
		"dynamic":                {`{"$dynamicRef":"#a"}`, "is not known"},
		"vocabulary":             {`{"$vocabulary":{}}`, "is not known"},
		"older draft":            {`{"$schema":"http://json-schema.org/draft-07/schema#"}`, "only https"},
		"other draft":            {`{"$schema":"http://127.0.0.1:1/schema"}`, "only https"},
		"draft of a part":        {`{"properties":{"a":{"$schema":"http://json-schema.org/draft-04/schema#"}}}`, "/properties/a/$schema"},
		"reference to a host":    {`{"$ref":"http://127.0.0.1:1/x"}`, "inside the schema"},
		"reference to a file":    {`{"$ref":"file:///etc/passwd"}`, "inside the schema"},
		"relative reference":     {`{"$ref":"x.json"}`, "inside the schema"},
		"reference to itself":    {`{"$ref":"#"}`, "recursive"},
		"recursive":              {`{"properties":{"a":{"$ref":"#"}}}`, "recursive"},
		"in a circle":            {`{"$ref":"#/$defs/a","$defs":{"a":{"not":{"$ref":"#/$defs/b"}},"b":{"not":{"$ref":"#/$defs/a"}}}}`, "recursive"},
		"reference to nothing":   {`{"$ref":"#/$defs/a"}`, "this is no schema"},
		"reference to no schema": {`{"$ref":"#/properties","properties":{}}`, "this is no schema"},
		"reference by number":    {`{"$ref":1}`, "inside the schema"},
		"doubling":               {doubling, "too complex"},
		"look-ahead":             {`{"pattern":"(?=a)"}`, "RE2"},
		"broken pattern":         {`{"properties":{"a":{"pattern":"("}}}`, "at '/properties/a/pattern'"},
		"broken name pattern":    {`{"patternProperties":{"(":{}}}`, "at '/patternProperties/('"},
		"long pattern":           {`{"pattern":"` + strings.Repeat("a", 1001) + `"}`, "too long"},
		"heavy pattern":          {`{"pattern":"((a{100}){100}){100}"}`, "RE2"},
		"complex pattern":        {`{"pattern":"([a-z]{0,30}){30}[a-z]{900}"}`, "too complex"},
		"unknown format":         {`{"format":"ip"}`, "the format 'ip'"},
		"format of patterns":     {`{"format":"regex"}`, "the format 'regex'"},
		"huge number":            {`{"maximum":1e999999}`, "number"},
		"long number":            {`{"const":` + strings.Repeat("1", 200) + `}`, "number"},
		"long list":              {`{"enum":[` + strings.Repeat("1,", 2000) + `1]}`, "too complex"},
	} {
		_, err := schema.Compile(jsontext.Value(c.schema))
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestCheck(t *testing.T) {
	const file = `{"type":"object","properties":{"path":{"type":"string","pattern":"^/data/"},"size":{"type":"integer","maximum":10},
		"tags":{"type":"array","items":{"enum":["a","b"]},"uniqueItems":true}},"required":["path"],"additionalProperties":false}`
	for _, c := range []struct{ schema, value, want string }{
		{file, `{"path":"/data/x"}`, ""},
		{file, `{"path":"/data/x","size":10,"tags":["a","b"]}`, ""},
		{file, `{"path":"/data/x","size":1.0e1}`, ""},
		{file, `{}`, "at '' it does not satisfy #/required"},
		{file, `{"path":"/etc/SECRET"}`, "at '/path' it does not satisfy #/properties/path/pattern"},
		{file, `{"path":7}`, "at '/path' it does not satisfy #/properties/path/type"},
		{file, `{"path":"/data/x","size":11}`, "at '/size' it does not satisfy #/properties/size/maximum"},
		{file, `{"path":"/data/x","SECRET":1}`, "at '' it does not satisfy #/additionalProperties"},
		{file, `{"path":"/data/x","tags":["a","SECRET"]}`, "at '/tags/1' it does not satisfy #/properties/tags/items/enum"},
		{file, `{"path":"/data/x","tags":["a","a"]}`, "at '/tags' it does not satisfy #/properties/tags/uniqueItems"},
		{file, `[]`, "at '' it does not satisfy #/type"},
		{file, `{"path":"/data/x","path":"/etc/SECRET"}`, "it is not JSON"},
		{`{"additionalProperties":{"items":{"type":"null"}}}`, `{"SECRET":[null,1]}`, "at '/*/1' it does not satisfy #/additionalProperties/items/type"},
		{`{"additionalProperties":{"type":"null"}}`, `{"1234":0}`, "at '/*' it does not satisfy #/additionalProperties/type"},
		{`{"propertyNames":{"maxLength":3}}`, `{"SECRET":0}`, "at '' it does not satisfy #/propertyNames"},
		{`{"anyOf":[{"required":["a"]},{"required":["b"]}]}`, `{"c":0}`, "at '' it does not satisfy #/anyOf"},
		{`{"oneOf":[{},true]}`, `{}`, "at '' it does not satisfy #/oneOf"},
		{`{"not":{}}`, `{}`, "at '' it does not satisfy #/not"},
		{`{"$ref":"#/$defs/a","$defs":{"a":{"required":["b"]}}}`, `{}`, "at '' it does not satisfy #/$defs/a/required"},
		{`{"allOf":[{"required":["a"]},{"required":["b"]}]}`, `{}`, "at '' it does not satisfy #/allOf/0/required"},
		{`{"if":{"required":["a"]},"then":{"required":["b"]}}`, `{"a":1}`, "at '' it does not satisfy #/then/required"},
		{`{"properties":{"a":{"format":"ipv4"}}}`, `{"a":"10.0.0.256"}`, "at '/a' it does not satisfy #/properties/a/format"},
		{`{"properties":{"a":{"const":9007199254740993}}}`, `{"a":9007199254740992}`, "at '/a' it does not satisfy #/properties/a/const"},
		{`{"properties":{"a":{"pattern":"^a$"}}}`, `{"a":"a\n"}`, "at '/a' it does not satisfy #/properties/a/pattern"},
		{`{"properties":{"a":false}}`, `{"a":1}`, "at '/a' it does not satisfy #/properties/a"},
		{`{"unevaluatedProperties":false,"properties":{"a":{}}}`, `{"b":1}`, "at '/*' it does not satisfy #/unevaluatedProperties"},
	} {
		s, err := schema.Compile(jsontext.Value(c.schema))
		if err != nil {
			t.Errorf("%s: %v", c.schema, err)
			continue
		}
		for range 3 {
			if got := s.Check(jsontext.Value(c.value)); got != c.want {
				t.Errorf("%s against %s: %q, want %q", c.value, c.schema, got, c.want)
			}
		}
	}
}

// What is made to cost much is refused before it does.
func TestHostileValues(t *testing.T) {
	many := func(n int, item string) string { return `{"a":[` + strings.Repeat(item+",", n) + item + `]}` }
	heavy := `{"properties":{"a":{"items":{"allOf":[` + strings.Repeat(`{"type":"string"},`, 300) + `true]}}}}`
	for name, c := range map[string]struct{ schema, value, want string }{
		"too many":       {`{}`, many(200_000, "0"), "too many"},
		"too deep":       {`{}`, `{"a":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`, "too deeply"},
		"deeper still":   {`{}`, `{"a":` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + `}`, "too deeply"},
		"many checks":    {heavy, many(50_000, "0"), "too much in it to check"},
		"huge exponent":  {`{"properties":{"a":{"multipleOf":0.1}}}`, `{"a":1e999999}`, "a number"},
		"tiny exponent":  {`{"properties":{"a":{"maximum":1}}}`, `{"a":1e-999999}`, "a number"},
		"minus infinity": {`{"properties":{"a":{"type":"integer","maximum":10}}}`, `{"a":-1e400}`, "a number"},
		"infinity":       {`{"properties":{"a":{"type":"number"}}}`, `{"a":1.8e308}`, "a number"},
		"nothing":        {`{"properties":{"a":{"exclusiveMinimum":0}}}`, `{"a":1e-390}`, "a number"},
		"no exponent":    {`{"properties":{"a":{"maximum":1}}}`, `{"a":1e99999999999999999999}`, "a number"},
		"many digits":    {`{"properties":{"a":{"maximum":1}}}`, `{"a":0.` + strings.Repeat("1", 1<<20) + `}`, "a number"},
		"heavy matches":  {`{"properties":{"a":{"items":{"pattern":"(a?){200}a{200}"}}}}`, many(20_000, `"`+strings.Repeat("a", 100)+`"`), "too much in it to match"},
		"inverted":       {`{"properties":{"a":{"items":{"not":{"pattern":"(b?){200}b{200}"}}}}}`, many(20_000, `"`+strings.Repeat("a", 100)+`"`), "too much in it to match"},
		"long string":    {`{"properties":{"a":{"pattern":"^[a-z]+$"}}}`, `{"a":"` + strings.Repeat("a", 3<<20) + `"}`, ""},
		"same hashes":    {`{"properties":{"a":{"uniqueItems":true}}}`, many(40_000, "[]"), "uniqueItems"},
		"many names":     {`{"patternProperties":{"(a|b)*c$":{}},"additionalProperties":false}`, `{"` + strings.Repeat("ab", 1<<20) + `":1}`, "additionalProperties"},
	} {
		s, err := schema.Compile(jsontext.Value(c.schema))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := s.Check(jsontext.Value(c.value)); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// Neither schemas nor values, whatever is in them, bring the broker down, and no value is repeated.
func FuzzCheck(f *testing.F) {
	for _, c := range [][2]string{
		{`{}`, `{}`},
		{`{"type":"object","properties":{"a":{"type":["string","integer"],"pattern":"^a","minimum":0}},"required":["a"]}`, `{"a":"b"}`},
		{`{"allOf":[{"$ref":"#/$defs/a"}],"$defs":{"a":{"enum":[1,null,"x",{"y":[]}]}}}`, `{"y":[1e3]}`},
		{`{"anyOf":[{"not":{"const":1.0}},{"if":true,"then":false,"else":{}}]}`, `1`},
		{`{"prefixItems":[true],"items":{"multipleOf":0.1},"contains":{"type":"null"},"minContains":0,"maxContains":1,"uniqueItems":true}`, `[null,0.3,[]]`},
		{`{"patternProperties":{"^(a|b)+$":{"format":"date-time"}},"unevaluatedProperties":false,"propertyNames":{"maxLength":4}}`, `{"ab":"2027-01-01T00:00:00Z"}`},
		{`{"dependentRequired":{"a":["b"]},"dependentSchemas":{"a":{"minProperties":2}},"unevaluatedItems":false}`, `{"a":1}`},
		{`{"format":"duration"}`, `"P1Y"`}, {`{"format":"email"}`, `"a@[::1]"`}, {`{"format":"uri-template"}`, `"{a}{"`},
		{`{"format":"hostname"}`, `"-"`}, {`{"format":"relative-json-pointer"}`, `"0#"`}, {`{"format":"time"}`, `"23:59:60Z"`},
	} {
		f.Add([]byte(c[0]), []byte(c[1]))
	}
	f.Fuzz(func(t *testing.T, raw, value []byte) {
		if !jsontext.Value(value).IsValid() || !jsontext.Value(raw).IsValid() {
			return
		}
		s, err := schema.Compile(raw)
		if err != nil {
			return
		}
		got := s.Check(value)
		if again := s.Check(value); again != got {
			t.Errorf("the first check says %q and the second %q, want the same", got, again)
		}
		const marker = "a string that no schema and no text of ours has, SECRET"
		if got := s.Check(jsontext.Value(`{"a":{"` + marker + `":["` + marker + `"]},"` + marker + `":"` + marker + `"}`)); strings.Contains(got, marker) && !strings.Contains(string(raw), marker) {
			t.Errorf("the fault of the schema %s repeats the value: %q, want it without", raw, got)
		}
	})
}
