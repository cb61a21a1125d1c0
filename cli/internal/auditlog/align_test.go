package auditlog

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func hashesOf(lines string) (all []hash) {
	for _, line := range strings.Fields(lines) {
		all = append(all, leafHash([]byte(line)))
	}
	return all
}

// Each manipulation is named as what it is, and nothing else is.
func TestAlign(t *testing.T) {
	const sealed = "a b c d e f g h"
	for lines, want := range map[string]string{
		"a b c d e f g h":     "",
		"a b X d e f g h":     "changed 2→2",
		"X b c d e f g h":     "changed 0→0",
		"a b c d e f g X":     "changed 7→7",
		"a b X Y e f g h":     "changed 2→2, changed 3→3",
		"a b d e f g h":       "missing 2→2",
		"b c d e f g h":       "missing 0→0",
		"a b c d e f g":       "missing 7→7",
		"a b f g h":           "missing 2→2, missing 3→2, missing 4→2",
		"a c b d e f g h":     "moved 2→1",
		"a b g d e f c h":     "moved 6→2, moved 2→6",
		"a b b c d e f g h":   "inserted 2→2 copy of 1",
		"a b X c d e f g h":   "inserted 2→2",
		"X a b c d e f g h":   "inserted 0→0",
		"a b c d e f g h X":   "inserted 8→8",
		"a b c d e f g h h":   "inserted 8→8 copy of 7",
		"":                    "missing 0→0, missing 1→0, missing 2→0, missing 3→0, missing 4→0, missing 5→0, missing 6→0, missing 7→0",
		"a X c d e f h":       "changed 1→1, missing 6→6",
		"X a c d e f g h":     "inserted 0→0, missing 1→2",
		"b c d e f g h a":     "moved 0→7",
		"a b X d e Y f g h b": "changed 2→2, inserted 5→5, inserted 8→9 copy of 1",
	} {
		differences, _ := align(hashesOf(sealed), hashesOf(lines))
		var got []string
		for _, d := range differences {
			text := fmt.Sprintf("%s %d→%d", d.kind, d.sealed, d.line)
			if d.kind == Inserted && d.copyOf >= 0 {
				text += fmt.Sprintf(" copy of %d", d.copyOf)
			}
			got = append(got, text)
		}
		if text := strings.Join(got, ", "); text != want {
			t.Errorf("%s: got %q, want %q", lines, text, want)
		}
	}
}

// Equal lines in one file are told apart by their order.
func TestAlignEqualLines(t *testing.T) {
	differences, anchors := align(hashesOf("a a a b a"), hashesOf("a a b a"))
	if want := []anchor{{0, 0}, {1, 1}, {3, 2}, {4, 3}}; len(differences) != 1 || differences[0].kind != Missing || !slices.Equal(anchors, want) {
		t.Errorf("got %+v and %+v, want one missing line and the anchors %+v", differences, anchors, want)
	}
}

func FuzzAlign(f *testing.F) {
	f.Add("abcdef", "abxdef")
	f.Add("aabb", "bbaa")
	f.Fuzz(func(t *testing.T, sealed, lines string) {
		hashes := func(text string) (all []hash) {
			for _, c := range []byte(text) {
				all = append(all, leafHash([]byte{c}))
			}
			return all
		}
		differences, _ := align(hashes(sealed), hashes(lines))
		if (len(differences) == 0) != (sealed == lines) {
			t.Fatalf("%q and %q: %d differences", sealed, lines, len(differences))
		}
		gone, come := 0, 0
		for _, d := range differences {
			switch d.kind {
			case Missing:
				gone++
			case Inserted:
				come++
			}
		}
		if len(sealed)-gone+come != len(lines) {
			t.Errorf("%q and %q: %d missing and %d inserted don't explain the lengths", sealed, lines, gone, come)
		}
		if !slices.IsSortedFunc(differences, func(a, b difference) int { return a.line - b.line }) {
			t.Errorf("%+v are not in the order of the lines", differences)
		}
	})
}
