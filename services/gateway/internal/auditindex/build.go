package auditindex

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/cespare/xxhash/v2"

	"github.com/rumi-ai/rumi/libs/auditfile"
)

// Sizes are those of the ranges of segments, in bytes of the log. The largest bounds what building takes in memory (about half as much); the smallest
// bounds what each question reads directly.
type Sizes struct{ Min, Max int64 }

// DefaultSizes are those of the gateway.
var DefaultSizes = Sizes{1 << 20, 16 << 20}

// maxGrams bounds the different trigrams of one block. The attack: lines of random text, to make the index larger than the log. A block with more is
// proposed for every text.
const maxGrams = 16 << 10

// anyGram stands in the dictionary for blocks with more than maxGrams trigrams. No trigram has this key.
const anyGram = 1 << 32

// field is what a term is a value of.
type field uint64

// The fields. The values are part of the format.
const (
	byAction field = iota + 1
	byPack
	byActor
	bySuccess
	byRequest
	byTrace
)

// term is the key of a value in the dictionary. Two values may have one key: their rows are united.
func term(f field, value string) uint64 {
	return xxhash.Sum64String(value) ^ uint64(f)*0x9E3779B97F4A7C15
}

func successTerm(success bool) uint64 {
	if success {
		return term(bySuccess, "true")
	}
	return term(bySuccess, "false")
}

// gram is the key of three bytes.
func gram(text []byte) uint64 { return uint64(text[0])<<16 | uint64(text[1])<<8 | uint64(text[2]) }

// posting is a row that has a term.
type posting struct {
	key uint64
	row uint32
}

// builder makes a segment of lines.
type builder struct {
	meta  meta
	rows  []byte // offsets within the range, four bytes each
	terms []posting
	grams []uint64 // gram<<24 | block

	inBlock map[uint64]struct{} // trigrams of the block that is under way
	folded  []byte              // a buffer
}

// build reads the whole lines of a range of a file, from an offset at which a line begins: at most size bytes, but one line at least if it has ended.
// The segment is nil where no line has ended.
func build(ctx context.Context, f *auditfile.File, from, size int64) (m *meta, segment []byte, err error) {
	b := &builder{inBlock: map[uint64]struct{}{}}
	b.meta.Category, b.meta.Day, b.meta.From, b.meta.To = uint8(f.ID.Category), int32(f.ID.Day), from, from
	lines := auditfile.NewLines(f, from)
	for b.meta.To-from < size && b.meta.Rows < maxRows {
		line, err := lines.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, nil, fmt.Errorf("read audit log: %w", err)
		}
		b.add(f.ID, line)
	}
	if b.meta.To == from {
		return nil, nil, nil
	}
	if err := b.sums(f); err != nil {
		return nil, nil, err
	}
	segment, err = b.finish()
	return &b.meta, segment, err
}

// add adds a line.
func (b *builder) add(id auditfile.ID, line auditfile.Line) {
	b.meta.To = line.End
	e, err := auditfile.ParseOf(id, line.Text)
	if err != nil {
		b.meta.Foreign++
		return
	}
	row := b.meta.Rows
	b.meta.Rows++
	b.rows = binary.LittleEndian.AppendUint32(b.rows, uint32(line.Begin-b.meta.From))
	b.time(row, e.TS.UnixMicro())
	b.terms = append(b.terms, posting{term(byAction, e.Action), row}, posting{successTerm(e.Success), row})
	for _, v := range []struct {
		field
		value string
	}{{byPack, e.OwnerPack}, {byActor, e.Actor}, {byRequest, e.RequestID}, {byTrace, e.TraceID}} {
		if v.value != "" {
			b.terms = append(b.terms, posting{term(v.field, v.value), row})
		}
	}
	b.text(&e)
	if b.meta.Rows%blockRows == 0 {
		b.endBlock()
	}
}

// time widens the span of the row's block.
func (b *builder) time(row uint32, at int64) {
	if row%blockRows == 0 {
		b.meta.Times = append(b.meta.Times, span{at, at})
		return
	}
	s := &b.meta.Times[row/blockRows]
	s.Min, s.Max = min(s.Min, at), max(s.Max, at)
}

// text notes the trigrams of a line.
func (b *builder) text(e *auditfile.Entry) {
	for piece := range e.Searchable() {
		if len(b.inBlock) > maxGrams {
			return
		}
		b.folded = auditfile.AppendFolded(b.folded[:0], piece)
		for i := range max(0, len(b.folded)-2) {
			b.inBlock[gram(b.folded[i:])] = struct{}{}
		}
	}
}

// endBlock notes which trigrams the block has.
func (b *builder) endBlock() {
	block := uint64(len(b.meta.Times) - 1)
	if len(b.inBlock) > maxGrams {
		b.grams = append(b.grams, anyGram<<24|block)
	} else {
		for g := range b.inBlock {
			b.grams = append(b.grams, g<<24|block)
		}
	}
	clear(b.inBlock)
}

// sums reads the range again: what was hashed must be what lies in the file, not what lay in a buffer.
func (b *builder) sums(f io.ReaderAt) (err error) {
	m := &b.meta
	if m.Sum, err = sum(f, m.From, m.To); err != nil {
		return err
	}
	m.Head, m.Tail, err = edges(f, m.From, m.To)
	return err
}

func sum(f io.ReaderAt, from, to int64) (uint64, error) {
	h := xxhash.New()
	n, err := io.Copy(h, io.NewSectionReader(f, from, to-from))
	if err == nil && n < to-from {
		err = io.ErrUnexpectedEOF
	}
	return h.Sum64(), err
}

// edges are the sums of the first and the last bytes of a range.
func edges(f io.ReaderAt, from, to int64) (head, tail uint64, err error) {
	if head, err = sum(f, from, min(to, from+edge)); err == nil {
		tail, err = sum(f, max(from, to-edge), to)
	}
	return head, tail, err
}

// finish encodes the segment.
func (b *builder) finish() ([]byte, error) {
	if b.meta.Rows%blockRows != 0 {
		b.endBlock()
	}
	slices.SortFunc(b.terms, func(x, y posting) int {
		if x.key != y.key {
			if x.key < y.key {
				return -1
			}
			return 1
		}
		return int(x.row) - int(y.row)
	})
	slices.Sort(b.grams)
	var posts postings
	terms := posts.dictionary(&b.meta.TermFences, &b.meta.Terms, func(yield func(uint64, uint32) bool) {
		for _, p := range b.terms {
			if !yield(p.key, p.row) {
				return
			}
		}
	})
	grams := posts.dictionary(&b.meta.GramFences, &b.meta.Grams, func(yield func(uint64, uint32) bool) {
		for _, g := range b.grams {
			if !yield(g>>24, uint32(g&(1<<24-1))) {
				return
			}
		}
	})
	if posts.err != nil {
		return nil, fmt.Errorf("encode segment: %w", posts.err)
	}
	b.meta.Posts = uint32(len(posts.bytes))
	return b.meta.encode(slices.Concat(b.rows, terms, grams, posts.bytes))
}

// postings collects what dictionaries point to.
type postings struct {
	bytes []byte
	err   error
}

// dictionary encodes pairs that are sorted, without duplicates, into entries: the key, and either one number (and 0) or where its numbers are, and how many bytes they take.
func (p *postings) dictionary(fences *[]uint64, count *uint32, pairs func(yield func(uint64, uint32) bool)) (entries []byte) {
	var key uint64
	var numbers []uint32
	flush := func() {
		if len(numbers) == 0 {
			return
		}
		if *count%entriesPage == 0 {
			*fences = append(*fences, key)
		}
		*count++
		at, n := p.add(numbers)
		entries = binary.LittleEndian.AppendUint64(entries, key)
		entries = binary.LittleEndian.AppendUint32(entries, at)
		entries = binary.LittleEndian.AppendUint32(entries, n)
		numbers = numbers[:0]
	}
	for k, number := range pairs {
		if k != key {
			flush()
			key = k
		}
		numbers = append(numbers, number)
	}
	flush()
	return entries
}

// add stores numbers.
func (p *postings) add(numbers []uint32) (at, size uint32) {
	if len(numbers) == 1 {
		return numbers[0], 0
	}
	set := roaring.BitmapOf(numbers...)
	set.RunOptimize()
	raw, err := set.ToBytes()
	if err != nil {
		p.err = err
	}
	at = uint32(len(p.bytes))
	p.bytes = append(p.bytes, raw...)
	return at, uint32(len(raw))
}
