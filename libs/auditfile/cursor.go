package auditfile

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"github.com/rumi-ai/rumi/libs/audit"
)

// Position is a place between two lines: those before Offset have been read.
type Position struct {
	ID
	Offset int64
	Check  uint16 // of the file, at this offset; see Check
}

// Checked is how many of a file's first bytes make its Check, at most: its first line has a time in them.
const Checked = 64

// Check tells a file from others that had its name: after a rotation by the operator, for one, an offset means nothing. It is of the first bytes
// before offset, so that it stays the same while the file grows, and when it is compressed.
func Check(file io.ReaderAt, offset int64) (uint16, error) {
	first := make([]byte, min(offset, Checked))
	if _, err := io.ReadFull(io.NewSectionReader(file, 0, int64(len(first))), first); err != nil {
		return 0, fmt.Errorf("read the beginning of a file of the audit log: %w", err)
	}
	sum := crc32.ChecksumIEEE(first)
	return uint16(sum>>16) ^ uint16(sum), nil
}

// Cursor says how far somebody has read the log, or back to where: a position for each file that matters. A file without one hasn't been begun.
// To clients it is an opaque text.
type Cursor struct {
	Kind      Kind
	Day       Day        // what the reader is at; Positions are of this day and days before it
	Positions []Position // at most MaxPositions, no file twice
}

// Kind is what a cursor is for. A cursor of one kind means nothing to the other.
type Kind byte

// The kinds.
const (
	Forward Kind = 'f' // the next lines are the newer ones (GET /api/events)
	Back    Kind = 'b' // the next lines are the older ones (GET /api/audit)
)

// MaxPositions bounds the positions of a cursor, and MaxCursor its text, in bytes.
const (
	MaxPositions = 32
	MaxCursor    = 768
)

// cursorVersion is the first byte. A later form gets another one, so that a cursor of this form isn't misread.
const cursorVersion = 1

// ErrCursor is why a text is no cursor.
var ErrCursor = errors.New("it is no cursor of this version; start without one, or with one that was answered")

// Position is that of a file: its beginning, for one that hasn't been begun.
func (c *Cursor) Position(id ID) Position {
	for _, p := range c.Positions {
		if p.ID == id {
			return p
		}
	}
	return Position{ID: id}
}

// String is the text: version, kind, day, and for each position category, days before, offset, check; then a checksum. It is base64url.
//
// The checksum finds texts that were cut or mistyped. It is no signature, and needs none: what a reader may see is decided by his token for
// each entry, whatever the cursor says.
func (c Cursor) String() string {
	raw := []byte{cursorVersion, byte(c.Kind)}
	raw = binary.AppendUvarint(raw, uint64(c.Day))
	for _, p := range c.Positions {
		raw = append(raw, byte(p.Category))
		raw = binary.AppendUvarint(raw, uint64(c.Day-p.Day))
		raw = binary.AppendUvarint(raw, uint64(p.Offset))
		raw = binary.LittleEndian.AppendUint16(raw, p.Check)
	}
	raw = binary.LittleEndian.AppendUint32(raw, crc32.ChecksumIEEE(raw))
	return base64.RawURLEncoding.EncodeToString(raw)
}

// ParseCursor reads a text of String. It fails with ErrCursor, also for a cursor of another kind.
func ParseCursor(text string, kind Kind) (Cursor, error) {
	c := Cursor{Kind: kind}
	if len(text) > MaxCursor {
		return c, ErrCursor
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) < 2+1+4 {
		return c, ErrCursor
	}
	raw, sum := raw[:len(raw)-4], binary.LittleEndian.Uint32(raw[len(raw)-4:])
	if crc32.ChecksumIEEE(raw) != sum || raw[0] != cursorVersion || Kind(raw[1]) != kind {
		return c, ErrCursor
	}
	r := varints{raw[2:], true}
	c.Day = Day(r.next(maxDay))
	for len(r.rest) > 0 {
		id := ID{audit.Category(r.rest[0]), 0}
		r.rest = r.rest[1:]
		id.Day = c.Day - Day(r.next(uint64(c.Day)))
		known := id.Category.String() != "" && !slices.ContainsFunc(c.Positions, func(p Position) bool { return p.ID == id })
		c.Positions = append(c.Positions, Position{id, int64(r.next(1<<62 - 1)), r.check()})
		if !r.ok || !known || len(c.Positions) > MaxPositions {
			return Cursor{}, ErrCursor
		}
	}
	if !r.ok {
		return Cursor{}, ErrCursor
	}
	return c, nil
}

func (v *varints) check() uint16 {
	if len(v.rest) < 2 {
		v.rest, v.ok = nil, false
		return 0
	}
	check := binary.LittleEndian.Uint16(v.rest)
	v.rest = v.rest[2:]
	return check
}

// maxDay is in the year 9999: later ones have no name that ParseName reads.
const maxDay = 2932896

// varints reads numbers; ok becomes false at the first that is none, or is larger than its bound.
type varints struct {
	rest []byte
	ok   bool
}

func (v *varints) next(bound uint64) uint64 {
	n, size := binary.Uvarint(v.rest)
	if size <= 0 || n > bound {
		v.rest, v.ok = nil, false
		return 0
	}
	v.rest = v.rest[size:]
	return n
}
