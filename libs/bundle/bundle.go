// Package bundle has the format of approval's bundles: files with many small blobs each, so that an approval of a pack with many small
// files doesn't wait for the disk once a file. approval writes and reads them; a backup reads which blobs they hold.
//
// Format: the contents one after another; the index, with 40 bytes for each blob (its SHA-256, and its size as a big-endian number); the
// footer: magic, the number of blobs (big-endian), and the SHA-256 of the index.
package bundle

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
)

const (
	magic      = "rumibdl1"
	indexEntry = sha256.Size + 8
	footer     = len(magic) + 8 + sha256.Size
)

// ErrTorn says that a file is not a whole bundle: the machine lost power while it was written.
var ErrTorn = errors.New("not a whole bundle")

// Sum is the name of a blob: the SHA-256 of its content.
type Sum = [sha256.Size]byte

// Entry says where a blob lies in its bundle.
type Entry struct {
	Sum          Sum
	Offset, Size int64 // bytes
}

// AppendEntry appends a blob's line of the index.
func AppendEntry(index []byte, name Sum, size int64) []byte {
	index = append(index, name[:]...)
	return binary.BigEndian.AppendUint64(index, uint64(size))
}

// AppendFooter appends what stands behind an index of AppendEntry.
func AppendFooter(out, index []byte) []byte {
	out = append(out, magic...)
	out = binary.BigEndian.AppendUint64(out, uint64(len(index)/indexEntry))
	check := sha256.Sum256(index)
	return append(out, check[:]...)
}

// MaxTail is the size of index and footer of a bundle with a number of blobs, in bytes. A reader that has this much of the end of a bundle
// has its index.
func MaxTail(blobs int) int64 { return int64(blobs)*indexEntry + int64(footer) }

// ReadIndex reads which blobs a bundle of size bytes holds, in the order of their contents. It reads from the end of the file only. Every
// number in the file is checked against size before it is used. A file that isn't a whole bundle is ErrTorn.
func ReadIndex(f io.ReaderAt, size int64) ([]Entry, error) {
	end := make([]byte, footer)
	if size < int64(footer) {
		return nil, ErrTorn
	}
	if _, err := f.ReadAt(end, size-int64(footer)); err != nil {
		return nil, err
	}
	count := binary.BigEndian.Uint64(end[len(magic):])
	payload := size - int64(footer)
	if string(end[:len(magic)]) != magic || count > uint64(payload)/indexEntry {
		return nil, ErrTorn
	}
	index := make([]byte, count*indexEntry)
	contents := payload - int64(len(index))
	if _, err := f.ReadAt(index, contents); err != nil {
		return nil, err
	}
	if check := sha256.Sum256(index); string(check[:]) != string(end[len(magic)+8:]) {
		return nil, ErrTorn
	}
	return locate(index, contents)
}

// locate gives each blob of the index its place; together they must fill the contents.
func locate(index []byte, contents int64) ([]Entry, error) {
	entries := make([]Entry, 0, len(index)/indexEntry)
	offset := int64(0)
	for ; len(index) > 0; index = index[indexEntry:] {
		size := binary.BigEndian.Uint64(index[sha256.Size:])
		if size > uint64(contents-offset) {
			return nil, ErrTorn
		}
		entries = append(entries, Entry{Sum(index[:sha256.Size]), offset, int64(size)})
		offset += int64(size)
	}
	if offset != contents {
		return nil, ErrTorn
	}
	return entries, nil
}
