package archive

import (
	"errors"
	"fmt"
	"io"
)

// The records of ZIP64, and the values of fields whose number is in such a record instead.
const (
	end64Signature   = 0x06064b50
	locatorSignature = 0x07064b50
	end64Size        = 56 // without extensible data
	end64Fields      = 44 // what the record says of its own size
	locatorSize      = 20
	unknown16        = 1<<16 - 1
	unknown32        = 1<<32 - 1
	zip64NoDisk      = 24 // bytes of an extra field with both sizes and the offset
	zip64Whole       = 28
)

// location says where the central directory lies, and how many entries it has.
type location struct{ count, length, offset int64 }

// locate finds the central directory by an end record, which lies at at, and by the ZIP64 records before it, if there are any.
// The directory must lie right before the first of these records: then a reader that ignores ZIP64 finds the same one.
func locate(r io.ReaderAt, end []byte, at int64) (location, error) {
	disk, diskOfDirectory := little.Uint16(end[4:]), little.Uint16(end[6:])
	count, total := int64(little.Uint16(end[8:])), int64(little.Uint16(end[10:]))
	where := location{count, int64(little.Uint32(end[12:])), int64(little.Uint32(end[16:]))}
	where64, found, err := locate64(r, at)
	if err != nil {
		return location{}, err
	}
	if found {
		at -= locatorSize + end64Size
		if !allOf(unknown16, where64.count, count, total) || !allOf(unknown32, where64.length, where.length) || !allOf(unknown32, where64.offset, where.offset) {
			return location{}, errors.New("end record and ZIP64 end record disagree")
		}
		where, total = where64, where64.count
		disk, diskOfDirectory = diskNumber(disk), diskNumber(diskOfDirectory)
	}
	switch {
	case disk != 0 || diskOfDirectory != 0:
		return location{}, errors.New("in several parts")
	case !found && (where.length == unknown32 || where.offset == unknown32):
		return location{}, errors.New("the ZIP64 end record is missing")
	case where.count != total || where.offset+where.length != at:
		return location{}, errors.New("central directory not where the end record says")
	case where.length > maxDirectory:
		return location{}, errors.New("central directory too large")
	}
	return where, nil
}

// allOf says whether each value in the end record is the one in the ZIP64 record, or is the placeholder that refers to it.
func allOf(unknown, want int64, values ...int64) bool {
	for _, value := range values {
		if value != want && value != unknown {
			return false
		}
	}
	return true
}

// diskNumber is the number of an archive's part; the placeholder for ZIP64 counts as 0, because the number there was checked.
func diskNumber(disk uint16) uint16 {
	if disk == unknown16 {
		return 0
	}
	return disk
}

// locate64 reads the ZIP64 records that lie before an end record at at: the ZIP64 end record, and its locator right behind it. Readers look
// for the locator there and nowhere else. found is false where there is none.
func locate64(r io.ReaderAt, at int64) (where location, found bool, err error) {
	begin, found, err := readLocator(r, at)
	if err != nil || !found {
		return location{}, false, err
	}
	var record [end64Size]byte
	if _, err := r.ReadAt(record[:], begin); err != nil {
		return location{}, false, fmt.Errorf("can't be read: %w", err)
	}
	count, total := little.Uint64(record[24:]), little.Uint64(record[32:])
	length, offset := little.Uint64(record[40:]), little.Uint64(record[48:])
	switch {
	case little.Uint32(record[:]) != end64Signature || little.Uint64(record[4:]) != end64Fields:
		return location{}, false, errors.New("ZIP64 end record is damaged or of a kind that is not supported")
	case little.Uint32(record[16:]) != 0 || little.Uint32(record[20:]) != 0:
		return location{}, false, errors.New("in several parts")
	case count != total || count > maxDirectory || length > uint64(begin) || offset > uint64(begin):
		return location{}, false, errors.New("central directory not where the ZIP64 end record says")
	}
	return location{int64(count), int64(length), int64(offset)}, true, nil
}

// readLocator reads the locator before an end record at at. begin is where it says that the ZIP64 end record begins, which must be right
// before the locator: a record elsewhere would be found by some readers only.
func readLocator(r io.ReaderAt, at int64) (begin int64, found bool, err error) {
	if at < locatorSize {
		return 0, false, nil
	}
	var locator [locatorSize]byte
	if _, err := r.ReadAt(locator[:], at-locatorSize); err != nil {
		return 0, false, fmt.Errorf("can't be read: %w", err)
	}
	if little.Uint32(locator[:]) != locatorSignature {
		return 0, false, nil
	}
	begin = at - locatorSize - end64Size
	if begin < 0 || little.Uint64(locator[8:]) != uint64(begin) {
		return 0, false, errors.New("ZIP64 end record not where its locator says, or longer than usual")
	}
	if little.Uint32(locator[4:]) != 0 || little.Uint32(locator[16:]) > 1 {
		return 0, false, errors.New("in several parts")
	}
	return begin, true, nil
}

// applyZIP64 replaces those numbers of an entry that are in its ZIP64 field. disk is the part in which the entry begins. The
// field must have exactly the numbers that are needed, or all of them: other forms are read differently by different readers.
func (e *entry) applyZIP64(extra []byte, disk uint16) (uint16, error) {
	numbers := []*int64{&e.size, &e.packed, &e.header}
	var missing []*int64
	for _, n := range numbers {
		if *n == unknown32 {
			missing = append(missing, n)
		}
	}
	if len(missing) == 0 && disk != unknown16 {
		return disk, nil
	}
	field, err := extraField(extra, extraZIP64)
	if err != nil {
		return 0, fmt.Errorf("extra fields of %s: %w", printable(e.name), err)
	}
	need := 8 * len(missing)
	if disk == unknown16 {
		need += 4
	}
	switch {
	case len(field) == need:
	case len(field) == zip64NoDisk && disk != unknown16, len(field) == zip64Whole:
		missing = numbers
	default:
		return 0, fmt.Errorf("ZIP64 field of %s has not the numbers that it needs", printable(e.name))
	}
	if field, err = e.setNumbers(missing, field); err != nil {
		return 0, err
	}
	if len(field) < 4 {
		return disk, nil
	}
	if little.Uint32(field) != 0 {
		return 0, errors.New("in several parts")
	}
	return diskNumber(disk), nil
}

// setNumbers sets numbers of an entry from its ZIP64 field, and returns the rest of the field. A number that the header has as well must be
// the same.
func (e *entry) setNumbers(numbers []*int64, field []byte) (rest []byte, err error) {
	for _, n := range numbers {
		value := little.Uint64(field)
		if *n != unknown32 && uint64(*n) != value {
			return nil, fmt.Errorf("two sizes of %s", printable(e.name))
		}
		if value >= unknown32 {
			return nil, fmt.Errorf("%s has 4 GiB or more, or lies behind them", printable(e.name))
		}
		*n, field = int64(value), field[8:]
	}
	return field, nil
}
