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

// Stamp is what the file system says of a tree without reading a file: names, kinds, modes, sizes, inodes and the times
// of last change. Stamps are only comparable on one machine.
type Stamp [sha256.Size]byte

// StampOf is the Stamp of a folder. As long as it stays, so does the content: nobody but root can set a change time. A
// stamp taken within the clock's granularity of a change may miss it, so take it before the Scan that it stands for and
// not in the same 10 ms. It has the errors of Scan, but for bounds on bytes.
func StampOf(ctx context.Context, root *os.Root) (Stamp, error) {
	top, err := root.Open(".")
	if err != nil {
		return Stamp{}, fmt.Errorf("stamp tree: %w", err)
	}
	defer top.Close()
	s := stamper{ctx: ctx, hash: sha256.New()}
	var st unix.Stat_t
	if err := unix.Fstat(int(top.Fd()), &st); err != nil {
		return Stamp{}, fmt.Errorf("stamp tree: %w", err)
	}
	s.put(".", &st)
	if err := s.folder(int(top.Fd()), ".", 0); err != nil {
		return Stamp{}, fmt.Errorf("stamp tree: %w", err)
	}
	return Stamp(s.hash.Sum(nil)), nil
}

type stamper struct {
	ctx     context.Context
	hash    hash.Hash
	entries int
	buf     []byte
}

func (s *stamper) put(path string, st *unix.Stat_t) {
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

func (s *stamper) folder(fd int, path string, depth int) error {
	if err := s.ctx.Err(); err != nil {
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
		case unix.S_IFDIR:
			sub, err := openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY)
			if err != nil {
				return unopened(fd, name, inner, err)
			}
			err = s.folder(sub, inner, depth+1)
			unix.Close(sub)
			if err != nil {
				return err
			}
		default:
			return &RefusedError{inner, special(st.Mode)}
		}
	}
	return nil
}
