package text

import (
	"strings"
	"unicode/utf8"
)

// Clip bounds a text that a stranger chose, such as a path, a header or a name in a pack, before it is repeated in an answer, a
// log line or an audit entry. A text of at most maxBytes bytes is returned as it is. Of a longer one it returns the beginning,
// at most maxBytes bytes, followed by "…" (three bytes more). The cut is never inside a character, and bytes of that
// beginning that are not UTF-8 are left out. It doesn't escape anything: see Escape.
//
// A precision in a format, such as %.300s, counts characters, not bytes, so it bounds a stranger's text at four times as
// much, and doesn't show that something is missing. It is for texts of our own, such as a container's id.
func Clip(s string, maxBytes int) string {
	if len(s) <= maxBytes {
		return s
	}
	return strings.ToValidUTF8(Prefix(s, maxBytes), "") + "…"
}

// Prefix is the longest beginning of s of at most maxBytes bytes that ends between two characters. Invalid bytes count as
// a character each, and stay.
func Prefix(s string, maxBytes int) string {
	if len(s) <= maxBytes {
		return s
	}
	// The first byte of the character that the cut would divide is at most three bytes before it.
	for end := maxBytes; end >= 0 && maxBytes-end < utf8.UTFMax; end-- {
		if utf8.RuneStart(s[end]) {
			if _, size := utf8.DecodeRuneInString(s[end:]); end+size > maxBytes {
				return s[:end]
			}
			break // a stray byte: nothing is divided
		}
	}
	return s[:maxBytes]
}
