package tree

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

// renameat2 is the system call; tests replace it to act like file systems that know none of its flags.
var renameat2 = unix.Renameat2

// lacksFlag says whether a file system, or the kernel, doesn't know a flag of renameat2: NFS, most FUSE file systems, ZFS before 2.2,
// exFAT and 9p answer EINVAL.
func lacksFlag(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP)
}

// RenameNew renames from to to, both relative to the folder that dir is open on (unix.AT_FDCWD for the working folder). The error is
// fs.ErrExist if something is at to already. File systems that know RENAME_NOREPLACE check and rename in one step. On others it is checked
// first, and something may appear at to in between: rename(2) replaces that only if it is an empty folder.
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

// Exchange swaps two folders, relative to the folder that dir is open on. Both must exist; aside is a third name, which must be
// free. On a file system that can't swap in one step, b is renamed to aside, then a to b, then aside to a. A process that is killed
// in between leaves the former b at aside, and either b or a is missing: the caller's journal has what it needs to end the swap. After an
// error everything is as it was, or the former b is at aside.
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
