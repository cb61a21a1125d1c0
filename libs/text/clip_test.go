package text_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/rumi-ai/rumi/libs/text"
)

func TestClip(t *testing.T) {
	for name, c := range map[string]struct {
		s                   string
		maxBytes            int
		wantClip, wantStart string
	}{
		"empty":                        {"", 0, "", ""},
		"short":                        {"abc", 4, "abc", "abc"},
		"just fits":                    {"abcd", 4, "abcd", "abcd"},
		"too long":                     {"abcde", 4, "abcd…", "abcd"},
		"nothing fits":                 {"abc", 0, "…", ""},
		"cut before a character":       {"abé", 2, "ab…", "ab"},
		"cut inside two bytes":         {"abé", 3, "ab…", "ab"},
		"cut behind two bytes":         {"abéd", 4, "abé…", "abé"},
		"cut inside three bytes":       {"天気", 4, "天…", "天"},
		"cut inside four bytes":        {"a🌤b", 4, "a…", "a"},
		"first character doesn't fit":  {"🌤", 3, "…", ""},
		"invalid byte kept if short":   {"a\xff", 2, "a\xff", "a\xff"},
		"invalid byte in the part":     {"a\xffbcd", 3, "ab…", "a\xffb"},
		"stray continuation bytes":     {strings.Repeat("\x80", 9), 6, "…", strings.Repeat("\x80", 6)},
		"character with a missing end": {"ab\xe5\xa4cdef", 4, "ab…", "ab\xe5\xa4"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := text.Clip(c.s, c.maxBytes); got != c.wantClip {
				t.Errorf("Clip(%+q, %d) = %+q, want %+q", c.s, c.maxBytes, got, c.wantClip)
			}
			if got := text.Prefix(c.s, c.maxBytes); got != c.wantStart {
				t.Errorf("Prefix(%+q, %d) = %+q, want %+q", c.s, c.maxBytes, got, c.wantStart)
			}
		})
	}
}

func FuzzClip(f *testing.F) {
	f.Add("天気\xff🌤", 5)
	f.Fuzz(func(t *testing.T, s string, n int) {
		n = max(n%64, 0)
		prefix, clipped := text.Prefix(s, n), text.Clip(s, n)
		if !strings.HasPrefix(s, prefix) || len(prefix) > n && prefix != s {
			t.Errorf("Prefix(%+q, %d) = %+q, want a beginning of at most %d bytes", s, n, prefix, n)
		}
		if utf8.ValidString(s) && !utf8.ValidString(prefix) {
			t.Errorf("Prefix(%+q, %d) = %+q, cut inside a character", s, n, prefix)
		}
		if len(s) > n && (!utf8.ValidString(clipped) || len(clipped) > n+len("…")) {
			t.Errorf("Clip(%+q, %d) = %+q, want UTF-8 of at most %d bytes", s, n, clipped, n+len("…"))
		}
	})
}
