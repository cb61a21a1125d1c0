package auditindex

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/auditfile"
)

// A segment is, in this order: data (row offsets, dictionary of terms, dictionary of trigrams, postings), meta, trailer. Numbers are little endian.
// Meta is read when the segment is opened, and checked as a whole; data is read by pages, each with a checksum in meta.
const (
	magic       = 0x31786469696d7572 // "rumiidx1"; a later form gets another one, and segments of this form are made anew
	pageSize    = 4 << 10
	entrySize   = 16                 // of a dictionary
	entriesPage = 256                // entries between two fences
	blockRows   = 256                // rows that share a time range and a set of trigrams
	edge        = 4 << 10            // bytes at either end of the range whose sums tell whether the file is the one that was indexed
	maxMeta     = 16 << 20           // bytes
	maxRows     = 1 << 24            // of a segment
	maxData     = math.MaxUint32 / 4 // bytes
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// fixed is the part of meta whose size doesn't vary.
type fixed struct {
	Category uint8
	Day      int32
	From, To int64 // the range of bytes, whole lines

	Rows    uint32 // entries
	Foreign uint32 // lines that are none
	Terms   uint32 // entries of the dictionary: a term, and the rows that have it
	Grams   uint32 // likewise: three bytes of text, and the blocks that have them
	Posts   uint32 // bytes of the postings

	Sum  uint64 // of all bytes of the range
	Head uint64 // of its first bytes
	Tail uint64 // of its last bytes
}

// meta is what of a segment stays in memory.
type meta struct {
	fixed
	Times      []span   // for each block
	TermFences []uint64 // the key of each entriesPage-th entry
	GramFences []uint64
	Pages      []uint32 // checksums
}

// span is a range of times, in microseconds since 1970: both ends are included.
type span struct{ Min, Max int64 }

type trailer struct {
	MetaSize uint32
	MetaSum  uint32
	Magic    uint64
}

const trailerSize = 16

// pages is how many pages n bytes have.
func pages(n, size int64) int64 { return (n + size - 1) / size }

// encode completes meta for data and appends it and the trailer to data.
func (m *meta) encode(data []byte) ([]byte, error) {
	for at := 0; at < len(data); at += pageSize {
		m.Pages = append(m.Pages, crc32.Checksum(data[at:min(at+pageSize, len(data))], castagnoli))
	}
	begin := len(data)
	for _, part := range []any{m.fixed, m.Times, m.TermFences, m.GramFences, m.Pages} {
		var err error
		if data, err = binary.Append(data, binary.LittleEndian, part); err != nil {
			return nil, fmt.Errorf("encode segment: %w", err)
		}
	}
	end := trailer{uint32(len(data) - begin), crc32.Checksum(data[begin:], castagnoli), magic}
	return binary.Append(data, binary.LittleEndian, end)
}

// ErrDamaged is why a segment can't be used. It is made anew.
var ErrDamaged = errors.New("the segment is damaged")

func damaged(why string) error { return fmt.Errorf("%w: %s", ErrDamaged, why) }

// decodeMeta reads meta of a segment of size bytes. It allocates no more than the file has.
func decodeMeta(f io.ReaderAt, size int64) (*meta, error) {
	if size < trailerSize {
		return nil, damaged("it is too short")
	}
	raw := make([]byte, trailerSize)
	if _, err := f.ReadAt(raw, size-trailerSize); err != nil {
		return nil, err
	}
	var end trailer
	if _, err := binary.Decode(raw, binary.LittleEndian, &end); err != nil {
		return nil, err
	}
	if end.Magic != magic || end.MetaSize > maxMeta || int64(end.MetaSize) > size-trailerSize {
		return nil, damaged("its trailer is none of this version")
	}
	raw = make([]byte, end.MetaSize)
	dataSize := size - trailerSize - int64(end.MetaSize)
	if _, err := f.ReadAt(raw, dataSize); err != nil {
		return nil, err
	}
	if crc32.Checksum(raw, castagnoli) != end.MetaSum {
		return nil, damaged("the checksum of its meta data differs")
	}
	return parseMeta(raw, dataSize)
}

// parseMeta reads what decodeMeta has checked. The checksum doesn't prove that a program of this project wrote it, so each number is bounded.
func parseMeta(raw []byte, dataSize int64) (*meta, error) {
	m := &meta{}
	n, err := binary.Decode(raw, binary.LittleEndian, &m.fixed)
	if err != nil {
		return nil, damaged("its meta data are too short")
	}
	if err := m.check(dataSize); err != nil {
		return nil, err
	}
	m.Times = make([]span, pages(int64(m.Rows), blockRows))
	m.TermFences = make([]uint64, pages(int64(m.Terms), entriesPage))
	m.GramFences = make([]uint64, pages(int64(m.Grams), entriesPage))
	m.Pages = make([]uint32, pages(dataSize, pageSize))
	if want := n + binary.Size(m.Times) + binary.Size(m.TermFences) + binary.Size(m.GramFences) + binary.Size(m.Pages); len(raw) != want {
		return nil, damaged("its meta data have another length than their numbers say")
	}
	r := bytes.NewReader(raw[n:])
	for _, part := range []any{m.Times, m.TermFences, m.GramFences, m.Pages} {
		if err := binary.Read(r, binary.LittleEndian, part); err != nil {
			return nil, damaged(err.Error())
		}
	}
	return m, nil
}

func (f *fixed) check(dataSize int64) error {
	switch {
	case audit.Category(f.Category).String() == "" || f.Day < 0:
		return damaged("it is of no category or day")
	case f.From < 0 || f.To <= f.From || f.To-f.From > math.MaxUint32:
		return damaged("its range is impossible")
	case f.Rows > maxRows || f.Terms > maxData || f.Grams > maxData:
		return damaged("its numbers are too large")
	case f.dataSize() != dataSize:
		return damaged("its data have another length than its numbers say")
	}
	return nil
}

func (f *fixed) id() auditfile.ID {
	return auditfile.ID{Category: audit.Category(f.Category), Day: auditfile.Day(f.Day)}
}

// The places of the sections of data.
func (f *fixed) termsAt() int64  { return int64(f.Rows) * 4 }
func (f *fixed) gramsAt() int64  { return f.termsAt() + int64(f.Terms)*entrySize }
func (f *fixed) postsAt() int64  { return f.gramsAt() + int64(f.Grams)*entrySize }
func (f *fixed) dataSize() int64 { return f.postsAt() + int64(f.Posts) }

// name is the segment's file name.
func (f *fixed) name() string {
	return fmt.Sprintf("%s_%s.%016d-%016d%s", f.id().Category, f.id().Day, f.From, f.To, extension)
}

const extension = ".seg"

// readPages reads n bytes of data at an offset, and checks the pages that they lie in.
func (m *meta) readPages(f io.ReaderAt, at, n int64) ([]byte, error) {
	size := m.dataSize()
	if n < 0 || at < 0 || at+n > size {
		return nil, damaged("it points beyond its end")
	}
	first := at / pageSize * pageSize
	raw := make([]byte, min(pages(at+n, pageSize)*pageSize, size)-first)
	if _, err := f.ReadAt(raw, first); err != nil {
		return nil, fmt.Errorf("read segment: %w", err)
	}
	for p := int64(0); p < int64(len(raw)); p += pageSize {
		if crc32.Checksum(raw[p:min(p+pageSize, int64(len(raw)))], castagnoli) != m.Pages[(first+p)/pageSize] {
			return nil, damaged("the checksum of a page differs")
		}
	}
	return raw[at-first : at-first+n], nil
}
