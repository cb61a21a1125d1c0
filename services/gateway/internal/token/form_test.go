package token

import (
	"regexp"
	"strings"
	"testing"
)

// scanners is the regular expression of docs/tokens.md.
var scanners = regexp.MustCompile(`\brumi_[a-z0-9]{12}_[0-9A-Za-z]{36}\b`)

func TestForm(t *testing.T) {
	seen := map[string]bool{}
	for range 200 {
		id := newID()
		text, of := newText(id)
		if !isID(id) || seen[id] || seen[text] {
			t.Fatalf("the id is %q, the token has been made before: %v; want a new one", id, seen[text])
		}
		seen[id], seen[text] = true, true
		if gotID, got, ok := parse(text); !ok || gotID != id || got != of {
			t.Errorf("parse: got %q, %v; want the id %q and the hash of its secret", gotID, ok, id)
		}
		if found := scanners.FindString("token=" + text + "\n"); found != text {
			t.Errorf("a scanner finds %q, want all of the token", found)
		}
		if again, ok := parseHash(of.String()); !ok || again != of {
			t.Errorf("the hash reads back as %v, %v; want the same", again, ok)
		}
	}
}

// A text that is changed anywhere is no token: the checksum says so without a look into the database.
func TestChangedTokens(t *testing.T) {
	text, _ := newText("abcdefghijkl")
	for i := range len(text) {
		changed := []byte(text)
		changed[i] = 'x'
		if text[i] == 'x' {
			changed[i] = 'y'
		}
		if _, _, ok := parse(string(changed)); ok {
			t.Errorf("%q passes for a token, want it refused", changed)
		}
	}
	for _, other := range []string{"", "rumi_", text[1:], text[:len(text)-1], text + "0", " " + text, strings.ToUpper(text), strings.Repeat("é", 27)} {
		if _, _, ok := parse(other); ok {
			t.Errorf("%q passes for a token, want it refused", other)
		}
	}
}

// The form is documented, so that the authors of scanners can check it: it must not change.
func TestChecksumIsTheDocumentedOne(t *testing.T) {
	const example = "rumi_0123456789ab_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	body := example[:len("rumi_0123456789ab_")+secretLen]
	if got, want := checksum(body), "0eEfeW"; got != want {
		t.Errorf("the checksum of %s: got %s, want %s", body, got, want)
	}
}

func FuzzParse(f *testing.F) {
	text, _ := newText("abcdefghijkl")
	f.Add(text)
	f.Add("rumi_abcdefghijkl_")
	f.Fuzz(func(t *testing.T, text string) {
		if id, _, ok := parse(text); ok && (!isID(id) || !scanners.MatchString(text)) {
			t.Errorf("%q passes for a token, want the documented form only", text)
		}
	})
}
