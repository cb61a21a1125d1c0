package hostname

import (
	"strings"
	"testing"
)

func patterns(t testing.TB, texts ...string) (all []Pattern) {
	t.Helper()
	for _, text := range texts {
		p, err := ParsePattern(text)
		if err != nil {
			t.Fatalf("ParsePattern(%q) = %v", text, err)
		}
		all = append(all, p)
	}
	return all
}

func TestSet(t *testing.T) {
	for _, c := range []struct {
		set, pattern     string
		covers, overlaps bool
	}{
		{"", "a.com", false, false},
		{"", "*", false, false},
		{"*", "*", true, true},
		{"*", "*.com", true, true},
		{"*", "::1", true, true},
		{"a.com", "*", false, true},
		{"a.com", "a.com", true, true},
		{"a.com", "A.COM.", true, true},
		{"a.com", "b.com", false, false},
		{"a.com", "x.a.com", false, false},
		{"a.com", "*.a.com", false, false}, // which doesn't cover a.com
		{"a.com", "*.com", false, true},
		{"*.a.com", "a.com", false, false},
		{"*.a.com", "x.a.com", true, true},
		{"*.a.com", "x.y.a.com", true, true},
		{"*.a.com", "xa.com", false, false},
		{"*.a.com", "*.a.com", true, true},
		{"*.a.com", "*.x.a.com", true, true},
		{"*.x.a.com", "*.a.com", false, true},
		{"*.a.com", "*.com", false, true},
		{"*.a.com", "*.b.com", false, false},
		{"*.a.com", "*.aa.com", false, false},
		{"evil.a.com", "*.a.com", false, true},
		{"x.evil.a.com", "*.a.com", false, true},
		{"x.evil.a.com", "*.evil.a.com", false, true},
		{"x.evil.a.com", "evil.a.com", false, false},
		{"a.com,*.a.com", "*.a.com", true, true},
		{"x.a.com,y.a.com", "*.a.com", false, true},
		{"bücher.example", "xn--bcher-kva.example", true, true},
		{"*.bücher.example", "X.BÜCHER.example", true, true},
		{"1.2.3.4", "1.2.3.4", true, true},
		{"1.2.3.4", "5.2.3.4", false, false},
		{"::1", "[::1]", true, true},
		{"::1", "0:0:0:0:0:0:0:1", true, true},
	} {
		var set *Set
		if c.set == "" {
			set = NewSet()
		} else {
			set = NewSet(patterns(t, strings.Split(c.set, ",")...)...)
		}
		p := patterns(t, c.pattern)[0]
		if got := set.Covers(p); got != c.covers {
			t.Errorf("{%s} covers %s: got %t, want %t", c.set, c.pattern, got, c.covers)
		}
		if got := set.Overlaps(p); got != c.overlaps {
			t.Errorf("{%s} overlaps %s: got %t, want %t", c.set, c.pattern, got, c.overlaps)
		}
	}
}

// What Covers and Overlaps say of patterns holds for each host: checked against Match, on all patterns and hosts of a small alphabet.
func TestSetAgreesWithMatch(t *testing.T) {
	var names []string
	labels := []string{"a", "b"}
	for _, x := range labels {
		names = append(names, x)
		for _, y := range labels {
			names = append(names, y+"."+x)
			for _, z := range labels {
				names = append(names, z+"."+y+"."+x)
			}
		}
	}
	texts := append([]string{"*", "1.2.3.4", "::1"}, names...)
	hosts := []string{"1.2.3.4", "[::1]"}
	for _, name := range names {
		texts = append(texts, "*."+name)
		hosts = append(hosts, name, "c."+name) // a host below each name that no pattern names
	}
	all := patterns(t, texts...)
	for i, one := range all {
		for j, two := range all {
			set := NewSet(one, two)
			for k, p := range all {
				within, common := true, false
				for _, text := range hosts {
					h, err := Parse(text)
					if err != nil {
						t.Fatal(err)
					}
					in := one.Match(h) || two.Match(h)
					within = within && (in || !p.Match(h))
					common = common || in && p.Match(h)
				}
				if set.Covers(p) && !within {
					t.Errorf("{%s %s} covers %s, but not every host of it", texts[i], texts[j], texts[k])
				}
				if got := set.Overlaps(p); got != common {
					t.Errorf("{%s %s} overlaps %s: got %t, want %t", texts[i], texts[j], texts[k], got, common)
				}
			}
		}
	}
}
