// Package jsonpos says where a JSON text is wrong and why, for the person who wrote the text: line, column and kind of mistake. It
// quotes nothing of the text, which may hold secrets or control characters, and none of the library's messages.
package jsonpos

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// At returns the line and the column of the byte at offset, as an editor counts them: from 1, a column a character, lines end with LF,
// CR LF or CR. An offset beyond the text is its end.
func At(text []byte, offset int64) (line, column int) {
	before := text[:min(max(offset, 0), int64(len(text)))]
	line, start := 1, 0
	for i, c := range before {
		if c == '\n' || c == '\r' && (i+1 == len(text) || text[i+1] != '\n') {
			line, start = line+1, i+1
		}
	}
	return line, utf8.RuneCount(before[start:]) + 1
}

// Describe says where and why text is wrong, given the error that package json or jsontext returned for it, such as "line 3, column
// 27: a comma before }". If err has no position, it is the kind alone.
func Describe(text []byte, err error) string {
	if syntactic, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		offset, kind := syntax(text, syntactic)
		return located(text, offset, kind)
	}
	if semantic, ok := errors.AsType[*json.SemanticError](err); ok {
		return located(text, semantic.ByteOffset, "a value of another type is needed")
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return located(text, int64(len(text)), "it ends too early")
	}
	return "it can't be read"
}

// located puts the position before the kind.
func located(text []byte, offset int64, kind string) string {
	line, column := At(text, offset)
	return fmt.Sprintf("line %d, column %d: %s", line, column, kind)
}

// syntax returns the offset and the kind of a mistake. The library's message is used only to tell in which part of the grammar the
// mistake is; a new version with other messages would make the kind less precise, not wrong.
func syntax(text []byte, err *jsontext.SyntacticError) (offset int64, kind string) {
	offset = min(err.ByteOffset, int64(len(text)))
	rest := text[offset:]
	message := err.Err.Error()
	switch {
	case errors.Is(err.Err, io.ErrUnexpectedEOF):
		return int64(len(text)), "it ends too early"
	case errors.Is(err.Err, jsontext.ErrDuplicateName):
		return offset, "a name stands twice in one object"
	case errors.Is(err.Err, jsontext.ErrNonStringName):
		return offset, "a name must be in double quotes"
	case bytes.HasPrefix(rest, []byte("\ufeff")):
		return offset, "a byte order mark; save it as UTF-8 without one"
	case strings.Contains(message, "UTF-8"):
		return offset, "not UTF-8"
	case strings.Contains(message, "escape"), strings.Contains(message, "surrogate"):
		return offset, `an escape that JSON doesn't have; a backslash is written \\`
	case strings.Contains(message, "in string"):
		return offset, `a line break or control character in a text; write \n for a line break`
	case bytes.HasPrefix(rest, []byte("/")), bytes.HasPrefix(rest, []byte("#")):
		return offset, "JSON has no comments"
	case strings.Contains(message, "literal"):
		return offset, "want true, false or null"
	case strings.Contains(message, "in number"):
		return offset, "a digit is missing in a number"
	case strings.Contains(message, "top-level"):
		return offset, "something follows its end"
	case strings.Contains(message, "after object name"):
		return offset, "a colon is missing after a name"
	case strings.Contains(message, "after"):
		return wrongSeparator(text, offset)
	}
	return wrongValue(text, offset)
}

// wrongSeparator describes a character where a comma, or the end of a list or an object, should be.
func wrongSeparator(text []byte, offset int64) (int64, string) {
	before := bytes.TrimRight(text[:offset], " \t\r\n")
	c := runeAt(text, offset)
	switch {
	case (c == '}' || c == ']') && bytes.HasSuffix(before, []byte(",")):
		return int64(len(before) - 1), fmt.Sprintf("a comma before %c", c)
	case c == '}', c == ']':
		return offset, "another bracket is open"
	case unicode.IsDigit(c) && bytes.HasSuffix(text[:offset], []byte("0")):
		return offset, "a number must not begin with 0"
	}
	return offset, "a comma is missing before it"
}

// wrongValue describes a character where a value or a name should be.
func wrongValue(text []byte, offset int64) (int64, string) {
	c := runeAt(text, offset)
	next := runeAt(bytes.TrimLeft(text[min(offset+1, int64(len(text))):], " \t\r\n"), 0)
	switch {
	case c == ',' && (next == '}' || next == ']'):
		return offset, fmt.Sprintf("a comma before %c", next)
	case c == ',':
		return offset, "a comma too many"
	case c == '}', c == ']':
		return offset, "a value is missing"
	case strings.ContainsRune("'`´‘’‚“”„«»", c) && !expectsName(text[:offset]):
		return offset, `a text must be in double quotes: "`
	case expectsName(text[:offset]):
		return offset, "a name must be in double quotes"
	case unicode.IsLetter(c):
		return offset, "want true, false, null or a number; a text must be in double quotes"
	}
	return offset, "a value is missing"
}

// runeAt is the character at offset; utf8.RuneError at the end.
func runeAt(text []byte, offset int64) rune {
	c, _ := utf8.DecodeRune(text[min(offset, int64(len(text))):])
	return c
}

// expectsName says whether the name of a member must follow before, which is valid JSON so far.
func expectsName(before []byte) bool {
	var open []byte
	quoted := false
	for i := 0; i < len(before); i++ {
		switch c := before[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{', c == '[':
			open = append(open, c)
		case (c == '}' || c == ']') && len(open) > 0:
			open = open[:len(open)-1]
		}
	}
	before = bytes.TrimRight(before, " \t\r\n")
	return len(open) > 0 && open[len(open)-1] == '{' && (bytes.HasSuffix(before, []byte("{")) || bytes.HasSuffix(before, []byte(",")))
}
