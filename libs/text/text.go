// Package text deals with text that strangers wrote and people read. Classify, Hidden and Escape find hidden characters: characters
// that a reader doesn't see, or sees elsewhere than they are. A pack could hide in them what a reviewer should see, as in the
// "Trojan Source" attack. Clip bounds a text before it is repeated.
//
// Characters are classified by their Unicode properties and by the characters around them, not by lists of bad ones. Ordinary text of any
// language passes: every visible character, every space (U+00A0, U+202F and U+3000 as well), emoji with what belongs to them (a
// variation selector 15 or 16 behind an emoji, a joiner between two, skin tones, keycaps, the three flags made of tags) and the
// joiners that the writing of Persian, Hindi, Khmer or Mongolian can't do without. Properties are those of Unicode Standard Annex
// 44, emoji those of Unicode Technical Standard 51.
package text

import (
	"fmt"
	"iter"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Kind is the property by which a character is hidden, in words for a message: "bidirectional control".
type Kind string

// The kinds. None is the kind of a visible character.
const (
	None       Kind = ""
	Invalid    Kind = "invalid UTF-8"           // one byte that belongs to no character
	Control    Kind = "control character"       // category Cc, line breaks and tabs as well
	Separator  Kind = "line separator"          // U+2028 and U+2029: a line break to some programs, nothing to most
	Bidi       Kind = "bidirectional control"   // property Bidi_Control: shows text in another order than it has
	Selector   Kind = "variation selector"      // property Variation_Selector, where none belongs: invisible
	Ignorable  Kind = "invisible character"     // property Default_Ignorable_Code_Point, or category Cf, where none belongs
	Blank      Kind = "blank-looking character" // a letter or a symbol that is drawn as nothing
	Private    Kind = "private use character"   // category Co: looks like whatever a font says
	Unassigned Kind = "unassigned character"    // category Cn: shown as nothing, or as a box
)

// Char is one hidden character of a text.
type Char struct {
	Offset int  // in bytes
	Rune   rune // utf8.RuneError for Invalid
	Byte   byte // the first of its bytes
	Kind   Kind
}

// String is for messages: "U+200B (invisible character)".
func (c Char) String() string {
	if c.Kind == Invalid {
		return fmt.Sprintf("byte 0x%02X (%s)", c.Byte, c.Kind)
	}
	return fmt.Sprintf("U+%04X (%s)", c.Rune, c.Kind)
}

// Classify decodes the character of s at the byte offset i, which must be less than len(s). kind is None if it is visible. The
// characters before and behind it in s count, so s should be a whole line or more. size is the length of the character in
// bytes.
//
// A byte order mark (U+FEFF) is Ignorable wherever it is. A caller that allows one at the beginning of a file cuts it off first.
func Classify(s string, i int) (r rune, size int, kind Kind) {
	if c := s[i]; c < utf8.RuneSelf {
		if c < ' ' || c == 0x7f {
			return rune(c), 1, Control
		}
		return rune(c), 1, None
	}
	r, size = utf8.DecodeRuneInString(s[i:])
	if r == utf8.RuneError && size == 1 {
		return r, size, Invalid
	}
	return r, size, classify(r, s[:i], s[i+size:])
}

// Hidden iterates over the hidden characters of s, in order. Line breaks and tabs are among them (Control).
func Hidden(s string) iter.Seq[Char] {
	return func(yield func(Char) bool) {
		for i := 0; i < len(s); {
			if c := s[i]; c >= ' ' && c < 0x7f {
				i++
				continue
			}
			r, size, kind := Classify(s, i)
			if kind != None && !yield(Char{Offset: i, Rune: r, Byte: s[i], Kind: kind}) {
				return
			}
			i += size
		}
	}
}

// FirstHidden returns the first hidden character of s that is not in allowed; ok is false if there is none. Invalid bytes can't be
// allowed.
func FirstHidden(s, allowed string) (c Char, ok bool) {
	for c := range Hidden(s) {
		if c.Kind == Invalid || !strings.ContainsRune(allowed, c.Rune) {
			return c, true
		}
	}
	return Char{}, false
}

// IsLine says whether s is one line without hidden characters. An empty string is.
func IsLine(s string) bool {
	_, hidden := FirstHidden(s, "")
	return !hidden
}

// Escape replaces the hidden characters of s by Go's escapes ("\u200b", "\n", "\x00") and leaves everything else as it is. The result
// is a line without hidden characters. It isn't reversible: a backslash in s stays one.
func Escape(s string) string {
	if IsLine(s) {
		return s
	}
	var b strings.Builder
	done := 0
	for c := range Hidden(s) {
		b.WriteString(s[done:c.Offset])
		if c.Kind == Invalid {
			fmt.Fprintf(&b, `\x%02x`, c.Byte)
			done = c.Offset + 1
			continue
		}
		quoted := strconv.QuoteRuneToASCII(c.Rune)
		b.WriteString(quoted[1 : len(quoted)-1])
		done = c.Offset + utf8.RuneLen(c.Rune)
	}
	b.WriteString(s[done:])
	return b.String()
}

// classify is Classify for one valid character that is not ASCII.
func classify(r rune, before, after string) Kind {
	switch {
	case unicode.Is(unicode.Cc, r):
		return Control
	case r == '\u2028' || r == '\u2029':
		return Separator
	case unicode.Is(unicode.Bidi_Control, r):
		return Bidi
	case unicode.Is(unicode.Variation_Selector, r):
		return kindUnless(selectorBelongs(r, before, after), Selector)
	case ignorable(r):
		return kindUnless(joinerBelongs(r, before, after) || tagBelongs(r, before, after), Ignorable)
	case unicode.Is(unicode.Co, r):
		return Private
	case r == brailleBlank, unicode.Is(blank, r):
		return kindUnless(r == brailleBlank && brailleAround(before, after), Blank)
	case !unicode.In(r, unicode.L, unicode.M, unicode.N, unicode.P, unicode.S, unicode.Zs, unicode.Cf):
		return kindUnless(unicode.Is(pictographic, r) || unicode.Is(laterIdeographs, r), Unassigned)
	}
	return None
}

// kindUnless is kind, or None if the character belongs where it is.
func kindUnless(belongs bool, kind Kind) Kind {
	if belongs {
		return None
	}
	return kind
}

// ignorable says whether a character has the property Default_Ignorable_Code_Point, which is derived from others, or is of
// category Cf and draws nothing by itself.
func ignorable(r rune) bool {
	switch {
	case unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r):
		return true
	case unicode.Is(unicode.Prepended_Concatenation_Mark, r), r >= 0x13430 && r <= 0x1345f: // visible: they enclose what follows
		return false
	}
	return unicode.Is(unicode.Cf, r)
}
