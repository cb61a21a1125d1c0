package blob

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A bundle is a file with the small blobs of one approval. A pack has many small files, and to create and sync each by itself would wait
// for the disk's journal each time.
//
// Format: the contents one after another; the index, with 40 bytes for each blob (its SHA-256, and its size as a big-endian number); the
// footer: magic, the number of blobs (big-endian), and the SHA-256 of the index. A bundle gets its name after it is synced, and is never
// changed after that.
const (
	magic      = "rumibdl1"
	indexEntry = sha256.Size + 8
	footer     = len(magic) + 8 + sha256.Size
)

// maxSmall is the size of the largest blob that goes into a bundle, in bytes.
const maxSmall = 128 << 10

// sum is the name of a blob: the SHA-256 of its content.
type sum [sha256.Size]byte

func parseSum(digits string) (s sum, err error) {
	raw, err := hex.DecodeString(digits)
	if err != nil || len(raw) != len(s) {
		return sum{}, fmt.Errorf("not a SHA-256: %q", digits)
	}
	return sum(raw), nil
}

func (s sum) String() string { return hex.EncodeToString(s[:]) }

// location says where a small blob lies.
type location struct {
	bundle       string // its name in the folder bundles
	offset, size int64
}

// bundle is a bundle that is being written, in incoming.
type bundle struct {
	store   *Store
	temp    string // relative to the store
	file    *os.File
	out     *bufio.Writer
	index   []byte
	entries map[sum]location
	size    int64 // of the contents
}

// newBundle begins a bundle; it ends with name or discard.
func (s *Store) newBundle() (*bundle, error) {
	temp, file, err := s.create(unix.O_RDWR)
	if err != nil {
		return nil, err
	}
	return &bundle{store: s, temp: temp, file: file, out: bufio.NewWriterSize(file, 256<<10), entries: map[sum]location{}}, nil
}

// add appends a blob that the bundle doesn't have yet.
func (b *bundle) add(name sum, content []byte) error {
	if _, err := b.out.Write(content); err != nil {
		return err
	}
	b.entries[name] = location{offset: b.size, size: int64(len(content))}
	b.index = append(b.index, name[:]...)
	b.index = binary.BigEndian.AppendUint64(b.index, uint64(len(content)))
	b.size += int64(len(content))
	return nil
}

// open reads a blob of the bundle, until the bundle is named or discarded. ok is false where the bundle doesn't have it.
func (b *bundle) open(name sum) (io.ReadCloser, bool, error) {
	p, ok := b.entries[name]
	if !ok {
		return nil, false, nil
	}
	return io.NopCloser(io.NewSectionReader(b.file, p.offset, p.size)), true, b.out.Flush()
}

// sync writes the index and brings the file to the disk.
func (b *bundle) sync() error {
	end := binary.BigEndian.AppendUint64([]byte(magic), uint64(len(b.entries)))
	check := sha256.Sum256(b.index)
	_, _ = b.out.Write(b.index) // Flush has the error
	_, _ = b.out.Write(append(end, check[:]...))
	if err := b.out.Flush(); err != nil {
		return err
	}
	return b.file.Sync()
}

// name gives a synced bundle its name. Its blobs count as stored only when the folder is synced, too.
func (b *bundle) name() (name string, err error) {
	name = filepath.Base(b.temp)
	if err := b.file.Close(); err != nil {
		return "", err
	}
	return name, b.store.root.Rename(b.temp, bundles+"/"+name)
}

// discard removes a bundle that has no name.
func (b *bundle) discard() {
	_ = b.file.Close()
	_ = b.store.root.Remove(b.temp) // what stays is removed by Open
}

// errTorn says that a file is not a whole bundle: the machine lost power while it was written.
var errTorn = errors.New("not a whole bundle")

// readIndex reads which blobs a bundle holds. Every number in the file is checked against the file's size before it is used.
func (s *Store) readIndex(name string) (map[sum]location, error) {
	f, err := s.openFile(bundles + "/" + name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	end := make([]byte, footer)
	if info.Size() < int64(footer) {
		return nil, errTorn
	}
	if _, err := f.ReadAt(end, info.Size()-int64(footer)); err != nil {
		return nil, err
	}
	count := binary.BigEndian.Uint64(end[len(magic):])
	payload := info.Size() - int64(footer)
	if string(end[:len(magic)]) != magic || count > uint64(payload)/indexEntry {
		return nil, errTorn
	}
	index := make([]byte, count*indexEntry)
	contents := payload - int64(len(index))
	if _, err := f.ReadAt(index, contents); err != nil {
		return nil, err
	}
	if check := sha256.Sum256(index); !bytes.Equal(check[:], end[len(magic)+8:]) {
		return nil, errTorn
	}
	entries := make(map[sum]location, count)
	offset := int64(0)
	for ; len(index) > 0; index = index[indexEntry:] {
		size := binary.BigEndian.Uint64(index[sha256.Size:])
		if size > uint64(contents-offset) {
			return nil, errTorn
		}
		entries[sum(index[:sha256.Size])] = location{name, offset, int64(size)}
		offset += int64(size)
	}
	if offset != contents {
		return nil, errTorn
	}
	return entries, nil
}
