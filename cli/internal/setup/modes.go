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

// maxVisited bounds how many files and folders one start inspects in packs, and how many in the services' folders: a pack with
// millions of files must not keep the suite from starting.
const maxVisited = 200_000

// errTooMany ends a walk that has reached maxVisited, or a folder that is too deep.
var errTooMany = errors.New("too many files")

// mendModes gives two groups the rights that they need and have lost: the services' group on packs that a copying program has closed
// to it, and the operator's group on files that earlier versions of the services wrote. A failure is logged and stops nothing
// else.
func (cfg Config) mendModes(home *os.Root, log *slog.Logger) {
	budget := maxVisited
	for _, parent := range []string{"ecosystem", path.Join("ecosystem", pack.LegacyDir)} {
		entries, err := fs.ReadDir(home.FS(), parent)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			log.Warn("could not look for packs whose modes keep the services out", "path", parent, "error", err)
		}
		for _, e := range entries {
			if e.IsDir() && !strings.HasPrefix(e.Name(), ".") && path.Join(parent, e.Name()) != path.Join("ecosystem", pack.LegacyDir) {
				cfg.mendPack(home, path.Join(parent, e.Name()), &budget, log)
			}
		}
	}
	budget = maxVisited
	for _, dir := range []string{"approved", "audit", "capabilities", "pending", "pip", "state"} {
		if err := walk(home, path.Join("user_data", dir), &budget, cfg.openToOperator); err != nil {
			log.Warn("could not open files of the services to the operator's group", "folder", dir, "error", err)
		}
	}
}

// mendPack gives the services' group the rights to read, replace and remove a pack. Modes are part of what is approved, so a pack that
// is as it was approved is left alone: other modes would make it modified, and it would be stopped.
func (cfg Config) mendPack(home *os.Root, name string, budget *int, log *slog.Logger) {
	closed := false
	err := walk(home, name, budget, func(f *os.File, st *unix.Stat_t) error {
		closed = closed || cfg.closedToServices(f, st)
		return nil
	})
	if err == nil && !closed {
		return
	}
	if err == nil {
		err = cfg.mendUnapproved(home, name, budget, log)
	}
	if err != nil {
		log.Warn("could not give the services' group what it needs in a pack", "path", name, "error", err)
	}
}

// mendUnapproved is mendPack for a pack with closed files, unless the pack is as it was approved.
func (cfg Config) mendUnapproved(home *os.Root, name string, budget *int, log *slog.Logger) error {
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
	if err := walk(home, name, budget, cfg.openToServices); err != nil {
		return err
	}
	log.Info("pack's modes mended: the services' group may read, replace and remove it", "path", name)
	return nil
}

// closedToServices says whether the mode of a pack's folder or file keeps the services out. A file needs to be readable only.
func (cfg Config) closedToServices(f *os.File, st *unix.Stat_t) bool {
	if int(st.Uid) == cfg.UID || int(st.Gid) != cfg.GID && hasList(f) && st.Mode&0o070 == 0o070 {
		return false
	}
	need := uint32(0o040)
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		need = 0o070
	} else if mustNotChange(st) {
		return false // it can't be mended
	}
	return int(st.Gid) != cfg.GID && !hasList(f) || st.Mode&need != need
}

// hasList says whether a folder or file has an access control list, as all do that are made in ecosystem/.
func hasList(f *os.File) bool {
	n, err := unix.Fgetxattr(int(f.Fd()), "system.posix_acl_access", nil)
	return err == nil && n > 0
}

// mustNotChange says whether a file's mode must stay as it is. A file with several names (hard links) may be a file outside of the
// home, to which a pack has given a name inside. One with set-user-id or set-group-id must not become writable.
func mustNotChange(st *unix.Stat_t) bool { return st.Nlink > 1 || st.Mode&0o6000 != 0 }

// openToServices is chgrp and chmod g+rwX. The rights of others stay.
func (cfg Config) openToServices(f *os.File, st *unix.Stat_t) error {
	mode := st.Mode & 0o7777
	want := mode | 0o060
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		want |= 0o010
	case mustNotChange(st):
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

// approvedModes are folders of services whose contents must keep the modes with which they were approved or built.
var approvedModes = []string{"user_data/capabilities/handlers", "user_data/capabilities/trees", "user_data/capabilities/environments", "user_data/pip/trees", "user_data/pip/environments", "user_data/pip/work"}

// walk visits name and each folder and regular file below it, a folder before its contents. visit gets the open file, on the way to
// which no link was followed. walk stays on the file system of name, and takes one of budget for each.
func walk(root *os.Root, name string, budget *int, visit func(*os.File, *unix.Stat_t) error) error {
	w := walker{budget: budget, visit: visit}
	// os.Root follows links in all parts of a path but keeps inside the home; the last part is opened by entry, which follows none.
	parent, err := root.OpenFile(path.Dir(name), os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer parent.Close()
	return w.entry(int(parent.Fd()), path.Base(name), name, 0)
}

// walker is one walk.
type walker struct {
	budget *int
	dev    uint64 // of the file system
	visit  func(*os.File, *unix.Stat_t) error
}

// entry visits what is at name in the open folder parent, and everything below it. shown is its path, for messages.
//
// The attack: a pack, or a program that copies packs, replaces a folder by a link while root walks through it, to have root
// change the mode of a file elsewhere, such as /etc/shadow. So each step goes from an open folder by one name, follows no link
// (O_NOFOLLOW), and changes only what is open, never what a name leads to.
func (w *walker) entry(parent int, name, shown string, depth int) error {
	if *w.budget--; *w.budget < 0 || depth > tree.MaxDepth {
		return errTooMany
	}
	f, st, err := w.open(parent, name, shown, depth)
	if err != nil || f == nil {
		return err
	}
	defer f.Close()
	if err := w.visit(f, st); err != nil {
		return &fs.PathError{Op: "mend", Path: shown, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if inner := path.Join(shown, name); !slices.Contains(approvedModes, inner) {
			if err := w.entry(int(f.Fd()), name, inner, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// open opens what is at name in parent, without following a link. The file is nil, without an error, for what is not to be visited:
// links, devices and the like, other file systems, and what was removed meanwhile.
func (w *walker) open(parent int, name, shown string, depth int) (*os.File, *unix.Stat_t, error) {
	// Before it is opened: opening a FIFO or a device may have effects.
	var st unix.Stat_t
	switch err := unix.Fstatat(parent, name, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case errors.Is(err, unix.ENOENT):
		return nil, nil, nil
	case err != nil:
		return nil, nil, &fs.PathError{Op: "stat", Path: shown, Err: err}
	case !folderOrFile(&st), depth > 0 && st.Dev != w.dev:
		return nil, nil, nil
	}
	fd, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) {
		return nil, nil, nil
	} else if err != nil {
		return nil, nil, &fs.PathError{Op: "open", Path: shown, Err: err}
	}
	f := os.NewFile(uintptr(fd), shown)
	// Again, of what is open: another file may have taken the name since.
	if err := unix.Fstat(fd, &st); err != nil {
		f.Close()
		return nil, nil, &fs.PathError{Op: "stat", Path: shown, Err: err}
	}
	if depth == 0 {
		w.dev = st.Dev
	}
	if !folderOrFile(&st) {
		f.Close()
		return nil, nil, nil
	}
	return f, &st, nil
}

// folderOrFile says whether it is a folder or a regular file.
func folderOrFile(st *unix.Stat_t) bool {
	kind := st.Mode & unix.S_IFMT
	return kind == unix.S_IFDIR || kind == unix.S_IFREG
}
