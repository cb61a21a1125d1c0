package tree

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

// renameat2 is the system call; tests stand in for file systems that know none of its flags.
var renameat2 = unix.Renameat2

// lacksFlag says whether a file system, or the kernel, doesn't know a flag of renameat2: NFS, most FUSE file systems, ZFS before 2.2,
// exFAT and 9p answer EINVAL.
func lacksFlag(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP)
}

// RenameNew renames from to to, both relative to the folder that dir is open on, or to the working folder where dir is
// unix.AT_FDCWD. It is fs.ErrExist where something is at to. On a file system that can't refuse by itself it looks first; what
// appears at to between the look and the rename is replaced only if it is an empty folder.
func RenameNew(dir int, from, to string) error {
	err := renameat2(dir, from, dir, to, unix.RENAME_NOREPLACE)
	if !lacksFlag(err) {
		return err
	}
	var st unix.Stat_t
	switch err := unix.Fstatat(dir, to, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case err == nil:
		return unix.EEXIST
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	err = unix.Renameat(dir, from, dir, to)
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.ENOTDIR) { // it has appeared meanwhile
		return unix.EEXIST
	}
	return err
}

// Exchange swaps two folders, relative to the folder that dir is open on. Both must be there; aside is a third name, which must be
// free. On a file system that can't swap, folder b is renamed to aside, then a to b, then aside to a: a process that is killed
// meanwhile leaves b's folder at aside, and its name free or a's name free. After an error everything is where it was, or b's folder
// is at aside, where the caller finds it.
func Exchange(dir int, a, b, aside string) error {
	err := renameat2(dir, a, dir, b, unix.RENAME_EXCHANGE)
	if !lacksFlag(err) {
		return err
	}
	if err := RenameNew(dir, b, aside); err != nil {
		return err
	}
	if err := RenameNew(dir, a, b); err != nil {
		return errors.Join(err, RenameNew(dir, aside, b))
	}
	if err := RenameNew(dir, aside, a); err != nil {
		return errors.Join(err, RenameNew(dir, b, a), RenameNew(dir, aside, b))
	}
	return nil
}
