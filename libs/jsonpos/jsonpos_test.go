package jsonpos_test

import (
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/libs/jsonpos"
)

func TestDescribe(t *testing.T) {
	for text, want := range map[string]string{
		`{"a":1,}`:                `line 1, column 7: a comma before }`,
		"{\n  \"a\": [1, 2,\n ]}": `line 2, column 13: a comma before ]`,
		`{"a":[1,]}`:              `line 1, column 8: a comma before ]`,
		`{"a":1 "b":2}`:           `line 1, column 8: a comma is missing before it`,
		`{a:1}`:                   `line 1, column 2: a name must be in double quotes`,
		`{'a':1}`:                 `line 1, column 2: a name must be in double quotes`,
		`{"x":1,a:1}`:             `line 1, column 8: a name must be in double quotes`,
		`{1:2}`:                   `line 1, column 2: a name must be in double quotes`,
		`{"a":'x'}`:               `line 1, column 6: a text must be in double quotes: "`,
		`{"a":“x”}`:               `line 1, column 6: a text must be in double quotes: "`,
		`{"a":["b",c]}`:           `line 1, column 11: want true, false, null or a number; a text must be in double quotes`,
		`{"a":True}`:              `line 1, column 6: want true, false, null or a number; a text must be in double quotes`,
		`{"a":tru}`:               `line 1, column 9: want true, false or null`,
		`{"a":`:                   `line 1, column 6: it ends too early`,
		"{\"a\":\r\n\"xäö":        `line 2, column 5: it ends too early`,
		`{"a":01}`:                `line 1, column 7: a number must not begin with 0`,
		`{"a":1.}`:                `line 1, column 8: a digit is missing in a number`,
		`{"a":1}}`:                `line 1, column 8: something follows its end`,
		`{"a":1} {}`:              `line 1, column 9: something follows its end`,
		`{"a":1,"a":2}`:           `line 1, column 8: a name stands twice in one object`,
		"{\"a\":\"\xff\"}":        `line 1, column 7: not UTF-8`,
		"{\"a\":\"x\ny\"}":        `line 1, column 8: a line break or control character in a text; write \n for a line break`,
		`{"a":"C:\x"}`:            `line 1, column 9: an escape that JSON doesn't have; a backslash is written \\`,
		`{"a":"\ud800"}`:          `line 1, column 7: an escape that JSON doesn't have; a backslash is written \\`,
		`{"a" 1}`:                 `line 1, column 6: a colon is missing after a name`,
		`{"a":[1,2}`:              `line 1, column 10: another bracket is open`,
		`{"a":}`:                  `line 1, column 6: a value is missing`,
		"\xef\xbb\xbf{}":          `line 1, column 1: a byte order mark; save it as UTF-8 without one`,
		"{\"a\":1 // c\n}":        `line 1, column 8: JSON has no comments`,
		"# c\n{}":                 `line 1, column 1: JSON has no comments`,
		`{,}`:                     `line 1, column 2: a comma before }`,
		`{"a":[,1]}`:              `line 1, column 7: a comma too many`,
		`{"a":[1]}`:               `line 1, column 6: a value of another type is needed`,
	} {
		var into struct {
			A any `json:"a"`
			X int `json:"x"`
		}
		var err error
		if text == `{"a":[1]}` {
			var typed struct {
				A string `json:"a"`
			}
			err = json.Unmarshal([]byte(text), &typed)
		} else {
			err = json.Unmarshal([]byte(text), &into)
		}
		if err == nil {
			t.Errorf("%q was taken, want an error", text)
			continue
		}
		if got := jsonpos.Describe([]byte(text), err); got != want {
			t.Errorf("%q: got %q, want %q (%v)", text, got, want, err)
		}
	}
}

func TestAtCountsAsEditorsDo(t *testing.T) {
	text := []byte("a\r\nbä\nc\rd")
	for offset, want := range map[int64][2]int{0: {1, 1}, 1: {1, 2}, 3: {2, 1}, 4: {2, 2}, 6: {2, 3}, 7: {3, 1}, 9: {4, 1}, 99: {4, 2}, -1: {1, 1}} {
		if line, column := jsonpos.At(text, offset); line != want[0] || column != want[1] {
			t.Errorf("offset %d is line %d, column %d, want %v", offset, line, column, want)
		}
	}
}

// Whatever is in a text, nothing of it is in what is said of it: bodies hold secrets.
func FuzzDescribe(f *testing.F) {
	for _, seed := range []string{`{"a":1,}`, `{"key":SECRET}`, "{\"a\":\"\xff", `[1 2`, `{"a":"\u12"}`, "\ufeff", ``, `}`, `{"a":{"b":[`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		const marker = "ZQXJ"
		text = append([]byte(marker), text...)
		var into any
		err := json.Unmarshal(text, &into)
		if err == nil {
			return
		}
		if got := jsonpos.Describe(text, err); strings.Contains(got, marker) || !strings.HasPrefix(got, "line ") {
			t.Errorf("%q: got %q, want the line and nothing of the text", text, got)
		}
	})
}
