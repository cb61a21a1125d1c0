package tree

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Fingerprint is a hash of what the file system says of a tree without reading any file: names, kinds, modes, sizes, inodes, and the times
// of last modification and change. Equal fingerprints spare a Scan. They are comparable on one machine only.
type Fingerprint [sha256.Size]byte

// Visitor is called with everything that FingerprintWith passes, while the folders are open.
type Visitor interface {
	// Folder is called with a folder, open, before its names are read; the first is the tree itself.
	Folder(fd int, st *unix.Stat_t) error
	// File is called with a regular file, which is name in the folder that parent is open on.
	File(parent int, name string, st *unix.Stat_t) error
}

// FingerprintOf returns the Fingerprint of a folder. As long as it stays the same, so does the content: a program can set a modification
// time as it likes, but the change time is the kernel's, and only root can turn the clock back.
//
// A change time has the granularity of the kernel's clock. A file that is written twice within it keeps its change time at the second
// write. So take a fingerprint before the Scan that it stands for, and don't trust one that is taken within 10 ms of a change.
// The errors are those of Scan, but for the bound on bytes.
func FingerprintOf(ctx context.Context, root *os.Root) (Fingerprint, error) {
	return FingerprintWith(ctx, root, noVisitor{})
}

// FingerprintWith is FingerprintOf, and calls visitor on the way. Its errors are those of FingerprintOf and the visitor's.
func FingerprintWith(ctx context.Context, root *os.Root, visitor Visitor) (Fingerprint, error) {
	top, err := root.Open(".")
	if err != nil {
		return Fingerprint{}, fmt.Errorf("fingerprint tree: %w", err)
	}
	defer top.Close()
	s := fingerprinter{ctx: ctx, visitor: visitor, hash: sha256.New()}
	var st unix.Stat_t
	if err := unix.Fstat(int(top.Fd()), &st); err != nil {
		return Fingerprint{}, fmt.Errorf("fingerprint tree: %w", err)
	}
	s.put(".", &st)
	if err := s.folder(int(top.Fd()), ".", 0, &st); err != nil {
		return Fingerprint{}, fmt.Errorf("fingerprint tree: %w", err)
	}
	return Fingerprint(s.hash.Sum(nil)), nil
}

type fingerprinter struct {
	ctx     context.Context
	visitor Visitor
	hash    hash.Hash
	entries int
	buf     []byte
}

func (s *fingerprinter) put(path string, st *unix.Stat_t) {
	s.entries++
	b := s.buf[:0]
	b = binary.AppendUvarint(b, uint64(len(path)))
	b = append(b, path...)
	for _, n := range []uint64{uint64(st.Mode), uint64(st.Size), st.Ino,
		uint64(st.Mtim.Sec), uint64(st.Mtim.Nsec), uint64(st.Ctim.Sec), uint64(st.Ctim.Nsec)} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	s.hash.Write(b)
	s.buf = b
}

func (s *fingerprinter) folder(fd int, path string, depth int, st *unix.Stat_t) error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	if err := s.visitor.Folder(fd, st); err != nil {
		return err
	}
	names, err := list(fd, path)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		inner := join(path, name)
		if err := checkPath(inner, depth+1, s.entries); err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("inspect %q: %w", inner, err)
		}
		s.put(inner, &st)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			if err := s.visitor.File(fd, name, &st); err != nil {
				return err
			}
		case unix.S_IFDIR:
			sub, err := openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY)
			if err != nil {
				return openError(fd, name, inner, err)
			}
			err = s.folder(sub, inner, depth+1, &st)
			unix.Close(sub)
			if err != nil {
				return err
			}
		default:
			return &RefusedError{inner, specialKind(st.Mode)}
		}
	}
	return nil
}

// noVisitor does nothing.
type noVisitor struct{}

func (noVisitor) Folder(int, *unix.Stat_t) error       { return nil }
func (noVisitor) File(int, string, *unix.Stat_t) error { return nil }
