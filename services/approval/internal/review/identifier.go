package review

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// Bounds of the identifiers that are examined.
const (
	maxWord     = 256  // bytes; a longer one is looked at in parts
	maxSuspects = 1000 // of one file
	leastAlike  = 3    // bytes of an ASCII identifier that another may be taken for: words of one letter exist in many languages
)

// suspects are identifiers that aren't ASCII and need a second reading of the file: whether they are suspicious depends on
// where they stand, and on whether the ASCII identifier that they look like is in the file as well.
type suspects struct {
	words map[string]bool
}

func (s *suspects) add(word string) {
	if s.words == nil {
		s.words = map[string]bool{}
	}
	if len(s.words) < maxSuspects {
		s.words[strings.Clone(word)] = true
	}
}

// addWord continues the identifier with a letter of the class c.
func (s *search) addWord(one []byte, c class) {
	if len(s.word)+len(one) > maxWord {
		s.endWord()
	}
	if !s.nonASCII {
		s.asciiLike, s.any, s.scripts = true, 0, 0
	}
	s.word = append(s.word, one...)
	s.nonASCII = true
	s.asciiLike = s.asciiLike && c&(alike|compatible) != 0
	s.any |= c
	s.scripts |= 1 << min(c.script(), 63)
}

// words takes a run of visible ASCII characters. Only at its beginning and its end can it be part of an identifier with other
// letters.
func (s *search) words(run []byte) {
	if s.nonASCII {
		n := 0
		for n < len(run) && n < maxWord && isWord(run[n]) {
			n++
		}
		s.word = append(s.word, run[:n]...)
		if n == len(run) {
			return
		}
		s.endWord()
	}
	n := len(run)
	for n > 0 && len(run)-n < maxWord && isWord(run[n-1]) {
		n--
	}
	if n > 0 {
		s.word = s.word[:0]
	}
	s.word = append(s.word, run[n:]...)
	if len(s.word) > maxWord {
		s.word = slices.Delete(s.word, 0, len(s.word)-maxWord)
	}
}

func isWord(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// endWord ends an identifier, and decides whether it is suspicious.
func (s *search) endWord() {
	if !s.nonASCII {
		s.word = s.word[:0]
		return
	}
	word := s.word
	s.word, s.nonASCII = s.word[:0], false
	switch f := s.of("look_alike"); {
	case f != nil && f.count >= maxPerKind: // there is nothing to be learnt from one more
	case s.any&alike != 0 && disguised(string(word)):
		s.found("look_alike", quoteWord(string(word))+" mixes letters of several scripts that look alike")
	case s.suspects.words[string(word)]:
	case s.asciiLike && (s.python || s.any&compatible == 0), s.python && s.scripts&^(1<<noScript|1<<latinScript|1<<cjkScript) != 0 && mixed(string(word)):
		s.suspects.add(string(word))
	}
}

// disguised says whether letters of other scripts stand among the Latin ones of a word as if they were Latin, too.
func disguised(word string) bool {
	for part := range parts(word) {
		latin, foreign, greek := 0, 0, false
		passes := true
		for _, r := range part {
			switch script := scriptOf(r); script {
			case latinScript:
				latin++
			case noScript:
			default:
				foreign++
				greek = greek || script == greekScript
				_, alike := lookAlikes()[r]
				passes = passes && alike && script != cjkScript
			}
		}
		// One Latin letter beside a Greek one is a formula: "νx".
		if foreign > 0 && passes && (latin > 1 || latin == 1 && !greek) {
			return true
		}
	}
	return false
}

// mixed says whether a part of a word has letters of scripts that aren't written together. Greek beside Latin letters is
// allowed, as in formulas, and so are Latin letters in Japanese, Chinese and Korean.
func mixed(word string) bool {
	for part := range parts(word) {
		var seen []script
		for _, r := range part {
			if of := scriptOf(r); of != noScript && !slices.Contains(seen, of) {
				seen = append(seen, of)
			}
		}
		latinBeside := slices.Contains(seen, latinScript) && (slices.Contains(seen, cjkScript) || slices.Contains(seen, greekScript))
		if len(seen) > 2 || len(seen) == 2 && !latinBeside {
			return true
		}
	}
	return false
}

// parts are the runs of letters and marks in an identifier.
func parts(word string) func(yield func(string) bool) {
	return strings.FieldsFuncSeq(word, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsMark(r) })
}

// script is a number for each script; letters of the Chinese, Japanese and Korean ones share one.
type script int

const (
	noScript script = iota // common to several, or inherited from the letter before
	latinScript
	greekScript
	cjkScript
	cyrillicScript
	otherScript // and so on, one for each
)

// commonScripts are the scripts that are looked for first.
var commonScripts = []struct {
	script script
	tables []*unicode.RangeTable
}{
	{cjkScript, []*unicode.RangeTable{unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Hangul, unicode.Bopomofo}},
	{noScript, []*unicode.RangeTable{unicode.Common, unicode.Inherited}},
	{cyrillicScript, []*unicode.RangeTable{unicode.Cyrillic}},
	{greekScript, []*unicode.RangeTable{unicode.Greek}},
	{latinScript, []*unicode.RangeTable{unicode.Latin}},
}

// scriptNames has the other scripts.
var scriptNames = func() []string {
	var names []string
	for name := range unicode.Scripts {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}()

func scriptOf(r rune) script {
	if r < utf8.RuneSelf {
		if isWord(byte(r)) && r > '9' && r != '_' {
			return latinScript
		}
		return noScript
	}
	for _, one := range commonScripts {
		if unicode.In(r, one.tables...) {
			return one.script
		}
	}
	for i, name := range scriptNames {
		if unicode.Is(unicode.Scripts[name], r) {
			return otherScript + script(i)
		}
	}
	return noScript
}

// suspect is where a suspicious identifier was seen.
type suspect struct {
	line int
	code bool // outside of comments and strings
}

// clear reads a file for a second time to decide about its suspects: whether Python takes one for an ASCII identifier, whether one has
// letters of several scripts in code, and whether the ASCII identifier that one looks like is in the file as well.
func (s *searched) clear(r io.Reader, python bool) error {
	if len(s.suspects.words) == 0 {
		return nil
	}
	lookAlike := map[string]bool{} // the ASCII identifiers that suspects look like
	for word := range s.suspects.words {
		if ascii, ok := asASCII(word); ok && len(ascii) >= leastAlike {
			lookAlike[ascii] = true
		}
	}
	seen, present, err := s.suspects.locate(newSource(r, python), lookAlike)
	if err != nil {
		return err
	}
	for _, word := range slices.Sorted(maps.Keys(seen)) {
		at := seen[word]
		normal := norm.NFKC.String(word)
		twin, _ := asASCII(word)
		switch {
		case python && at.code && normal != word && isASCII(normal):
			s.add("look_alike", at.line, quoteWord(word)+" is "+normal+" to Python")
		case python && at.code && mixed(word):
			s.add("look_alike", at.line, quoteWord(word)+" has letters of several scripts")
		case present[twin]:
			s.add("look_alike", at.line, quoteWord(word)+" looks like "+twin+", which is there too")
		}
	}
	return nil
}

// locate finds the suspects in a file, each where it is code first, or else first; and which of the identifiers in lookAlike are present.
func (s *suspects) locate(source *source, lookAlike map[string]bool) (seen map[string]suspect, present map[string]bool, err error) {
	seen, present = map[string]suspect{}, map[string]bool{}
	for {
		word, line, code, err := source.next()
		if errors.Is(err, io.EOF) {
			return seen, present, nil
		}
		if err != nil {
			return nil, nil, err
		}
		if s.words[string(word)] {
			if last, ok := seen[string(word)]; !ok || code && !last.code {
				seen[string(word)] = suspect{line, code}
			}
		} else if lookAlike[string(word)] {
			present[string(word)] = true
		}
	}
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= utf8.RuneSelf })
}

// source reads the identifiers of a file one after another. In Python it distinguishes code from comments and strings; the expressions
// in an f-string are code.
type source struct {
	r      *bufio.Reader
	python bool
	line   int
	word   []byte

	comment bool
	quote   byte // that ends the string; 0 outside of strings
	triple  bool
	format  bool // an f-string
	depth   int  // of braces in an f-string
}

func newSource(r io.Reader, python bool) *source {
	return &source{r: bufio.NewReaderSize(r, window), python: python, line: 1}
}

// next returns the next identifier; word is valid until the next call. code says that it stands neither in a comment nor in a
// string. The error is io.EOF at the end.
func (s *source) next() (word []byte, line int, code bool, err error) {
	s.word = s.word[:0]
	for {
		c, err := s.r.ReadByte()
		switch {
		case err == io.EOF && len(s.word) > 0:
			return s.word, line, code, nil
		case err != nil:
			return nil, 0, false, err
		case c >= utf8.RuneSelf:
			if !s.letter() {
				c = ' '
				break
			}
			if line == 0 {
				line, code = s.line, s.code()
			}
			continue
		case isWord(c) && len(s.word) < maxWord:
			s.word = append(s.word, c)
			if line == 0 {
				line, code = s.line, s.code()
			}
			continue
		}
		if s.python {
			s.step(c)
		}
		if c == '\n' {
			s.line++
		}
		if len(s.word) > 0 {
			return s.word, line, code, nil
		}
	}
}

// letter takes a character that isn't ASCII, and says whether the identifier may continue after it.
func (s *source) letter() bool {
	_ = s.r.UnreadByte()
	r, size, err := s.r.ReadRune()
	if err != nil || r == utf8.RuneError && size == 1 {
		return false
	}
	switch c := classOf(r); {
	case c.kind() != 0:
		return true
	case c&letter == 0 || len(s.word)+size > maxWord:
		return false
	}
	s.word = utf8.AppendRune(s.word, r)
	return true
}

func (s *source) code() bool {
	return !s.comment && (s.quote == 0 || s.format && s.depth > 0)
}

// step takes a character that is part of no identifier; s.word is the word right before it.
func (s *source) step(r byte) {
	switch {
	case s.comment:
		s.comment = r != '\n' && r != '\r'
	case s.quote != 0:
		s.inString(r)
	case r == '#':
		s.comment = true
	case r == '"' || r == '\'':
		s.begin(r)
	}
}

// begin begins a string; the quotes that follow say whether it is a triple-quoted one.
func (s *source) begin(r byte) {
	s.quote, s.depth = r, 0
	s.format = len(s.word) <= 2 && bytes.ContainsAny(s.word, "fF")
	next, _ := s.r.Peek(2)
	s.triple = len(next) == 2 && next[0] == r && next[1] == r
	if s.triple {
		_, _ = s.r.Discard(2)
	}
}

// inString takes a character of a string: it may end the string, or begin or end code in an f-string.
func (s *source) inString(r byte) {
	switch {
	case r == '\\':
		if next := s.peek(1); len(next) == 1 && next[0] != '\n' { // also in a raw string: the quote behind it ends nothing
			s.discard(1)
		}
	case r == s.quote && s.triple:
		if next := s.peek(2); len(next) == 2 && next[0] == r && next[1] == r {
			s.discard(2)
			s.quote = 0
		}
	case r == s.quote, r == '\n' && !s.triple:
		s.quote = 0
	case s.format:
		s.inFormat(r)
	}
}

// inFormat takes a character of an f-string: what stands in braces is code, but for doubled braces.
func (s *source) inFormat(r byte) {
	switch {
	case r == '{':
		if next := s.peek(1); s.depth == 0 && len(next) == 1 && next[0] == '{' {
			s.discard(1)
			return
		}
		s.depth++
	case r == '}' && s.depth > 0:
		s.depth--
	}
}

// peek returns up to n of the next bytes.
func (s *source) peek(n int) []byte {
	next, _ := s.r.Peek(n)
	return next
}

func (s *source) discard(n int) { _, _ = s.r.Discard(n) }
