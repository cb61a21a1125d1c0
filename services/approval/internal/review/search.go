package review

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/rumi-ai/rumi/libs/text"
)

// Bounds of a search. Lengths are in bytes; a search holds window bytes of a file at a time, whatever the file's size.
const (
	window     = 64 << 10
	around     = 320  // text around a character, half before and half after it, that decides whether it is suspicious
	maxLine    = 2000 // a longer line is a warning: nobody reads it to its end
	blankRun   = 120  // that many blanks in a row push the rest of a line out of sight
	blankLines = 200  // that many blank lines in a row push the rest of a file out of sight
	maxFirst   = 1 << 20
	maxPerKind = 1000 // characters of one kind in one file that are examined one by one
)

// finding is what a search found of one kind of warning.
type finding struct {
	kind   string
	line   int // of the first, from 1
	count  int
	detail string // of the first, or "" where kind and line say all
}

// searched is the result of a search.
type searched struct {
	content  Content
	python   bool // Python reads it as source: its first two lines may name an encoding
	script   bool // begins with "#!"
	findings []finding
	suspects suspects
}

// search goes through a file as a stream, in memory of constant size.
type search struct {
	searched
	line       int  // the current line, from 1
	column     int  // bytes of that line so far
	blanks     int  // width of the white space right before, in columns
	hasVisible bool // the line has something visible so far
	empty      int  // lines right before this one without anything visible
	nul        bool
	invalid    bool
	marked     bool // begins with a byte order mark of UTF-16 or UTF-32
	first      []byte
	firstDone  bool   // first is complete
	word       []byte // the identifier so far
	nonASCII   bool   // word has letters that are not ASCII
	asciiLike  bool   // each of these letters looks like ASCII, or is ASCII in compatibility form
	any        class  // the union of their classes
	scripts    uint64 // their scripts, a bit for each
	examined   [8]int // characters that were examined, by index in kinds
	unexamined [8]int // further characters, beyond maxPerKind, that were only counted
}

var buffers = sync.Pool{New: func() any { buf := make([]byte, window+around); return &buf }}

// lookThrough searches the file that r reads. python says that Python reads the file as source.
func searchContent(r io.Reader, python bool) (*searched, error) {
	s := &search{line: 1}
	s.python = python
	pooled := buffers.Get().(*[]byte)
	defer buffers.Put(pooled)
	buf := (*pooled)[:0]
	done := 0 // the bytes of buf that were searched, and stay only as context of those that follow
	begun := false
	for {
		n, err := io.ReadFull(r, buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		end := err == io.EOF || err == io.ErrUnexpectedEOF
		if err != nil && !end {
			return nil, err
		}
		if !begun {
			begun = true
			done = s.begin(buf)
		}
		limit := len(buf)
		if !end {
			limit = searchLimit(buf, done)
		}
		s.scan(buf, done, limit)
		if end {
			return s.result(), nil
		}
		from := max(0, limit-around/2)
		buf = append(buf[:0], buf[from:]...)
		done = limit - from
	}
}

// begin reads the beginning of a file: its interpreter line and its byte order mark. It returns the length of a mark of UTF-8, which is
// no part of the text.
func (s *search) begin(buf []byte) (mark int) {
	s.script = bytes.HasPrefix(buf, []byte("#!"))
	first, _, _ := bytes.Cut(buf, []byte("\n"))
	s.python = s.python || s.script && bytes.Contains(first, []byte("python"))
	s.marked = bytes.HasPrefix(buf, []byte("\xff\xfe")) || bytes.HasPrefix(buf, []byte("\xfe\xff"))
	if bytes.HasPrefix(buf, []byte("\ufeff")) {
		return len("\ufeff")
	}
	return 0
}

// result ends a search: all of the file was searched.
func (s *search) result() *searched {
	s.endLine()
	s.cookie()
	for i, n := range s.unexamined {
		if n > 0 {
			s.of(kinds[i]).count += n
		}
	}
	s.content = Text
	switch {
	case s.marked:
		s.content = Undecodable
	case s.nul:
		s.content = Binary
	case s.invalid:
		s.content = Undecodable
	}
	return &s.searched
}

// searchLimit is how far buf can be searched before more is read: the text after a character, by which it is judged, must be in
// buf.
func searchLimit(buf []byte, done int) int {
	limit := len(buf) - around/2
	for limit > done && !utf8.RuneStart(buf[limit]) && limit > len(buf)-around/2-utf8.UTFMax {
		limit--
	}
	return max(limit, done)
}

// scan searches buf from done to limit. The bytes outside of that are only context.
func (s *search) scan(buf []byte, done, limit int) {
	if s.python && !s.firstDone {
		s.collectFirst(buf[done:limit])
	}
	for i := done; i < limit; {
		if s.column == 0 {
			if n := s.plainLine(buf[i:limit]); n > 0 {
				i += n
				continue
			}
		}
		c := buf[i]
		if c < utf8.RuneSelf {
			if class := byteClass[c]; class == plain {
				end := i + 1
				for end < limit && byteClass[buf[end]] == plain {
					end++
				}
				s.text(buf[i:end])
				i = end
				continue
			}
			s.control(buf, i)
			i++
			continue
		}
		i += s.rune(buf, i)
	}
}

// plainLine passes over a line in which nothing can be found, and returns its length; 0 for any other line. Most lines are
// such, so this is the fast path.
func (s *search) plainLine(buf []byte) int {
	n := bytes.IndexByte(buf[:min(len(buf), blankRun)], '\n')
	if n < 0 || len(s.word) > 0 || s.blanks > 0 {
		return 0
	}
	line := buf[:n]
	i := 0
	for ; i+8 <= n; i += 8 {
		// A byte below 0x20 or above 0x7e sets its highest bit in one of the three words. The parentheses matter: in Go | binds no stronger
		// than + and -. A borrow or a carry comes only from a byte that is found itself.
		x := binary.LittleEndian.Uint64(line[i:])
		if (x|(x-0x2020202020202020)|(x+0x0101010101010101))&0x8080808080808080 != 0 {
			return 0
		}
	}
	for ; i < n; i++ {
		if byteClass[line[i]] != plain {
			return 0
		}
	}
	if len(bytes.TrimLeft(line, " ")) == 0 {
		s.empty++
	} else {
		s.visible()
		s.empty, s.hasVisible = 0, false
	}
	s.line++
	return n + 1
}

const (
	plain byte = iota // a visible character or a space
	other
)

// byteClass says which bytes are plain.
var byteClass = func() (table [256]byte) {
	for c := range table {
		if c < ' ' || c >= 0x7f {
			table[c] = other
		}
	}
	return table
}()

// text takes a run of visible ASCII characters and spaces.
func (s *search) text(run []byte) {
	s.column += len(run)
	rest := run
	for {
		i := bytes.IndexByte(rest, ' ')
		if i < 0 {
			break
		}
		if i > 0 {
			s.visible()
		}
		j := i + 1
		for j < len(rest) && rest[j] == ' ' {
			j++
		}
		s.blanks += j - i
		rest = rest[j:]
	}
	if len(rest) > 0 {
		s.visible()
	}
	s.words(run)
}

// visible notes that something visible follows the blanks.
func (s *search) visible() {
	if s.blanks >= blankRun {
		s.found("far_right", fmt.Sprintf("text behind %d blanks", s.blanks))
	}
	if !s.hasVisible && s.empty >= blankLines {
		s.found("far_down", fmt.Sprintf("text behind %d blank lines", s.empty))
	}
	s.blanks, s.hasVisible = 0, true
}

// control takes a control character.
func (s *search) control(buf []byte, i int) {
	s.endWord()
	switch c := buf[i]; {
	case c == '\n':
		s.endLine()
		s.line++
		return
	case c == '\t':
		s.blanks += 8
	case c == 0:
		s.nul = true
	case c == '\f', c == '\r' && i+1 < len(buf) && buf[i+1] == '\n':
	default:
		s.hidden(buf, i, slices.Index(kinds, "control"))
	}
	s.column++
}

// endLine ends a line, and warns if it is too long.
func (s *search) endLine() {
	s.endWord()
	if s.column > maxLine {
		s.found("long_line", fmt.Sprintf("%d bytes", s.column))
	}
	s.empty++
	if s.hasVisible {
		s.empty = 0
	}
	s.column, s.blanks, s.hasVisible = 0, 0, false
}

// rune takes a character that isn't ASCII, and returns its length in bytes.
func (s *search) rune(buf []byte, i int) int {
	r, size := utf8.DecodeRune(buf[i:])
	s.column += size
	if r == utf8.RuneError && size == 1 {
		s.invalid = true
		s.endWord()
		return 1
	}
	c := classOf(r)
	if c.kind() != 0 {
		s.hidden(buf, i, c.kind())
		return size // a word goes on behind it: what it shows is what counts
	}
	switch {
	case c&letter != 0:
		s.visible()
		s.addWord(buf[i:i+size], c)
	case c&space != 0:
		s.endWord()
		s.blanks++
	default:
		s.endWord()
		s.visible()
	}
	return size
}

// hidden decides about a character that hides, unless the text around it gives it a purpose (a joiner within an emoji, say).
func (s *search) hidden(buf []byte, i, of int) {
	if s.examined[of] >= maxPerKind {
		s.unexamined[of]++ // there is nothing to be learnt from one more
		return
	}
	from, to := max(0, i-around/2), min(len(buf), i+around/2)
	r, _, kind := text.Classify(string(buf[from:to]), i-from)
	if name := kindOf(kind); name != "" {
		s.examined[of]++
		s.found(name, text.Char{Rune: r, Kind: kind}.String())
	}
}

// kindOf is the kind of warning for a kind of character; "" for none.
func kindOf(kind text.Kind) string {
	switch kind {
	case text.Control:
		return "control"
	case text.Bidi:
		return "bidirectional"
	case text.Separator, text.Selector, text.Ignorable, text.Blank:
		return "invisible"
	case text.Private:
		return "private_use"
	case text.Unassigned:
		return "unassigned"
	}
	return ""
}

// of is the finding of a kind, nil for none.
func (s *searched) of(kind string) *finding {
	for i := range s.findings {
		if s.findings[i].kind == kind {
			return &s.findings[i]
		}
	}
	return nil
}

// add counts a finding; only the first has a detail.
func (s *searched) add(kind string, line int, detail string) {
	if f := s.of(kind); f != nil {
		f.count++
		return
	}
	s.findings = append(s.findings, finding{kind, line, 1, detail})
}

func (s *search) found(kind, detail string) { s.add(kind, s.line, detail) }

// class is everything that a search has to know of a character that isn't ASCII, in one number. The bits from kindShift on are
// an index in kinds, for a character that hides unless the text around it says otherwise (0 for any other); those from
// scriptShift on are the script of a letter.
type class uint16

const (
	letter      class = 1 << iota // or a digit or a mark: part of an identifier
	space                         // of category Zs
	alike                         // looks like an ASCII letter
	compatible                    // is one in compatibility form
	kindShift   = 4
	scriptShift = 8
)

func (c class) kind() int      { return int(c>>kindShift) & 15 }
func (c class) script() script { return script(c >> scriptShift) }

var kinds = []string{"", "control", "bidirectional", "invisible", "private_use", "unassigned"}

// planes are those that classes has one by one; of the others only what is default ignorable and private is assigned.
const planes = 4

// classes are the classes of the first planes, computed once: to look up the Unicode properties takes hundreds of times as
// long.
var classes = sync.OnceValue(func() []class {
	table := make([]class, planes<<16)
	for r := range rune(len(table)) {
		if utf8.ValidRune(r) {
			table[r] = classify(r)
		}
	}
	return table
})

func classOf(r rune) class {
	if r < planes<<16 {
		return classes()[r]
	}
	kind := "unassigned"
	switch {
	case r>>12 == 0xe0: // reserved to be default ignorable
		kind = "invisible"
	case r >= 0xf0000 && r&0xffff < 0xfffe:
		kind = "private_use"
	}
	return class(slices.Index(kinds, kind)) << kindShift
}

func classify(r rune) class {
	_, _, kind := text.Classify(string(r), 0)
	c := class(slices.Index(kinds, kindOf(kind))) << kindShift
	switch {
	case unicode.In(r, unicode.L, unicode.M, unicode.N):
		c |= letter | class(scriptOf(r))<<scriptShift
		if _, ok := lookAlikes()[r]; ok {
			c |= alike
		}
		if isASCII(norm.NFKC.String(string(r))) {
			c |= compatible
		}
	case unicode.Is(unicode.Zs, r):
		c |= space
	}
	return c
}

// isPython says whether Python reads a file as source, by its name.
func isPython(name string) bool {
	switch strings.ToLower(path.Ext(name)) {
	case ".py", ".pyw", ".pyi", ".pth":
		return true
	}
	return false
}
