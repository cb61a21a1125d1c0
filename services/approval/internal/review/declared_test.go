package review_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/services/approval/internal/review"
)

// What the descriptor says and the pack has that won't do what was meant is told, after all that may be an attack, and counted.
func TestDescriptorWarnings(t *testing.T) {
	m := &memory{}
	now := scan(t, m, map[string]string{
		"backend/ecosystem.json":   `{"pack_id": "p", "pack_identity": "i", "entry_point": "x", "entrypoint": "backend/Main.py"}`,
		"backend/main.py":          "print(1)",
		"backend/requirements.txt": "requests",
		".hidden":                  "",
	})
	r, err := review.Of(review.Input{Now: now, Open: m.open})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, one := range r.Warnings {
		if one.Kind == "descriptor" && one.Path == "backend/ecosystem.json" {
			got = append(got, one.Detail)
		}
	}
	want := []string{
		"backend/ecosystem.json: 'entry_point' is not known (entrypoint?)",
		"entrypoint backend/Main.py is not in the pack (backend/main.py?)",
		"backend/requirements.txt is not read; write exact versions to backend/requirements.lock",
	}
	if !slices.Equal(got, want) || r.WarningCounts["descriptor"] != len(want) {
		t.Errorf("got %d: %s\nwant %s", r.WarningCounts["descriptor"], strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if last := r.Warnings[len(r.Warnings)-1]; last.Kind != "descriptor" {
		t.Errorf("the last warning is %+v, want one of the descriptor", last)
	}
	for _, kind := range []string{"hidden", "descriptor"} {
		if !slices.Contains(review.Kinds(), kind) {
			t.Errorf("%s is no kind to ask for; want it among the kinds", kind)
		}
	}
}
