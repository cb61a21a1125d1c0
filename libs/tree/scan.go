package tree

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// chunk is how much of a file is read at a time, in bytes. Files up to this size are hashed by the walking goroutine itself, larger ones in
// goroutines of their own.
const chunk = 128 << 10

// RefusedError says that a folder can't be a tree because of one thing in it.
type RefusedError struct {
	Path   string // relative to the tree
	Reason string // "symbolic link", "more than 50000 entries", …
}

func (e *RefusedError) Error() string { return fmt.Sprintf("refuse %q: %s", e.Path, e.Reason) }

// Sink stores what Scan reads, so that what was hashed is what was stored: reading a file once to hash it and once more to store it would
// let its author change it in between. It is used by several goroutines.
type Sink interface {
	// Create begins to store a file of about size bytes.
	Create(size int64) (Blob, error)
}

// Blob is one file on its way into a Sink. Exactly one of Commit and Discard is called, at the end.
type Blob interface {
	Write(p []byte) (int, error)
	Commit(sha256 string) error // in hexadecimal, of all that was written
	Discard()
}

// Scan reads every file under root once and describes the whole. What it reads it also gives to sink, if that is not nil. A link, a
// device, a FIFO, a socket, a name that is not UTF-8 and anything beyond the bounds is a *RefusedError. A file that changes
// while it is read is described as it was read. If something can't be read, the error has an *fs.PathError whose path is relative to root.
//
// Nothing is opened by a path: each name is opened in its open folder, without following links. With paths, an author who replaces a folder
// by a link during the scan could have files from outside the tree read, stored and shown to a reviewer, or approved.
func Scan(ctx context.Context, root *os.Root, sink Sink) (Manifest, error) {
	top, err := root.Open(".")
	if err != nil {
		return Manifest{}, fmt.Errorf("scan tree: %w", err)
	}
	defer top.Close()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	s := &scan{ctx: ctx, sink: sink, group: group, own: newReader()}
	err = s.folder(int(top.Fd()), ".", 0)
	// An error of a goroutine ends ctx, and so the walk; the walk's error then says only that.
	if later := group.Wait(); later != nil {
		err = later
	}
	s.own.release()
	if err != nil {
		return Manifest{}, fmt.Errorf("scan tree: %w", err)
	}
	for i, read := range s.large {
		s.entries[i].Size, s.entries[i].SHA256 = read.size, read.sum
	}
	slices.SortFunc(s.entries, func(a, b Entry) int { return strings.Compare(a.Path, b.Path) })
	return Manifest{Entries: s.entries}, nil
}

type scan struct {
	ctx     context.Context
	sink    Sink
	group   *errgroup.Group
	own     *reader // of the walking goroutine
	entries []Entry
	bytes   atomic.Int64

	mu    sync.Mutex
	large map[int]content // by index into entries
}

type content struct {
	size int64
	sum  string
}

// folder describes the folder that fd is open on, with everything in it.
func (s *scan) folder(fd int, path string, depth int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("inspect %q: %w", path, err)
	}
	if err := s.add(Entry{Path: path, Kind: Dir, Mode: st.Mode & 0o7777}, depth); err != nil {
		return err
	}
	names, err := list(fd, path)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := s.ctx.Err(); err != nil {
			return err
		}
		if err := s.entry(fd, name, join(path, name), depth+1); err != nil {
			return err
		}
	}
	return nil
}

// entry describes one name in the folder that parent is open on.
func (s *scan) entry(parent int, name, path string, depth int) error {
	// O_NONBLOCK: opening a FIFO must not block until somebody writes to it. What kind of file it is, is asked of the open descriptor, so
	// that nothing can be swapped between the question and the reading.
	fd, err := openat(parent, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return openError(parent, name, path, err)
	}
	keep := false
	defer func() {
		if !keep {
			unix.Close(fd)
		}
	}()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("inspect %q: %w", path, err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return s.folder(fd, path, depth)
	case unix.S_IFREG:
	default:
		return &RefusedError{path, specialKind(st.Mode)}
	}
	if err := s.add(Entry{Path: path, Kind: File, Mode: st.Mode & 0o7777}, depth); err != nil {
		return err
	}
	if s.bytes.Load()+st.Size > MaxBytes {
		return tooLarge(path)
	}
	i := len(s.entries) - 1
	if st.Size <= chunk {
		read, err := s.read(s.own, fd, path, st.Size)
		s.entries[i].Size, s.entries[i].SHA256 = read.size, read.sum
		return err
	}
	keep = true
	s.group.Go(func() error {
		defer unix.Close(fd)
		r := newReader()
		defer r.release()
		read, err := s.read(r, fd, path, st.Size)
		if err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.large == nil {
			s.large = map[int]content{}
		}
		s.large[i] = read
		return nil
	})
	return nil
}

func (s *scan) add(e Entry, depth int) error {
	if err := checkPath(e.Path, depth, len(s.entries)); err != nil {
		return err
	}
	s.entries = append(s.entries, e)
	return nil
}

// checkPath refuses a path beyond the bounds; entries is how many came before it.
func checkPath(path string, depth, entries int) error {
	switch {
	case entries >= MaxEntries:
		return &RefusedError{path, fmt.Sprintf("more than %d entries", MaxEntries)}
	case depth > MaxDepth || len(path) > MaxPath:
		return &RefusedError{path, "too deep"}
	case !utf8.ValidString(path):
		return &RefusedError{path, "name is not UTF-8"}
	}
	return nil
}

// read hashes what fd is open on to its end, and gives it to the sink. The file may grow meanwhile, so the bytes that were read count
// against MaxBytes, not the size from before.
func (s *scan) read(r *reader, fd int, path string, size int64) (read content, err error) {
	var blob Blob
	if s.sink != nil {
		if blob, err = s.sink.Create(size); err != nil {
			return content{}, fmt.Errorf("keep %q: %w", path, err)
		}
		defer func() {
			if err != nil {
				blob.Discard()
			}
		}()
	}
	r.hash.Reset()
	for {
		n, err := retry(func() (int, error) { return unix.Read(fd, r.buf[:]) })
		if err != nil {
			return content{}, &fs.PathError{Op: "read", Path: path, Err: err}
		}
		if n == 0 {
			break
		}
		read.size += int64(n)
		if s.bytes.Add(int64(n)) > MaxBytes {
			return content{}, tooLarge(path)
		}
		r.hash.Write(r.buf[:n])
		if blob != nil {
			if _, err := blob.Write(r.buf[:n]); err != nil {
				return content{}, fmt.Errorf("keep %q: %w", path, err)
			}
		}
		if err := s.ctx.Err(); err != nil {
			return content{}, err
		}
	}
	read.sum = hex.EncodeToString(r.hash.Sum(r.sum[:0]))
	if blob != nil {
		if err := blob.Commit(read.sum); err != nil {
			blob = alreadyCommitted{} // Commit was called, so Discard must not be called
			return content{}, fmt.Errorf("keep %q: %w", path, err)
		}
	}
	return read, nil
}

func tooLarge(path string) error {
	return &RefusedError{path, fmt.Sprintf("more than %d bytes in all", int64(MaxBytes))}
}

type alreadyCommitted struct{ Blob }

func (alreadyCommitted) Discard() {}

// reader is the buffers of a goroutine that reads files.
type reader struct {
	buf  [chunk]byte
	sum  [sha256.Size]byte
	hash hash.Hash
}

var readers = sync.Pool{New: func() any { return &reader{hash: sha256.New()} }}

func newReader() *reader   { return readers.Get().(*reader) }
func (r *reader) release() { readers.Put(r) }

func join(folder, name string) string {
	if folder == "." {
		return name
	}
	return folder + "/" + name
}

// openat opens one name in a folder, never a link.
func openat(parent int, name string, flags int) (int, error) {
	return retry(func() (int, error) { return unix.Openat(parent, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0) })
}

// retry repeats a system call that a signal interrupted.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// list reads the names in the folder that fd is open on.
func list(fd int, path string) ([]string, error) {
	var names []string
	buf := make([]byte, 16<<10)
	for {
		n, err := retry(func() (int, error) { return unix.ReadDirent(fd, buf) })
		if err != nil {
			return nil, &fs.PathError{Op: "list", Path: path, Err: err}
		}
		if n == 0 {
			return names, nil
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
		if len(names) > MaxEntries {
			return nil, &RefusedError{path, fmt.Sprintf("more than %d entries", MaxEntries)}
		}
	}
}

// openError returns why a name could not be opened: a *RefusedError if it is something that a tree may not hold, otherwise err as an
// *fs.PathError. The open has failed already, so a swap between it and this question changes the text only.
func openError(parent int, name, path string, err error) error {
	var st unix.Stat_t
	if unix.Fstatat(parent, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
		if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFREG && kind != unix.S_IFDIR {
			return &RefusedError{path, specialKind(st.Mode)}
		}
	}
	if errors.Is(err, unix.ELOOP) {
		return &RefusedError{path, "symbolic link"}
	}
	return &fs.PathError{Op: "open", Path: path, Err: err}
}

func specialKind(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFLNK:
		return "symbolic link"
	case unix.S_IFIFO:
		return "FIFO"
	case unix.S_IFSOCK:
		return "socket"
	case unix.S_IFCHR, unix.S_IFBLK:
		return "device"
	default:
		return "neither a file nor a folder"
	}
}
