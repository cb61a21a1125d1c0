package build

import (
	"errors"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/libs/sandbox"
)

func TestParseResult(t *testing.T) {
	out := func(texts ...string) (lines []sandbox.Line) {
		for _, text := range texts {
			lines = append(lines, sandbox.Line{Stream: "stdout", Text: text})
		}
		return lines
	}
	stderr := func(text string) sandbox.Line { return sandbox.Line{Stream: "stderr", Text: text} }
	for _, c := range []struct {
		name   string
		code   int
		lines  []sandbox.Line
		reason string
	}{
		{"ok", 0, out("", `{"ok": true}`), ""},
		{"the last word counts", 1, out(`{"ok": true}`, `{"ok": false, "kind": "unlisted", "message": "a needs b"}`), "the lock does not list a dependency: a needs b"},
		{"ok with a bad end", 137, out(`{"ok": true}`), "the builder ended with status 137"},
		{"nothing said", 0, nil, "the builder ended with status 0"},
		{"no JSON", 0, out(`{"ok": tru`), "the builder ended with status 0"},
		{"another type", 0, out(`{"ok": 1}`), "the builder ended with status 0"},
		{"said on the wrong stream", 0, []sandbox.Line{stderr(`{"ok": true}`)}, "the builder ended with status 0"},
		{"pip's words", 1, append([]sandbox.Line{stderr("ERROR: a\x1b[31m\x00b"), stderr("Collecting x"), stderr("ERROR: c")}, out(`{"ok":false,"kind":"failed","message":""}`)...), "a [31m b; c"},
		{"many words", 1, []sandbox.Line{stderr("ERROR: " + strings.Repeat("あ", 1000) + "end")}, "end"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := parseResult(sandbox.Exit{Code: c.code}, c.lines)
			failure, failed := errors.AsType[*Failure](err)
			if c.reason == "" && err != nil || c.reason != "" && (!failed || !strings.HasSuffix(failure.Reason, c.reason) || len(failure.Reason) > maxReason+10) {
				t.Errorf("got the error %v, want %q", err, c.reason)
			}
		})
	}
}
