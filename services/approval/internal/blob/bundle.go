package blob

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/bundle"
)

// A bundle is a file with the small blobs of one approval; libs/bundle has its format. A pack has many small files, and to create and sync
// each by itself would wait for the disk's journal each time. A bundle gets its name after it is synced, and is never changed after that.

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

// bundleWriter is a bundle that is being written, in incoming.
type bundleWriter struct {
	store   *Store
	temp    string // relative to the store
	file    *os.File
	out     *bufio.Writer
	index   []byte
	entries map[sum]location
	size    int64 // of the contents
}

// newBundle begins a bundle; it ends with name or discard.
func (s *Store) newBundle() (*bundleWriter, error) {
	temp, file, err := s.create(unix.O_RDWR)
	if err != nil {
		return nil, err
	}
	return &bundleWriter{store: s, temp: temp, file: file, out: bufio.NewWriterSize(file, 256<<10), entries: map[sum]location{}}, nil
}

// add appends a blob that the bundle doesn't have yet.
func (b *bundleWriter) add(name sum, content []byte) error {
	if _, err := b.out.Write(content); err != nil {
		return err
	}
	b.entries[name] = location{offset: b.size, size: int64(len(content))}
	b.index = bundle.AppendEntry(b.index, name, int64(len(content)))
	b.size += int64(len(content))
	return nil
}

// open reads a blob of the bundle, until the bundle is named or discarded. ok is false where the bundle doesn't have it.
func (b *bundleWriter) open(name sum) (io.ReadCloser, bool, error) {
	p, ok := b.entries[name]
	if !ok {
		return nil, false, nil
	}
	return io.NopCloser(io.NewSectionReader(b.file, p.offset, p.size)), true, b.out.Flush()
}

// sync writes the index and brings the file to the disk.
func (b *bundleWriter) sync() error {
	_, _ = b.out.Write(b.index) // Flush has the error
	_, _ = b.out.Write(bundle.AppendFooter(nil, b.index))
	if err := b.out.Flush(); err != nil {
		return err
	}
	return b.file.Sync()
}

// name gives a synced bundle its name. Its blobs count as stored only when the folder is synced, too.
func (b *bundleWriter) name() (name string, err error) {
	name = filepath.Base(b.temp)
	if err := b.file.Close(); err != nil {
		return "", err
	}
	return name, b.store.root.Rename(b.temp, bundles+"/"+name)
}

// discard removes a bundle that has no name.
func (b *bundleWriter) discard() {
	_ = b.file.Close()
	_ = b.store.root.Remove(b.temp) // what stays is removed by Open
}

// readIndex reads which blobs a bundle holds.
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
	index, err := bundle.ReadIndex(f, info.Size())
	if err != nil {
		return nil, err
	}
	entries := make(map[sum]location, len(index))
	for _, e := range index {
		entries[e.Sum] = location{name, e.Offset, e.Size}
	}
	return entries, nil
}
