package archive

import (
	"errors"
	"fmt"
	"io"
)

// checkLocalHeaders compares each entry's local header with the central directory, and sets where its data lies. The entries
// must fill the archive from its first byte to the central directory, which begins at end. If entries could overlap, or bytes
// could lie between them, a reader that walks the local headers would find other files than one that reads the directory.
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
		if err := e.readLocal(r, end); err != nil {
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
		} else if err := e.checkDescriptor(r, trailer); err != nil {
			return err
		}
	}
	if next != end {
		return errors.New("entries overlap, or something lies between them")
	}
	return nil
}

// readLocal compares an entry's local header with the central directory, and finds its data. Some readers go by the one, some by the
// other: where they disagree, an archive could show a reviewer one file and unpack another.
func (e *entry) readLocal(r io.ReaderAt, end int64) error {
	fixed, variable, err := e.localHeader(r, end)
	if err != nil {
		return err
	}
	nameLength := little.Uint16(fixed[26:])
	name, extra := string(variable[:nameLength]), variable[nameLength:]
	switch {
	case name != e.raw:
		return disagree(e, "name")
	case little.Uint16(fixed[6:]) != e.flags:
		return disagree(e, "flags")
	case little.Uint16(fixed[8:]) != e.method:
		return disagree(e, "method")
	}
	if name, err = e.nameBy(extra); err != nil {
		return err
	}
	if name != e.name {
		return disagree(e, "name")
	}
	return e.compareSizes(fixed, extra)
}

// localHeader reads an entry's local header, the part of fixed length and what follows it (name and extra fields), and sets where the data
// begins. All of the header and the data must lie before end.
func (e *entry) localHeader(r io.ReaderAt, end int64) (fixed, variable []byte, err error) {
	fixed = make([]byte, localSize)
	if e.header+localSize > end {
		return nil, nil, errors.New("entries overlap, or something lies between them")
	}
	if _, err := r.ReadAt(fixed, e.header); err != nil {
		return nil, nil, fmt.Errorf("can't be read: %w", err)
	}
	if little.Uint32(fixed) != localSignature {
		return nil, nil, fmt.Errorf("no local header of %s", printable(e.name))
	}
	variable = make([]byte, int(little.Uint16(fixed[26:]))+int(little.Uint16(fixed[28:])))
	e.data = e.header + localSize + int64(len(variable))
	if e.data+e.packed > end {
		return nil, nil, errors.New("entries overlap, or something lies between them")
	}
	if _, err := r.ReadAt(variable, e.header+localSize); err != nil {
		return nil, nil, fmt.Errorf("can't be read: %w", err)
	}
	return fixed, variable, nil
}

// compareSizes compares the sizes and the checksum of a local header with those of the central directory.
func (e *entry) compareSizes(fixed, extra []byte) error {
	crc, packed, size := little.Uint32(fixed[14:]), int64(little.Uint32(fixed[18:])), int64(little.Uint32(fixed[22:]))
	sizes64, err := extraField(extra, extraZIP64)
	if err != nil {
		return fmt.Errorf("extra fields of %s: %w", printable(e.name), err)
	}
	if sizes64 != nil && packed == unknown32 && size == unknown32 {
		if len(sizes64) != 16 {
			return disagree(e, "size")
		}
		size, packed = int64(little.Uint64(sizes64)), int64(little.Uint64(sizes64[8:]))
	}
	// If the numbers follow the data, the header may have 0 for each. Writers fill in those that they know beforehand, so any may be there.
	later := e.flags&flagDescriptor != 0
	agree := func(here int64, central int64) bool { return here == central || later && here == 0 }
	if !agree(int64(crc), int64(e.crc)) || !agree(packed, e.packed) || !agree(size, e.size) {
		return disagree(e, "size or checksum")
	}
	return nil
}

// checkDescriptor compares the data descriptor that follows an entry's data: a checksum and two sizes of 4 or 8 bytes, with or
// without a signature. Its length says which of the four forms it is. The format wants sizes of 8 bytes exactly where the local
// header has a ZIP64 field, but not all writers obey. Nothing can be hidden in any form, because every byte of it is known
// beforehand.
func (e *entry) checkDescriptor(r io.ReaderAt, length int64) error {
	var buf [24]byte
	if length != 12 && length != 16 && length != 20 && length != 24 {
		return disagree(e, "size")
	}
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
	if length >= 20 {
		packed, size = int64(little.Uint64(d[4:])), int64(little.Uint64(d[12:]))
	} else {
		packed, size = int64(little.Uint32(d[4:])), int64(little.Uint32(d[8:]))
	}
	if crc != e.crc || packed != e.packed || size != e.size {
		return disagree(e, "size or checksum")
	}
	return nil
}
