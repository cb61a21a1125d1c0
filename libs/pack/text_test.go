package pack_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
)

// TestTextOfDescriptors has ordinary text of people who don't write English, and text that hides something.
func TestTextOfDescriptors(t *testing.T) {
	parse := func(field, value string) error {
		data, err := json.Marshal(map[string]string{"pack_id": "p", field: value})
		if err != nil {
			t.Fatal(err)
		}
		_, err = pack.ParseDescriptor(data)
		return err
	}
	for _, value := range []string{
		"天気\u3000予報を取得する", "Prévisions\u00a0: météo", "👨\u200d👩\u200d👧 家族", "⚠\ufe0f 注意", "می\u200cخواهم", "1\u202f000",
	} {
		for _, field := range []string{"description", "version", "pack_identity", "entrypoint"} {
			if err := parse(field, value); err != nil {
				t.Errorf("%s %q is refused: %v", field, value, err)
			}
		}
	}
	for _, c := range []struct{ field, value, want string }{
		{"pack_identity", "github:a/b\U000e0100", `"pack_identity" contains characters that can't be printed: U+E0100 (variation selector) is character 11 of it`},
		{"version", "1\u200b.0", `"version" contains characters that can't be printed: U+200B (invisible character) is character 2 of it`},
		{"version", "1\n", `"version" contains characters that can't be printed: U+000A (control character) is character 2 of it`},
		{"description", "天気\ue000", `"description" contains characters that can't be printed: U+E000 (private use character) is character 3 of it`},
		{"description", "a\n\u202eb", `"description" contains characters that can't be printed: U+202E (bidirectional control) is character 3 of it`},
		{"description", "a\x00", `"description" contains characters that can't be printed: U+0000 (control character) is character 2 of it`},
		{"entrypoint", "ma\u3164in.py", `"entrypoint" contains characters that can't be printed: U+3164 (invisible character) is character 3 of it`},
	} {
		if err := parse(c.field, c.value); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %+q: %v, want %s", c.field, c.value, err, c.want)
		}
	}
}

// What operators are told of a descriptor without an id names the member that is missing, also where only the fault's own text
// is shown.
func TestMissingIDIsNamed(t *testing.T) {
	_, err := pack.ParseDescriptor([]byte(`{"Pack_id": "p"}`))
	want := `Invalid pack_id: "" (ecosystem.json needs a "pack_id" of 1 to 64 of a-z, A-Z, 0-9, _ and -; spelt so, in small letters)`
	if err == nil || fault.Of(err).Message != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
