package auditfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	seekable "github.com/SaveTheRbtz/zstd-seekable-format-go/pkg"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// Dir is the folder of the audit log. It is safe for concurrent use.
type Dir struct{ root *os.Root }

// OpenDir opens the folder.
func OpenDir(path string) (*Dir, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	return &Dir{root}, nil
}

// Close closes the folder. Files that were opened stay open.
func (d *Dir) Close() error { return d.root.Close() }

// Stored is what the folder has of one category and day.
type Stored struct {
	ID
	Compressed bool // the file is compressed: it doesn't grow any more
}

// List lists the files, in no order. Where a plain and a compressed one are there (see late.go), the plain one is listed.
func (d *Dir) List() ([]Stored, error) {
	entries, err := fs.ReadDir(d.root.FS(), ".")
	if err != nil {
		return nil, fmt.Errorf("list audit log: %w", err)
	}
	isPlain := map[ID]bool{}
	var found []Stored
	for _, e := range entries { // sorted by name: the plain one comes first
		id, packed, ok := ParseName(e.Name())
		if !ok || !e.Type().IsRegular() || packed && isPlain[id] {
			continue
		}
		isPlain[id] = true
		found = append(found, Stored{id, packed})
	}
	return found, nil
}

// File is an open file of the audit log. Its methods may be called concurrently; Close only when no other is running.
type File struct {
	ID
	Compressed bool
	file       *os.File
	lines      *seekable.Reader // of a compressed file
	size       int64            // of a compressed file's lines
	earlier    *File            // the compressed file that the lines of this plain one come after; nil for none (see late.go)
}

// Open opens what the folder has of a category and day: the plain file, else the compressed one. The error is fs.ErrNotExist where there is neither.
func (d *Dir) Open(id ID) (*File, error) {
	for range 2 {
		f, err := d.openRegular(id.Name())
		if err == nil {
			return d.after(&File{ID: id, file: f})
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if f, err = d.openRegular(id.CompressedName()); err == nil {
			return openCompressed(id, f)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		// The race: the plain file was replaced by the compressed one, or the other way round, between the two looks. So look twice.
	}
	return nil, fmt.Errorf("open audit log: %s: %w", id.Name(), fs.ErrNotExist)
}

// openRegular opens a file. A link, a device or a pipe with its name would make the reader read other lines, or wait for ever.
func (d *Dir) openRegular(name string) (*os.File, error) {
	f, err := d.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	if !d.leadsTo(name, f) { // os.Root follows links within the folder
		_ = f.Close()
		return nil, fmt.Errorf("open audit log: %s is no file, or was replaced meanwhile", name)
	}
	return f, nil
}

// leadsTo says whether a name is that of a regular file, and of this one.
func (d *Dir) leadsTo(name string, f *os.File) bool {
	now, err := d.root.Lstat(name)
	if err != nil || !now.Mode().IsRegular() {
		return false
	}
	opened, err := f.Stat()
	return err == nil && os.SameFile(now, opened)
}

// Size is how many bytes of lines there are now.
func (f *File) Size() (int64, error) {
	if f.Compressed {
		return f.size, nil
	}
	st, err := f.file.Stat()
	if err != nil {
		return 0, fmt.Errorf("inspect audit log: %w", err)
	}
	return f.before() + st.Size(), nil
}

// ReadAt reads uncompressed bytes, as io.ReaderAt does.
func (f *File) ReadAt(p []byte, offset int64) (int, error) {
	switch before := f.before(); {
	case f.Compressed:
		return f.lines.ReadAt(p, offset)
	case offset >= before:
		return f.file.ReadAt(p, offset-before)
	default:
		return f.readAcross(p, offset)
	}
}

// Current says whether the name still leads to this very file: it doesn't any more after a rotation, a compression or a removal.
func (d *Dir) Current(f *File) bool {
	name := f.Name()
	if f.Compressed {
		name = f.CompressedName()
	}
	return d.leadsTo(name, f.file)
}

// Close closes the file.
func (f *File) Close() error {
	if f.lines != nil {
		_ = f.lines.Close() // frees memory only
	}
	if f.earlier != nil {
		_ = f.earlier.Close()
	}
	return f.file.Close()
}

// frameSize is how many bytes of lines are compressed together: what has to be unpacked to read one line.
const frameSize = 256 << 10

// maxFrame bounds a frame that is unpacked, in bytes. The attack: a file of a few bytes that unpacks to gigabytes.
const maxFrame = 4 << 20

// decoder unpacks frames for all files; it is safe for concurrent use, and each of its states takes memory.
var decoder = sync.OnceValues(func() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxMemory(maxFrame), zstd.WithDecoderLowmem(true))
})

func openCompressed(id ID, f *os.File) (*File, error) {
	lines, err := readTable(f)
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("open audit log: %s: %w", id.CompressedName(), err)
	}
	table, err := lines.SeekTable()
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return &File{ID: id, Compressed: true, file: f, lines: lines, size: int64(table.Size())}, nil
}

// readTable reads where the frames are. A table with a frame that is too large is refused, before anything is allocated for it.
func readTable(f io.ReadSeeker) (*seekable.Reader, error) {
	dec, err := decoder()
	if err != nil {
		return nil, err
	}
	lines, err := seekable.NewReader(f, dec)
	if err != nil {
		return nil, err
	}
	table, err := lines.SeekTable()
	if err != nil {
		return nil, err
	}
	for i := range table.NumFrames() {
		if frame, _ := table.EntryByID(i); frame.CompressedSize > maxFrame || frame.DecompressedSize > maxFrame {
			return nil, fmt.Errorf("a frame of %d bytes is too large (at most %d)", max(frame.CompressedSize, frame.DecompressedSize), maxFrame)
		}
	}
	return lines, nil
}

// Compress writes the lines of a plain file in the form that Dir.Open reads. It is the seekable format of Zstandard: frames, and a table of
// where they are, so that zstd -d reads it, too.
func Compress(to io.Writer, from io.Reader) error {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(frameSize), zstd.WithEncoderLevel(zstd.SpeedDefault))
	if err != nil {
		return err
	}
	defer enc.Close()
	packed, err := seekable.NewWriter(to, enc)
	if err != nil {
		return err
	}
	if err := eachFrame(from, packed); err != nil {
		return fmt.Errorf("compress audit log: %w", err)
	}
	return packed.Close()
}

// eachFrame writes frame by frame: the writer makes a frame of each write.
func eachFrame(from io.Reader, to io.Writer) error {
	frame := make([]byte, frameSize)
	for {
		n, err := io.ReadFull(from, frame)
		if n > 0 {
			if _, err := to.Write(frame[:n]); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return err
		}
	}
}
