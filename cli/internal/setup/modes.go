package setup

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/tree"
)

// maxMended bounds how many files and folders one start looks at, in packs and in the services' folders each.
const maxMended = 200_000

// errMany ends a walk that has come to its bound.
var errMany = errors.New("too many files")

// mendModes gives groups back the rights that they need: the services' group on packs which a copying program has closed to it,
// and the operator's on files that earlier versions of the services wrote. A failure is logged and stops nothing else.
func (cfg Config) mendModes(home *os.Root, log *slog.Logger) {
	left := maxMended
	for _, place := range []string{"ecosystem", path.Join("ecosystem", pack.LegacyDir)} {
		entries, err := fs.ReadDir(home.FS(), place)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			log.Warn("could not look for packs whose modes keep the services out", "path", place, "error", err)
		}
		for _, e := range entries {
			if e.IsDir() && !strings.HasPrefix(e.Name(), ".") && path.Join(place, e.Name()) != path.Join("ecosystem", pack.LegacyDir) {
				cfg.mendPack(home, path.Join(place, e.Name()), &left, log)
			}
		}
	}
	left = maxMended
	for _, dir := range []string{"approved", "audit", "capabilities", "pending", "pip", "state"} {
		if err := walk(home, path.Join("user_data", dir), &left, cfg.openToOperator); err != nil {
			log.Warn("could not open files of the services to the operator's group", "folder", dir, "error", err)
		}
	}
}

// mendPack gives the services' group what it needs to read, replace and remove a pack. Modes are part of what is approved:
// a pack that lies there as it was approved is left alone, since mending would make it modified and end it.
func (cfg Config) mendPack(home *os.Root, name string, left *int, log *slog.Logger) {
	closed := false
	err := walk(home, name, left, func(f *os.File, st *unix.Stat_t) error {
		closed = closed || cfg.keepsOut(f, st)
		return nil
	})
	if err == nil && !closed {
		return
	}
	if err == nil {
		err = cfg.mendUnapproved(home, name, left, log)
	}
	if err != nil {
		log.Warn("could not give the services' group what it needs in a pack", "path", name, "error", err)
	}
}

func (cfg Config) mendUnapproved(home *os.Root, name string, left *int, log *slog.Logger) error {
	root, err := home.OpenRoot(name)
	if err != nil {
		return err
	}
	defer root.Close()
	manifest, err := tree.Scan(context.Background(), root, nil)
	if err != nil {
		return err // such as a link in it; the scan of packs names it
	}
	digits, err := tree.ParseDigest(manifest.Digest())
	if err != nil {
		return err
	}
	switch _, err := home.Lstat("user_data/approved/manifests/" + digits + ".json"); {
	case err == nil:
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := walk(home, name, left, cfg.openToServices); err != nil {
		return err
	}
	log.Info("pack's modes mended: the services' group may read, replace and remove it", "path", name)
	return nil
}

// keepsOut says whether the mode of a pack's folder or file keeps the services out. A file needs to be readable only.
func (cfg Config) keepsOut(f *os.File, st *unix.Stat_t) bool {
	if int(st.Uid) == cfg.UID || int(st.Gid) != cfg.GID && hasList(f) && st.Mode&0o070 == 0o070 {
		return false
	}
	need := uint32(0o040)
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		need = 0o070
	} else if untouched(st) {
		return false // it can't be mended
	}
	return int(st.Gid) != cfg.GID && !hasList(f) || st.Mode&need != need
}

// hasList says whether a folder or file has an access control list, as all do that are made in ecosystem/.
func hasList(f *os.File) bool {
	n, err := unix.Fgetxattr(int(f.Fd()), "system.posix_acl_access", nil)
	return err == nil && n > 0
}

// untouched says whether a file stays as it is: one with other names may belong to something else, and one with set-user-id or
// set-group-id must not be opened for writing.
func untouched(st *unix.Stat_t) bool { return st.Nlink > 1 || st.Mode&0o6000 != 0 }

// openToServices is chgrp and chmod g+rwX. What others may do stays.
func (cfg Config) openToServices(f *os.File, st *unix.Stat_t) error {
	mode := st.Mode & 0o7777
	want := mode | 0o060
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		want |= 0o010
	case untouched(st):
		return nil
	case mode&0o111 != 0:
		want |= 0o010
	}
	if int(st.Gid) != cfg.GID && !hasList(f) {
		if err := unix.Fchown(int(f.Fd()), -1, cfg.GID); err != nil {
			return err
		}
	} else if want == mode {
		return nil
	}
	return unix.Fchmod(int(f.Fd()), want)
}

// openToOperator lets the group, the operator's, read a service's file, and list a folder, that only the service could.
func (cfg Config) openToOperator(f *os.File, st *unix.Stat_t) error {
	mode := st.Mode & 0o7777
	want := mode | mode&0o500>>3
	if int(st.Uid) != cfg.UID || want == mode {
		return nil
	}
	return unix.Fchmod(int(f.Fd()), want)
}

// pinned are folders of services whose content has the modes that it was approved or built with.
var pinned = []string{"user_data/capabilities/handlers", "user_data/capabilities/trees", "user_data/capabilities/environments", "user_data/pip/trees", "user_data/pip/environments", "user_data/pip/work"}

// walk shows each folder and regular file from name on, the folder itself first, by a descriptor that no link was followed
// for. It stays on the file system of name.
func walk(root *os.Root, name string, left *int, visit func(*os.File, *unix.Stat_t) error) error {
	w := walker{left: left, visit: visit}
	// Of name only the last part may be somebody else's; os.Root keeps the others in the home.
	parent, err := root.OpenFile(path.Dir(name), os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer parent.Close()
	return w.entry(int(parent.Fd()), path.Base(name), name, 0)
}

type walker struct {
	left  *int
	dev   uint64
	visit func(*os.File, *unix.Stat_t) error
}

func (w *walker) entry(parent int, name, shown string, depth int) error {
	if *w.left--; *w.left < 0 || depth > tree.MaxDepth {
		return errMany
	}
	var st unix.Stat_t
	if err := unix.Fstatat(parent, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil // removed meanwhile
		}
		return &fs.PathError{Op: "stat", Path: shown, Err: err}
	}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFDIR && kind != unix.S_IFREG || depth > 0 && st.Dev != w.dev {
		return nil
	}
	fd, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) {
			return nil
		}
		return &fs.PathError{Op: "open", Path: shown, Err: err}
	}
	f := os.NewFile(uintptr(fd), shown)
	defer f.Close()
	// What is open counts: another may have taken the name since.
	if err := unix.Fstat(fd, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: shown, Err: err}
	}
	if depth == 0 {
		w.dev = st.Dev
	}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if !isDir && st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil
	}
	if err := w.visit(f, &st); err != nil {
		return &fs.PathError{Op: "mend", Path: shown, Err: err}
	}
	if !isDir {
		return nil
	}
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if inner := path.Join(shown, name); !slices.Contains(pinned, inner) {
			if err := w.entry(fd, name, inner, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}
