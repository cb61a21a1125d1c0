package review

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/aymanbagabas/go-udiff"

	api "github.com/rumi-ai/rumi/api/review"
	"github.com/rumi-ai/rumi/libs/text"
	"github.com/rumi-ai/rumi/libs/tree"
)

// Bounds of diffs. Sizes are in bytes.
const (
	maxDiffRead  = 8 << 20   // of each side that is read for one
	maxDiffFile  = 256 << 10 // of each side, without what both have at the beginning and the end
	maxDiffLines = 1000      // of each side where it is larger: minified text has few lines
	maxDiffs     = 2 << 20   // of all diffs together
	maxDiffWork  = 64 << 20  // of all that is read for them
	diffContext  = 3         // lines around a change
	lineContext  = 200       // bytes of a long line that are shown before and after its change
)

// differ makes the diffs of a review, within limits for all of them together.
type differ struct {
	open      Open
	remaining int // bytes left for diffs
	work      int // bytes left to read
	cut       bool
}

func newDiffer(open Open) *differ { return &differ{open: open, remaining: maxDiffs, work: maxDiffWork} }

// changed compares two versions of a file. content says how the newer one can be read.
func (d *differ) changed(old, now tree.Entry, content Content) (*string, DiffState, error) {
	switch {
	case old.Kind != tree.File || now.Kind != tree.File || old.SHA256 == now.SHA256:
		return nil, api.DiffSame, nil
	case content == Binary:
		return nil, api.DiffBinary, nil
	case content == Undecodable:
		return nil, api.DiffUnread, nil
	case max(old.Size, now.Size) > maxDiffRead:
		return nil, api.DiffTooLarge, nil
	case !d.reserve(int(old.Size + now.Size)):
		return nil, api.DiffOmitted, nil
	}
	a, err := read(old, d.open)
	if err != nil {
		return nil, "", err
	}
	b, err := read(now, d.open)
	if err != nil {
		return nil, "", err
	}
	if !utf8.Valid(a) {
		return nil, api.DiffUnread, nil
	}
	if bytes.IndexByte(a, 0) >= 0 {
		return nil, api.DiffBinary, nil
	}
	return d.account(unified("approved/"+old.Path, "now/"+now.Path, string(a), string(b)))
}

// added shows a file that is new as a diff from nothing.
func (d *differ) added(now tree.Entry, content Content) (*string, DiffState, error) {
	switch {
	case now.Kind != tree.File || now.Size == 0:
		return nil, api.DiffSame, nil
	case content == Binary:
		return nil, api.DiffBinary, nil
	case content == Undecodable:
		return nil, api.DiffUnread, nil
	case now.Size > maxDiffFile:
		return nil, api.DiffTooLarge, nil
	case !d.reserve(int(now.Size)):
		return nil, api.DiffOmitted, nil
	}
	b, err := read(now, d.open)
	if err != nil {
		return nil, "", err
	}
	return d.account(unified("/dev/null", "now/"+now.Path, "", string(b)))
}

// reserve says whether texts of that size may still be compared, and takes the work off the limit.
func (d *differ) reserve(size int) bool {
	if size > d.work || d.remaining <= 0 {
		d.cut = true
		return false
	}
	d.work -= size
	return true
}

// account takes a diff off the limit of all diffs; if it doesn't fit the diff is omitted.
func (d *differ) account(diff string, state DiffState) (*string, DiffState, error) {
	switch {
	case diff == "":
		return nil, state, nil
	case len(diff) > d.remaining:
		d.cut = true
		return nil, api.DiffOmitted, nil
	}
	d.remaining -= len(diff)
	return &diff, state, nil
}

// unified is the unified diff of two different texts. Characters that hide are written as escapes.
func unified(oldName, newName, a, b string) (string, DiffState) {
	// Only what lies between the lines that both begin and end with is compared, with some lines around it.
	head := commonLines(a, b)
	tail := commonEnd(a[head:], b[head:])
	large := max(len(a), len(b))-head-tail > maxDiffFile
	if large && max(lineCount(a[head:len(a)-tail]), lineCount(b[head:len(b)-tail])) > maxDiffLines {
		return "", api.DiffTooLarge
	}
	from := head
	for range diffContext {
		from = strings.LastIndexByte(a[:max(from-1, 0)], '\n') + 1
	}
	more := 0
	for range diffContext {
		if i := strings.IndexByte(a[len(a)-tail+more:], '\n'); i >= 0 {
			more += i + 1
		} else {
			more = tail
		}
	}
	w := &unifiedWriter{line: strings.Count(a[:from], "\n") + 1}
	fmt.Fprintf(&w.b, "--- %s\n+++ %s\n", shown(oldName), shown(newName))
	w.write(a[from:len(a)-tail+more], b[from:len(b)-tail+more])
	if w.shortened {
		return w.b.String(), api.DiffShortened
	}
	return w.b.String(), api.DiffShown
}

// commonLines is how many bytes of whole lines both texts begin with.
func commonLines(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return strings.LastIndexByte(a[:n], '\n') + 1
}

// commonEnd is how many bytes of whole lines both texts end with.
func commonEnd(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[len(a)-1-n] == b[len(b)-1-n] {
		n++
	}
	if n == len(a) && n == len(b) || n == len(a) && b[len(b)-1-n] == '\n' || n == len(b) && a[len(a)-1-n] == '\n' {
		return n
	}
	end := a[len(a)-n:]
	if i := strings.IndexByte(end, '\n'); i >= 0 {
		return n - i - 1
	}
	return 0
}

func lineCount(s string) int { return strings.Count(s, "\n") + 1 }

// unifiedWriter writes the hunks of a diff.
type unifiedWriter struct {
	b         strings.Builder
	line      int // of what is compared, in the file
	shortened bool
}

// block is a run of lines that another run replaces: indexes of lines, the end not included.
type block struct{ a0, a1, b0, b1 int }

func (w *unifiedWriter) write(a, b string) {
	as, bs := lines(a), lines(b)
	blocks := blocksOf(a, b)
	for len(blocks) > 0 {
		n := 1
		for n < len(blocks) && blocks[n].a0-blocks[n-1].a1 <= 2*diffContext {
			n++
		}
		w.hunk(as, bs, blocks[:n])
		blocks = blocks[n:]
	}
}

// blocksOf compares two texts line by line.
func blocksOf(a, b string) []block {
	var blocks []block
	var line, at, shift int // shift is how many lines b has more so far
	for _, e := range udiff.Lines(a, b) {
		line += strings.Count(a[at:e.Start], "\n")
		a0 := line
		line += len(lines(a[e.Start:e.End]))
		at = e.End
		b0 := a0 + shift
		b1 := b0 + len(lines(e.New))
		shift = b1 - line
		blocks = append(blocks, block{a0, line, b0, b1})
	}
	return blocks
}

// lines splits a text behind each line feed.
func lines(s string) []string {
	if s == "" {
		return nil
	}
	all := strings.SplitAfter(s, "\n")
	if all[len(all)-1] == "" {
		all = all[:len(all)-1]
	}
	return all
}

func (w *unifiedWriter) hunk(as, bs []string, blocks []block) {
	first, last := blocks[0], blocks[len(blocks)-1]
	before := min(diffContext, first.a0)
	after := min(diffContext, len(as)-last.a1)
	from, fromB := first.a0-before, first.b0-before
	fmt.Fprintf(&w.b, "@@ -%s +%s @@\n", span(w.line+from, last.a1+after-from), span(w.line+fromB, last.b1+after-fromB))
	at := from
	for _, one := range blocks {
		for _, line := range as[at:one.a0] {
			w.show(' ', line, line)
		}
		for i, line := range as[one.a0:one.a1] {
			w.show('-', line, counterpart(bs[one.b0:one.b1], i))
		}
		for i, line := range bs[one.b0:one.b1] {
			w.show('+', line, counterpart(as[one.a0:one.a1], i))
		}
		at = one.a1
	}
	for _, line := range as[at : last.a1+after] {
		w.show(' ', line, line)
	}
}

// span is a range of lines in the head of a hunk.
func span(line, count int) string {
	switch count {
	case 0:
		return fmt.Sprintf("%d,0", line-1)
	case 1:
		return strconv.Itoa(line)
	}
	return fmt.Sprintf("%d,%d", line, count)
}

// counterpart is the line that line i of a block replaces; "" for none.
func counterpart(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return ""
}

// show writes a line; of a long one what differs from other.
func (w *unifiedWriter) show(sign byte, line, other string) {
	line, ended := strings.CutSuffix(line, "\n")
	other = strings.TrimSuffix(other, "\n")
	w.b.WriteByte(sign)
	if len(line) <= maxLine {
		w.b.WriteString(visible(line))
	} else {
		w.shortened = true
		from, to := differing(line, other)
		if from > 0 {
			fmt.Fprintf(&w.b, "[%d bytes …]", from)
		}
		w.b.WriteString(visible(line[from:to]))
		if to < len(line) {
			fmt.Fprintf(&w.b, "[… %d bytes]", len(line)-to)
		}
	}
	w.b.WriteByte('\n')
	if !ended {
		w.b.WriteString("\\ No newline at end of file\n")
	}
}

// differing is the part of a long line that is shown: where it differs from another.
func differing(line, other string) (from, to int) {
	same := 0
	for same < len(line) && same < len(other) && line[same] == other[same] {
		same++
	}
	end := 0
	for end < len(line)-same && end < len(other)-same && line[len(line)-1-end] == other[len(other)-1-end] {
		end++
	}
	if same == len(line) {
		same, end = 0, 0
	}
	from = max(0, same-lineContext)
	to = min(len(line), len(line)-end+lineContext, from+maxLine)
	for from > 0 && !utf8.RuneStart(line[from]) {
		from--
	}
	for to < len(line) && !utf8.RuneStart(line[to]) {
		to--
	}
	return from, to
}

// visible writes the characters of a line that hide as escapes, except tabs and a carriage return at the end.
func visible(line string) string {
	body, dos := strings.CutSuffix(line, "\r")
	if text.IsLine(body) {
		return line
	}
	parts := strings.Split(body, "\t")
	for i, part := range parts {
		parts[i] = text.Escape(part)
	}
	body = strings.Join(parts, "\t")
	if dos {
		body += "\r"
	}
	return body
}

// shown is a path in the head of a diff, quoted if it could be taken for something else.
func shown(path string) string {
	if !text.IsLine(path) {
		return text.Escape(strconv.Quote(path))
	}
	return path
}
