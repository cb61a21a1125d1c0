package auditindex

import (
	"os"
	"sort"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/rumi-ai/rumi/libs/auditfile"
)

// Candidates proposes where entries may lie that a filter asks for, from the end of a segment's range to its beginning. All entries that match are among
// those that it proposes.
type Candidates struct {
	Dense bool // most rows are proposed: reading large pieces of the log is worth it

	file    *os.File
	offsets offsets
	rows    roaring.IntIterable
}

// Candidates opens a segment for a filter. Only entries of packs are wanted, if it isn't nil; before bounds the offsets where proposed lines begin. It is nil where nothing is proposed. An error of it, or of
// Previous, says that the range has to be read from the log; it is ErrDamaged where the segment is the reason.
func (x *Index) Candidates(s *Segment, q *auditfile.Filter, packs []string, before int64) (*Candidates, error) {
	if !s.mayMatch(q) {
		return nil, nil
	}
	f, err := openRegular(x.catalog.Load().root, s.name)
	if err != nil {
		return nil, err
	}
	c := &Candidates{file: f, offsets: offsets{s: s, f: f}}
	rows, err := s.rows(f, q, packs)
	if err == nil {
		err = c.cut(rows, before)
	}
	if err != nil || rows.IsEmpty() {
		_ = f.Close()
		return nil, err
	}
	c.Dense = rows.GetCardinality()*16 > uint64(s.Rows)
	c.rows = rows.ReverseIterator()
	return c, nil
}

// cut removes the rows that begin at an offset or after it.
func (c *Candidates) cut(rows *roaring.Bitmap, before int64) (err error) {
	s := c.offsets.s
	if before >= s.To() || rows.IsEmpty() {
		return nil
	}
	first := sort.Search(int(s.Rows), func(row int) bool {
		begin, readErr := c.offsets.at(int64(row))
		if readErr != nil {
			err = readErr
		}
		return begin >= before
	})
	rows.RemoveRange(uint64(first), uint64(s.Rows))
	return err
}

// Previous proposes a range of bytes with one line. more is false at the end.
func (c *Candidates) Previous() (begin, end int64, more bool, err error) {
	if !c.rows.HasNext() {
		return 0, 0, false, nil
	}
	begin, end, err = c.offsets.of(c.rows.Next())
	return begin, end, err == nil, err
}

// Close closes the segment's file.
func (c *Candidates) Close() { _ = c.file.Close() }
