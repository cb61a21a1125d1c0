package backup

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"
)

// Bounds of one folder of the home that is read or restored.
const (
	maxDepth = 128  // folders within folders
	maxPath  = 4096 // bytes of a path
)

// Attributes in which Linux keeps access control lists.
const (
	accessList  = "system.posix_acl_access"
	defaultList = "system.posix_acl_default"
)

// node is one folder, file or link of the home.
type node struct {
	path string // relative to the home
	st   unix.Stat_t
	link string // where a symbolic link leads
}

func (n node) kind() uint32 { return n.st.Mode & unix.S_IFMT }

// walker reads a part of the home.
//
// The attack: a pack, or a program that copies packs, replaces a folder by a link while root reads it, so that a backup has a file from
// elsewhere. So each step goes from an open folder by one name and follows no link.
type walker struct {
	ctx   context.Context
	skip  func(name string) bool // what is not visited, with everything below it
	visit func(n node, parent int, name string) error
	odd   func(name, why string) // what can't be taken
	avoid unix.Stat_t            // a folder that isn't visited, by its number, whatever its path is; zero for none
}

// walk visits the node at name and, a folder before its contents, everything below it, in the order of names. A name that isn't there is
// nothing.
func (w *walker) walk(home *os.Root, name string) error {
	parent, err := home.OpenFile(path.Dir(name), os.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer parent.Close()
	return w.entry(int(parent.Fd()), path.Base(name), name, 0)
}

func (w *walker) entry(parent int, base, name string, depth int) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if w.skip(name) {
		return nil
	}
	n := node{path: name}
	switch err := unix.Fstatat(parent, base, &n.st, unix.AT_SYMLINK_NOFOLLOW); {
	case errors.Is(err, unix.ENOENT):
		return nil
	case err != nil:
		return &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	if depth > maxDepth || len(name) > maxPath {
		w.odd(name, "too deep")
		return nil
	}
	switch n.kind() {
	case unix.S_IFDIR:
		return w.folder(parent, base, n, depth)
	case unix.S_IFLNK:
		return w.symlink(parent, base, n)
	case unix.S_IFREG:
		return w.visit(n, parent, base)
	default:
		w.odd(name, "no file: a socket, a FIFO or a device")
		return nil
	}
}

func (w *walker) symlink(parent int, base string, n node) error {
	if !linkAllowed(n.path) {
		w.odd(n.path, "a symbolic link")
		return nil
	}
	target := make([]byte, maxPath)
	size, err := unix.Readlinkat(parent, base, target)
	if err != nil {
		return nil //nolint:nilerr // it is gone, or another kind of file by now: then it is none of this moment
	}
	n.link = string(target[:size])
	return w.visit(n, parent, base)
}

func (w *walker) folder(parent int, base string, n node, depth int) error {
	fd, err := unix.Openat(parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil
	} else if err != nil {
		return &fs.PathError{Op: "open", Path: n.path, Err: err}
	}
	dir := os.NewFile(uintptr(fd), n.path)
	defer dir.Close()
	if err := unix.Fstat(fd, &n.st); err != nil {
		return &fs.PathError{Op: "stat", Path: n.path, Err: err}
	}
	if w.avoid.Ino != 0 && n.st.Ino == w.avoid.Ino && n.st.Dev == w.avoid.Dev {
		w.odd(n.path, "the folder that the backup is written to")
		return nil
	}
	if err := w.visit(n, parent, base); err != nil {
		return err
	}
	names, err := dir.Readdirnames(-1)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &fs.PathError{Op: "list", Path: n.path, Err: err}
	}
	slices.Sort(names)
	for _, base := range names {
		if err := w.entry(fd, base, path.Join(n.path, base), depth+1); err != nil {
			return err
		}
	}
	return nil
}

// openFile opens a regular file in an open folder. The file is nil if the name is gone or is something else by now.
func openFile(parent int, base string) (*os.File, error) {
	fd, err := unix.Openat(parent, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), base), nil
}

// lists are the access control lists of a node: those of the attributes that it has.
func lists(n node, parent int, base string) (map[string][]byte, error) {
	if n.kind() == unix.S_IFLNK {
		return nil, nil
	}
	fd, err := unix.Openat(parent, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil //nolint:nilerr // gone since: the reading of it says so
	}
	defer unix.Close(fd)
	found := map[string][]byte{}
	for _, name := range []string{accessList, defaultList} {
		value := make([]byte, 4<<10)
		size, err := unix.Fgetxattr(fd, name, value)
		switch {
		case err == nil && size > 0:
			found[name] = value[:size]
		case err == nil, errors.Is(err, unix.ENODATA), errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.EOPNOTSUPP):
		default:
			return nil, fmt.Errorf("read the access control list of %s: %w", n.path, err)
		}
	}
	return found, nil
}

// fingerprint changes whenever anything in a folder does: names, kinds, modes, sizes, inodes, times. Equal fingerprints before and after a
// reading say that what was read is of one moment.
type fingerprint [sha256.Size]byte

// fingerprintOf is the fingerprint of everything at name and below it.
func fingerprintOf(ctx context.Context, home *os.Root, name string) (fingerprint, error) {
	h := sha256.New()
	var line []byte
	w := walker{ctx: ctx, skip: skipped(name), odd: func(string, string) {}, visit: func(n node, _ int, _ string) error {
		line = append(line[:0], n.path...)
		line = append(append(line, 0), n.link...)
		line = append(line, 0)
		for _, v := range []uint64{uint64(n.st.Mode), uint64(n.st.Uid)<<32 | uint64(n.st.Gid), uint64(n.st.Size), n.st.Ino,
			uint64(n.st.Mtim.Sec), uint64(n.st.Mtim.Nsec), uint64(n.st.Ctim.Sec), uint64(n.st.Ctim.Nsec)} {
			line = binary.BigEndian.AppendUint64(line, v)
		}
		h.Write(line)
		return nil
	}}
	if err := w.walk(home, name); err != nil {
		return fingerprint{}, err
	}
	return fingerprint(h.Sum(nil)), nil
}

// skipped is what a walk from a path leaves out: other areas, and what is transient.
func skipped(from string) func(string) bool {
	return func(name string) bool {
		return name != from && begins(name) || transient(name)
	}
}
