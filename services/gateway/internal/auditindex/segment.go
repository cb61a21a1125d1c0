package auditindex

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"slices"
	"sort"
	"sync/atomic"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/rumi-ai/rumi/libs/auditfile"
)

// Segment is what is known of an index file. It is safe for concurrent use.
type Segment struct {
	meta
	name     string
	fits     atomic.Pointer[auditfile.Identity] // the file that it was compared with last, and fits
	verified atomic.Pointer[auditfile.Identity] // the file whose every byte was compared with Sum
}

// openSegment reads meta of a file in the index folder.
func openSegment(root *os.Root, name string) (*Segment, error) {
	f, err := openRegular(root, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	m, err := decodeMeta(f, st.Size())
	if err != nil {
		return nil, err
	}
	if m.name() != name {
		return nil, damaged("it has the name of another one")
	}
	return &Segment{meta: *m, name: name}, nil
}

// From and To are the range of bytes of the log that the segment is about.
func (s *Segment) From() int64 { return s.meta.From }

// To is the end of that range.
func (s *Segment) To() int64 { return s.meta.To }

// fitsFile says whether the file has, at both ends of the range, the bytes that were indexed. It is compared once for each file that has the name.
func (s *Segment) fitsFile(f *auditfile.File, identity auditfile.Identity) (bool, error) {
	if known := s.fits.Load(); known != nil && *known == identity {
		return true, nil
	}
	size, err := f.Size()
	if err != nil || size < s.meta.To {
		return false, err
	}
	head, tail, err := edges(f, s.meta.From, s.meta.To)
	if err != nil || head != s.Head || tail != s.Tail {
		return false, err
	}
	s.fits.Store(&identity)
	return true, nil
}

// mayMatch says, from what is in memory, whether an entry of the segment can match.
func (s *Segment) mayMatch(q *auditfile.Filter) bool {
	if q.Since.IsZero() && q.Until.IsZero() {
		return s.Rows > 0
	}
	return slices.ContainsFunc(s.Times, func(t span) bool { return t.overlaps(q) })
}

func (t span) overlaps(q *auditfile.Filter) bool {
	return (q.Since.IsZero() || t.Max >= q.Since.UnixMicro()) && (q.Until.IsZero() || t.Min < q.Until.UnixMicro()+1)
}

// rows are those that may match: all that do, and some that don't.
func (s *Segment) rows(f io.ReaderAt, q *auditfile.Filter, packs []string) (*roaring.Bitmap, error) {
	found, err := s.rowsWithTerms(f, wanted(q, packs))
	if err != nil || found.IsEmpty() {
		return found, err
	}
	if !q.Since.IsZero() || !q.Until.IsZero() {
		found.And(s.rowsInTime(q))
	}
	if len(q.Text) < 3 || found.IsEmpty() {
		return found, nil
	}
	blocks, err := s.blocks(f, q.Text)
	if err != nil {
		return nil, err
	}
	return within(found, blocks), nil
}

// rowsWithTerms are the rows that have one term of each list.
func (s *Segment) rowsWithTerms(f io.ReaderAt, lists [][]uint64) (found *roaring.Bitmap, err error) {
	for _, keys := range lists {
		union := roaring.New()
		for _, key := range keys {
			set, err := s.lookup(f, key, s.TermFences, s.termsAt(), s.Terms, s.Rows)
			if err != nil {
				return nil, err
			}
			union.Or(set)
		}
		if found == nil {
			found = union
		} else {
			found.And(union)
		}
		if found.IsEmpty() {
			return found, nil
		}
	}
	if found == nil {
		found = roaring.New()
		found.AddRange(0, uint64(s.Rows))
	}
	return found, nil
}

// wanted are the terms that an entry must have: one of each list. The rarest fields come first.
func wanted(q *auditfile.Filter, packs []string) (lists [][]uint64) {
	for _, v := range []struct {
		field
		values []string
	}{
		{byRequest, one(q.RequestID)}, {byTrace, one(q.TraceID)}, {byPack, one(q.PackID)}, {byPack, packs}, {byActor, one(q.Actor)}, {byAction, q.Actions},
	} {
		if v.values != nil {
			lists = append(lists, terms(v.field, v.values))
		}
	}
	if q.Success != nil {
		lists = append(lists, []uint64{successTerm(*q.Success)})
	}
	return lists
}

// one is a list of a value, nil for "".
func one(value string) []string {
	if value == "" {
		return nil
	}
	return []string{value}
}

func terms(f field, values []string) (keys []uint64) {
	for _, v := range values {
		keys = append(keys, term(f, v))
	}
	return keys
}

// rowsInTime are the rows of the blocks whose span overlaps the filter's.
func (s *Segment) rowsInTime(q *auditfile.Filter) *roaring.Bitmap {
	found := roaring.New()
	for block, t := range s.Times {
		if t.overlaps(q) {
			found.AddRange(uint64(block)*blockRows, min(uint64(block+1)*blockRows, uint64(s.Rows)))
		}
	}
	return found
}

// blocks are those that may have a text.
func (s *Segment) blocks(f io.ReaderAt, text []byte) (*roaring.Bitmap, error) {
	count := uint32(len(s.Times))
	anything, err := s.lookup(f, anyGram, s.GramFences, s.gramsAt(), s.Grams, count)
	if err != nil {
		return nil, err
	}
	found := roaring.New()
	found.AddRange(0, uint64(count))
	for i := range len(text) - 2 {
		set, err := s.lookup(f, gram(text[i:]), s.GramFences, s.gramsAt(), s.Grams, count)
		if err != nil {
			return nil, err
		}
		if found.And(set); found.IsEmpty() {
			break
		}
	}
	found.Or(anything)
	return found, nil
}

// within keeps the rows that lie in blocks.
func within(rows, blocks *roaring.Bitmap) *roaring.Bitmap {
	mask := roaring.New()
	for it := blocks.Iterator(); it.HasNext(); {
		block := uint64(it.Next())
		mask.AddRange(block*blockRows, (block+1)*blockRows)
	}
	mask.And(rows)
	return mask
}

// lookup returns the numbers that a dictionary has for a key, each below limit; none if it lacks the key.
func (s *Segment) lookup(f io.ReaderAt, key uint64, fences []uint64, at int64, entries, limit uint32) (*roaring.Bitmap, error) {
	group := sort.Search(len(fences), func(i int) bool { return fences[i] > key }) - 1
	if group < 0 {
		return roaring.New(), nil
	}
	first := int64(group) * entriesPage
	raw, err := s.readPages(f, at+first*entrySize, min(entriesPage, int64(entries)-first)*entrySize)
	if err != nil {
		return nil, err
	}
	n := len(raw) / entrySize
	i := sort.Search(n, func(i int) bool { return binary.LittleEndian.Uint64(raw[i*entrySize:]) >= key })
	if i == n || binary.LittleEndian.Uint64(raw[i*entrySize:]) != key {
		return roaring.New(), nil
	}
	return s.posting(f, raw[i*entrySize+8:], limit)
}

// posting reads the numbers that an entry of a dictionary points to.
func (s *Segment) posting(f io.ReaderAt, entry []byte, limit uint32) (*roaring.Bitmap, error) {
	at, size := binary.LittleEndian.Uint32(entry), binary.LittleEndian.Uint32(entry[4:])
	set := roaring.New()
	if size == 0 {
		set.Add(at)
	} else {
		raw, err := s.readPages(f, s.postsAt()+int64(at), int64(size))
		if err != nil {
			return nil, err
		}
		if n, err := set.ReadFrom(bytes.NewReader(raw)); err != nil || n != int64(size) {
			return nil, damaged("a list of rows can't be read")
		}
		if err := set.Validate(); err != nil {
			return nil, damaged(err.Error())
		}
	}
	if !set.IsEmpty() && set.Maximum() >= limit {
		return nil, damaged("a list has rows that are not there")
	}
	return set, nil
}

// offsets reads where rows begin, page by page.
type offsets struct {
	s     *Segment
	f     io.ReaderAt
	first int64 // row of the page
	page  []byte
}

const offsetsPage = pageSize / 4

// of is where a row begins in the log, and where the next one does, or the range ends.
func (o *offsets) of(row uint32) (begin, end int64, err error) {
	if begin, err = o.at(int64(row)); err != nil {
		return 0, 0, err
	}
	if row+1 == o.s.Rows {
		return begin, o.s.meta.To, nil
	}
	if end, err = o.at(int64(row) + 1); err == nil && end <= begin {
		err = damaged("its rows are not in order")
	}
	return begin, end, err
}

func (o *offsets) at(row int64) (int64, error) {
	if row < o.first || row >= o.first+int64(len(o.page)/4) {
		o.first = row / offsetsPage * offsetsPage
		var err error
		if o.page, err = o.s.readPages(o.f, o.first*4, min(offsetsPage, int64(o.s.Rows)-o.first)*4); err != nil {
			return 0, err
		}
	}
	at := o.s.meta.From + int64(binary.LittleEndian.Uint32(o.page[(row-o.first)*4:]))
	if at >= o.s.meta.To {
		return 0, damaged(fmt.Sprintf("row %d is beyond its range", row))
	}
	return at, nil
}
