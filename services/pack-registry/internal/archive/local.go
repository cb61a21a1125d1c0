package archive

import (
	"errors"
	"fmt"
	"io"
)

// checkLocalHeaders reads each entry's local header, compares it with the central directory and fills in where the data
// lies. The entries must fill the archive from its first byte to the central directory, which begins at end: nothing may
// overlap and nothing may lie in between.
func checkLocalHeaders(r io.ReaderAt, end int64, entries []entry) error {
	sorted := byPosition(entries)
	next := int64(0)
	for i, e := range sorted {
		if e.header != next {
			return errors.New("entries overlap, or something lies between them")
		}
		if next = end; i+1 < len(sorted) {
			next = sorted[i+1].header
		}
		wide, err := e.readLocal(r, end)
		if err != nil {
			return err
		}
		trailer := next - e.data - e.packed
		if trailer < 0 {
			return errors.New("entries overlap, or something lies between them")
		}
		if e.flags&flagDescriptor == 0 {
			if trailer != 0 {
				return errors.New("entries overlap, or something lies between them")
			}
		} else if err := e.checkDescriptor(r, trailer, wide); err != nil {
			return err
		}
	}
	if next != end {
		return errors.New("entries overlap, or something lies between them")
	}
	return nil
}

// readLocal compares an entry's local header. wide says that its sizes have 8 bytes, so those behind the data too.
func (e *entry) readLocal(r io.ReaderAt, end int64) (wide bool, err error) {
	var fixed [localSize]byte
	if e.header+localSize > end {
		return false, errors.New("entries overlap, or something lies between them")
	}
	if _, err := r.ReadAt(fixed[:], e.header); err != nil {
		return false, fmt.Errorf("can't be read: %w", err)
	}
	if little.Uint32(fixed[:]) != localSignature {
		return false, fmt.Errorf("no local header of %s", show(e.name))
	}
	nameLength, extraLength := int(little.Uint16(fixed[26:])), int(little.Uint16(fixed[28:]))
	e.data = e.header + localSize + int64(nameLength+extraLength)
	if e.data+e.packed > end {
		return false, errors.New("entries overlap, or something lies between them")
	}
	variable := make([]byte, nameLength+extraLength)
	if _, err := r.ReadAt(variable, e.header+localSize); err != nil {
		return false, fmt.Errorf("can't be read: %w", err)
	}
	name, extra := string(variable[:nameLength]), variable[nameLength:]
	switch {
	case name != e.name:
		return false, disagree(e, "name")
	case little.Uint16(fixed[6:]) != e.flags:
		return false, disagree(e, "flags")
	case little.Uint16(fixed[8:]) != e.method:
		return false, disagree(e, "method")
	}
	if err := e.checkExtra(extra); err != nil {
		return false, err
	}
	crc, packed, size := little.Uint32(fixed[14:]), int64(little.Uint32(fixed[18:])), int64(little.Uint32(fixed[22:]))
	sizes64, err := extraField(extra, extraZIP64)
	if err != nil {
		return false, fmt.Errorf("extra fields of %s: %w", show(e.name), err)
	}
	wide = sizes64 != nil
	if wide && packed == unknown32 && size == unknown32 {
		if len(sizes64) != 16 {
			return false, disagree(e, "size")
		}
		size, packed = int64(little.Uint64(sizes64)), int64(little.Uint64(sizes64[8:]))
	}
	if e.flags&flagDescriptor != 0 && crc == 0 && packed == 0 && size == 0 {
		return wide, nil // all three stand behind the data
	}
	if crc != e.crc || packed != e.packed || size != e.size {
		return false, disagree(e, "size or checksum")
	}
	return wide, nil
}

// checkDescriptor compares what stands behind an entry's data: a checksum and two sizes of 4 or 8 bytes, with or without a
// signature.
func (e *entry) checkDescriptor(r io.ReaderAt, length int64, wide bool) error {
	want := map[int64]bool{12: !wide, 16: !wide, 20: wide, 24: wide}
	if !want[length] {
		return disagree(e, "size")
	}
	var buf [24]byte
	d := buf[:length]
	if _, err := r.ReadAt(d, e.data+e.packed); err != nil {
		return fmt.Errorf("can't be read: %w", err)
	}
	if length == 16 || length == 24 {
		if little.Uint32(d) != descriptorSignature {
			return disagree(e, "size")
		}
		d = d[4:]
	}
	crc, packed, size := little.Uint32(d), int64(0), int64(0)
	if wide {
		packed, size = int64(little.Uint64(d[4:])), int64(little.Uint64(d[12:]))
	} else {
		packed, size = int64(little.Uint32(d[4:])), int64(little.Uint32(d[8:]))
	}
	if crc != e.crc || packed != e.packed || size != e.size {
		return disagree(e, "size or checksum")
	}
	return nil
}
