package pack

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/fault"
)

// Advise turns an error of the file system about something in the ecosystem folder into a fault (409) that explains it and,
// where there is one, names the command that mends it. dir, relative to that folder, is what was read, renamed or removed, or
// "." if something was to be made in the folder. Any other error, and nil, are returned as they are.
//
//	ecosystem/x belongs to somebody else (permission denied). Run in the Rumi home: …
func Advise(ecosystem *os.Root, dir string, err error) error {
	return advise(ecosystem, dir, dir, err)
}

// AdviseFile is Advise for a file or folder at in the pack's folder dir. The text names it, but its command is for the whole
// pack: where one file can't be read, others mostly can't either.
//
//	ecosystem/x/sub/a.py can't be read: ecosystem/x belongs to somebody else (permission denied). Run in the Rumi home: …
func AdviseFile(ecosystem *os.Root, dir, at string, err error) error {
	of := path.Join(dir, at)
	f, ok := errors.AsType[*fault.Fault](advise(ecosystem, dir, of, err))
	if !ok || f.Kind != fault.KindConflict || of == dir {
		return advise(ecosystem, dir, of, err)
	}
	return fault.Conflict("%s can't be read: %s", path.Join("ecosystem", of), f.Message).With(f.Code).Because(err)
}

// AdviceCodes are the codes of the faults that Advise and AdviseFile make. The slice is the caller's.
func AdviceCodes() []string {
	return []string{"immutable", "mount_dead", "mount_point", "other_file_system", "permission_denied", "read_only", "sticky"}
}

// advise is Advise; of is the entry that err is about, dir itself or something in it.
func advise(ecosystem *os.Root, dir, of string, err error) error {
	if fault.Is(err, fault.KindConflict) {
		return err
	}
	name := path.Join("ecosystem", dir)
	advice := func(code, format string, args ...any) error {
		return fault.Conflict("%s %s", name, fmt.Sprintf(format, args...)).With(code).Because(err)
	}
	switch {
	case errors.Is(err, unix.EBUSY):
		return advice("mount_point", "is a mount point, or in use as one (device or resource busy): it can't be replaced or removed. Change what is mounted there, or unmount it: sudo umount %s", name)
	case errors.Is(err, unix.EXDEV):
		return advice("other_file_system", "can't be moved within its folder (invalid cross-device link): it comes from a lower layer of an overlay, or is mounted there. Put a copy of it in its place")
	case errors.Is(err, unix.EROFS):
		return advice("read_only", "can't be changed (read-only file system). Mount it writable")
	case errors.Is(err, unix.ENOTCONN), errors.Is(err, unix.ESTALE), errors.Is(err, unix.EHOSTDOWN), errors.Is(err, unix.ETIMEDOUT), errors.Is(err, unix.EIO):
		return advice("mount_dead", "can't be reached (%v). If something is mounted there, mount it again, or unmount it: sudo umount --lazy %s", errno(err), name)
	case errors.Is(err, fs.ErrPermission):
		return adviseRights(ecosystem, dir, of, err, advice)
	}
	return err
}

// adviseRights finds out which right is missing.
func adviseRights(ecosystem *os.Root, dir, of string, err error, advice func(code, format string, args ...any) error) error {
	parent := path.Dir(dir)
	for _, one := range []string{dir, parent} {
		if locked(ecosystem, one) {
			name := path.Join("ecosystem", one)
			return advice("immutable", "can't be changed (%v): %s has the attribute immutable or append-only. Run in the Rumi home: sudo chattr -ia %s", errno(err), name, name)
		}
	}
	if errors.Is(err, unix.EPERM) && sticky(ecosystem, dir) {
		name := path.Join("ecosystem", parent)
		return advice("sticky", "can't be replaced or removed (%v): %s has the sticky bit, which lets only owners do that. Run in the Rumi home: sudo chmod -t %s", errno(err), name, name)
	}
	if dir == "." && errors.Is(err, unix.EPERM) && Writable(ecosystem, ".") == nil {
		return advice("permission_denied", "can't be changed (%v), though its mode and owner allow it. Look for a security module or an attribute that forbids it", errno(err))
	}
	return advice("permission_denied", "belongs to somebody else (permission denied). %s", GrantCommand(ecosystem, dir, of))
}

// errno is the reason of a system call's error without its path.
func errno(err error) error {
	if e, ok := errors.AsType[unix.Errno](err); ok {
		return e
	}
	return err
}

// GrantCommand is the command that gives this process's group the right to read and change a folder and everything in it; for
// ".", the folder only. dir is relative to the ecosystem folder. of is the entry, in it or itself, for which this process lacks
// rights.
func GrantCommand(ecosystem *os.Root, dir, of string) string {
	name, recursive, mode := path.Join("ecosystem", dir), "-R ", "g+rwX"
	if dir == "." {
		recursive, mode = "", "g+rwxs"
	}
	if info, err := ecosystem.Lstat(of); err == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Gid) == os.Getegid() {
			return fmt.Sprintf("Run in the Rumi home: chmod %s%s %s (with sudo if that is refused)", recursive, mode, name)
		}
	}
	return fmt.Sprintf("Run in the Rumi home: sudo chgrp %s%d %s && sudo chmod %s%s %s", recursive, os.Getegid(), name, recursive, mode, name)
}

// Writable is nil if this process may make and remove names in a folder; otherwise the error says why not.
func Writable(root *os.Root, dir string) error {
	f, err := openDir(root, dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Faccessat(int(f.Fd()), ".", unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
		return &fs.PathError{Op: "access", Path: f.Name(), Err: err}
	}
	return nil
}

// Movable is nil if a folder in the ecosystem folder can be renamed, as far as its mount and its rights show; it doesn't try. The error
// is one that Advise explains.
func Movable(ecosystem *os.Root, dir string) error {
	st, err := statx(ecosystem, dir)
	if err != nil {
		return err
	}
	failed := func(err error) error { return &fs.PathError{Op: "rename", Path: dir, Err: err} }
	switch {
	case st.Attributes&st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0:
		return failed(unix.EBUSY)
	case locked(ecosystem, dir), locked(ecosystem, path.Dir(dir)), sticky(ecosystem, dir):
		return failed(unix.EPERM)
	}
	return nil
}

// locked says whether an entry has an attribute (immutable, append-only) that forbids to rename and remove it.
func locked(ecosystem *os.Root, dir string) bool {
	st, err := statx(ecosystem, dir)
	return err == nil && st.Attributes&(unix.STATX_ATTR_IMMUTABLE|unix.STATX_ATTR_APPEND) != 0
}

// sticky says whether the sticky bit of the folder that an entry is in keeps this process from renaming it.
func sticky(ecosystem *os.Root, dir string) bool {
	parent, err := statx(ecosystem, path.Dir(dir))
	if err != nil || dir == "." || parent.Mode&unix.S_ISVTX == 0 {
		return false
	}
	entry, err := statx(ecosystem, dir)
	me := uint32(os.Geteuid())
	return err == nil && me != 0 && entry.Uid != me && parent.Uid != me
}

func statx(ecosystem *os.Root, name string) (st unix.Statx_t, err error) {
	dir, err := ecosystem.Open(".")
	if err != nil {
		return st, err
	}
	defer dir.Close()
	if err := unix.Statx(int(dir.Fd()), name, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, unix.STATX_BASIC_STATS, &st); err != nil {
		return st, &fs.PathError{Op: "statx", Path: name, Err: err}
	}
	return st, nil
}
