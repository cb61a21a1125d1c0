package archive

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Signatures and sizes of the format's records.
const (
	endSignature        = 0x06054b50
	centralSignature    = 0x02014b50
	localSignature      = 0x04034b50
	descriptorSignature = 0x08074b50

	endSize     = 22
	centralSize = 46
	localSize   = 30

	maxComment   = 1<<16 - 1
	maxDirectory = 16 << 20 // bytes of a central directory
)

// Flags of an entry, and the methods that are accepted.
const (
	flagOptions    = 1<<1 | 1<<2 // how hard the compressor tried
	flagDescriptor = 1 << 3      // sizes and checksum stand behind the data
	flagUTF8       = 1 << 11

	methodStored   = 0
	methodDeflated = 8
)

// Extra fields that matter.
const (
	extraZIP64       = 0x0001
	extraUnicodePath = 0x7075 // Info-ZIP's: another name for the same entry
)

var little = binary.LittleEndian

// readDirectory reads the central directory, which must lie right before the end records, and these at the very end of the
// archive. start is where it begins.
func readDirectory(r io.ReaderAt, size int64) (entries []entry, start int64, err error) {
	end, at, err := findEnd(r, size)
	if err != nil {
		return nil, 0, err
	}
	where, err := locate(r, end, at)
	if err != nil {
		return nil, 0, err
	}
	directory := make([]byte, where.length)
	if _, err := r.ReadAt(directory, where.offset); err != nil {
		return nil, 0, fmt.Errorf("can't be read: %w", err)
	}
	entries = make([]entry, 0, min(where.count, where.length/centralSize))
	for range where.count {
		var e entry
		if directory, err = e.read(directory); err != nil {
			return nil, 0, err
		}
		entries = append(entries, e)
	}
	if len(directory) != 0 {
		return nil, 0, errors.New("central directory longer than its entries")
	}
	return entries, where.offset, nil
}

// findEnd finds the end record: the one whose comment ends where the archive ends. Readers look for it from the end, but differ
// in whether they check the comment's length. An archive with a second candidate, or with the signature in the comment, would
// have two directories for two readers, and is refused.
func findEnd(r io.ReaderAt, size int64) (end []byte, at int64, err error) {
	tail := make([]byte, min(size, endSize+maxComment))
	if _, err := r.ReadAt(tail, size-int64(len(tail))); err != nil && err != io.EOF {
		return nil, 0, fmt.Errorf("can't be read: %w", err)
	}
	for i := len(tail) - endSize; i >= 0; i-- {
		if little.Uint32(tail[i:]) != endSignature || i+endSize+int(little.Uint16(tail[i+20:])) != len(tail) {
			continue
		}
		if end != nil {
			return nil, 0, errors.New("two ends")
		}
		end, at = tail[i:], size-int64(len(tail)-i)
	}
	if end == nil {
		return nil, 0, errors.New("no end record at the end")
	}
	if bytes.Contains(end[endSize:], little.AppendUint32(nil, endSignature)) {
		return nil, 0, errors.New("two ends")
	}
	return end, at, nil
}

// read takes one entry off the beginning of a central directory, and returns the rest.
func (e *entry) read(directory []byte) (rest []byte, err error) {
	if len(directory) < centralSize || little.Uint32(directory) != centralSignature {
		return nil, errors.New("central directory is damaged")
	}
	d := directory
	nameLength, extraLength, commentLength := int(little.Uint16(d[28:])), int(little.Uint16(d[30:])), int(little.Uint16(d[32:]))
	if len(d) < centralSize+nameLength+extraLength+commentLength {
		return nil, errors.New("central directory is damaged")
	}
	raw := string(d[centralSize : centralSize+nameLength])
	*e = entry{
		raw:    raw,
		name:   raw,
		mode:   little.Uint32(d[38:]) >> 16,
		dos:    d[38],
		flags:  little.Uint16(d[8:]),
		method: little.Uint16(d[10:]),
		crc:    little.Uint32(d[16:]),
		packed: int64(little.Uint32(d[20:])),
		size:   int64(little.Uint32(d[24:])),
		header: int64(little.Uint32(d[42:])),
	}
	extra := d[centralSize+nameLength : centralSize+nameLength+extraLength]
	disk, err := e.applyZIP64(extra, little.Uint16(d[34:]))
	switch {
	case err != nil:
		return nil, err
	case disk != 0:
		return nil, errors.New("in several parts")
	case e.flags&^(flagOptions|flagDescriptor|flagUTF8) != 0:
		return nil, fmt.Errorf("%s is encrypted or of a kind that is not supported", printable(e.name))
	case e.method != methodStored && e.method != methodDeflated:
		return nil, fmt.Errorf("compression method %d of %s is not supported", e.method, printable(e.name))
	case e.method == methodStored && e.packed != e.size:
		return nil, fmt.Errorf("two sizes of %s", printable(e.name))
	case e.flags&flagUTF8 != 0 && !utf8.ValidString(e.name), strings.ContainsRune(e.name, 0):
		return nil, fmt.Errorf("name %s", printable(e.name))
	}
	if e.name, err = e.nameBy(extra); err != nil {
		return nil, err
	}
	return d[centralSize+nameLength+extraLength+commentLength:], nil
}

// nameBy is the entry's name by the extra fields of one of its headers: the one in that header unless a field has it in UTF-8. A
// second name, which some readers would take for the first, is refused.
func (e *entry) nameBy(extra []byte) (string, error) {
	field, err := extraField(extra, extraUnicodePath)
	if err != nil {
		return "", fmt.Errorf("extra fields of %s: %w", printable(e.name), err)
	}
	if field == nil {
		return e.name, nil
	}
	name, ok := unicodeName(field, e.raw)
	if !ok || e.name != e.raw && name != e.name {
		return "", fmt.Errorf("two names of %s", printable(e.name))
	}
	return name, nil
}

// extraField finds the field of a kind; nil when there is none. Some writers pad extra fields with a few zeros.
func extraField(extra []byte, kind uint16) ([]byte, error) {
	var found []byte
	for len(extra) >= 4 {
		length := int(little.Uint16(extra[2:]))
		if len(extra) < 4+length {
			return nil, errors.New("damaged")
		}
		if little.Uint16(extra) == kind {
			if found != nil {
				return nil, errors.New("one twice")
			}
			found = extra[4 : 4+length]
		}
		extra = extra[4+length:]
	}
	for _, b := range extra {
		if b != 0 {
			return nil, errors.New("damaged")
		}
	}
	return found, nil
}
