package auditlog

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/auditfile"
)

// follower is one audit file of a name, and how far it is sealed.
type follower struct {
	part  part
	file  *os.File // nil while it isn't open: it is gone, or of a day that is over and at rest
	seen  fingerprint
	gone  bool // nothing is under its name
	moved bool // its name is another file's, or gone; what a process appends to it even now is still read

	reader *lineReader
	hashes *os.File // open together with file
	read   uint64   // lines whose hashes are in the file of the hashes

	unchecked bool      // sealed lines may have changed since checkedAt
	checkedAt time.Time // when the sealed lines were compared with their hashes
}

// fingerprint is what a file system tells of a file without reading it.
type fingerprint struct {
	dev, inode   uint64
	size         int64
	mtime, ctime unix.Timespec
}

func fingerprintOf(info fs.FileInfo) (fingerprint, error) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() {
		return fingerprint{}, fmt.Errorf("%s is no regular file", info.Name())
	}
	return fingerprint{st.Dev, st.Ino, st.Size, unix.Timespec(st.Mtim), unix.Timespec(st.Ctim)}, nil
}

// same says whether both are of one file, whatever was done with it.
func (f fingerprint) same(other fingerprint) bool {
	return f.dev == other.dev && f.inode == other.inode
}

// openAudit opens a file of the audit log for reading. A link isn't followed, and a FIFO doesn't hold anybody up.
func openAudit(root *os.Root, name string) (*os.File, fingerprint, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fingerprint{}, err
	}
	info, err := f.Stat()
	if err == nil {
		var print fingerprint
		if print, err = fingerprintOf(info); err == nil {
			return f, print, nil
		}
	}
	_ = f.Close()
	return nil, fingerprint{}, err
}

// close gives back what is open.
func (f *follower) close() {
	if f.file != nil {
		_ = f.file.Close()
		_ = f.hashes.Close()
		f.file, f.hashes, f.reader, f.moved = nil, nil, nil, false
	}
}

// sameLast says whether the last line that was read is still the same. A line too long to be one of the log's isn't compared.
func (f *follower) sameLast() (bool, error) {
	length := f.reader.end - f.reader.begin
	if f.read == 0 || length == 0 || length > pieceSize || f.reader.at > f.reader.end {
		return true, nil
	}
	var want hash
	if _, err := f.hashes.ReadAt(want[:], int64(f.read-1)*hashSize); err != nil {
		return false, fmt.Errorf("read hash of the last line: %w", err)
	}
	line := f.reader.buffer[:length]
	if _, err := f.file.ReadAt(line, f.reader.begin); err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	return line[length-1] == '\n' && leafHash(line[:length-1]) == want, nil
}

// checker compares the lines of a file with hashes, from the first line on. It can be interrupted after any number of bytes.
type checker struct {
	lines  *lineReader
	hashes io.ReaderAt // 32 bytes a line
	limit  uint64      // lines to compare
	equal  uint64      // lines that were compared and are equal
	end    int64       // of the last one of these
	torn   []uint64    // the first maxTorn of these that are no JSON objects, from 1
	piece  []byte      // hashes that were read, from number first on
	first  uint64
}

// hashPiece is how many bytes of hashes are read at a time.
const hashPiece = 64 << 10

// maxTorn is how many torn lines of one file are remembered.
const maxTorn = 100

// errDiffers ends the reading of a file at its first line that isn't the sealed one.
var errDiffers = errors.New("the line differs")

// step compares at most budget bytes. done says that there is nothing left to compare: all lines are equal if equal is limit, and the next
// one differs or is missing if not.
func (c *checker) step(budget int64) (done bool, err error) {
	if c.equal == c.limit {
		return true, nil
	}
	more, err := c.lines.read(budget, func(h hash, end int64) error {
		want, err := c.next()
		if err != nil {
			return err
		}
		if h != want {
			return errDiffers
		}
		c.equal++
		// An empty line is what the log writes after one that might be torn.
		if !c.lines.object && end > c.end+1 && len(c.torn) < maxTorn {
			c.torn = append(c.torn, c.equal)
		}
		if c.end = end; c.equal == c.limit {
			return errFull
		}
		return nil
	})
	switch {
	case errors.Is(err, errDiffers):
		return true, nil
	case err != nil:
		return false, err
	}
	return !more || c.equal == c.limit, nil
}

// next is the hash of the next line.
func (c *checker) next() (hash, error) {
	if at := (c.equal - c.first) * hashSize; at < uint64(len(c.piece)) {
		return hash(c.piece[at : at+hashSize]), nil
	}
	if c.piece == nil {
		c.piece = make([]byte, hashPiece)
	}
	c.piece, c.first = c.piece[:min(hashPiece, (c.limit-c.equal)*hashSize)], c.equal
	if _, err := c.hashes.ReadAt(c.piece, int64(c.equal)*hashSize); err != nil {
		return hash{}, fmt.Errorf("read hashes of sealed lines: %w", err)
	}
	return hash(c.piece[:hashSize]), nil
}

// all compares everything.
func (c *checker) all() error {
	for {
		if done, err := c.step(1 << 40); done || err != nil {
			return err
		}
	}
}

// leading is how many lines of a file, from the first one, are those of the hashes; limit at most.
func leading(file, hashes io.ReaderAt, limit uint64, buffer []byte) (uint64, error) {
	c := checker{lines: newLineReader(file, 0, buffer), hashes: hashes, limit: limit}
	err := c.all()
	return c.equal, err
}

// stored is a file of the audit log to be read from beginning to end, also one that was compressed: by gzip after a rotation, or by the sealer.
type stored struct {
	io.ReaderAt
	fingerprint
	file io.Closer
}

func openStored(root *os.Root, name string) (*stored, error) {
	file, print, err := openAudit(root, name)
	if err != nil {
		return nil, err
	}
	s := &stored{file, print, file}
	if strings.HasSuffix(name, packedSuffix) {
		unpacked, err := auditfile.Unpack(file)
		if err != nil {
			return nil, fmt.Errorf("unpack %s: %w", name, err)
		}
		s.ReaderAt, s.file = unpacked, unpacked
	}
	if strings.HasSuffix(name, ".gz") {
		unpacked, err := gzip.NewReader(bufio.NewReaderSize(file, pieceSize))
		if err != nil {
			_ = file.Close()
			return nil, fmt.Errorf("unpack %s: %w", name, err)
		}
		s.ReaderAt = &inSequence{from: unpacked}
	}
	return s, nil
}

func (s *stored) close() { _ = s.file.Close() }
