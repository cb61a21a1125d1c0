package packdata

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Usage is the size of a data folder.
type Usage struct {
	Bytes int64 // on the disk; each of Files counts for minFileBytes at least
	Files int64 // files of every kind, folders included
}

const (
	readBatch = 256 // names that are read from a folder at a time: a pack may put any number of files into one
	maxDepth  = 256 // folders within folders; each level holds a descriptor open while what is in it is measured

	// minFileBytes is what a file counts for that takes less on the disk. An empty file takes an inode and no block; once a
	// pack has used up the file system's inodes, nobody on the host can make a file any more. So files count, not bytes alone.
	minFileBytes = 4096
)

// Measure adds up what a data folder holds. It may run while the pack writes there.
//
// The pack controls what is measured. A link is counted and not followed, also if the pack puts it in a folder's stead
// between two looks. What vanishes meanwhile counts for nothing. What can't be read, or lies deeper than maxDepth, is
// an error and not a gap: otherwise a pack could hide data in a folder that it closes to us. Memory doesn't grow with the number
// of files.
func Measure(ctx context.Context, dir string) (Usage, error) {
	var u Usage
	if err := u.add(ctx, unix.AT_FDCWD, dir, 0); err != nil {
		return u, fmt.Errorf("measure data folder: %w", err)
	}
	return u, nil
}

// add counts the entry called name in the folder that parent is open on, and everything in it.
func (u *Usage) add(ctx context.Context, parent int, name string, depth int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var st unix.Stat_t
	switch err := retry(func() error { return unix.Fstatat(parent, name, &st, unix.AT_SYMLINK_NOFOLLOW) }); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	u.Files++
	u.Bytes += max(st.Blocks*512, minFileBytes) // blocks, not the length: a hole takes no space
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	if depth >= maxDepth {
		return fmt.Errorf("folders lie in each other more than %d deep", maxDepth)
	}
	folder, err := openFolder(parent, name)
	if folder == nil || err != nil {
		return err
	}
	defer folder.Close()
	for {
		names, err := folder.Readdirnames(readBatch)
		for _, name := range names {
			if err := u.add(ctx, int(folder.Fd()), name, depth+1); err != nil {
				return err
			}
		}
		if err == io.EOF || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// openFolder opens a folder within parent. It returns nil if something else has taken the folder's name since it was looked
// at: the flags make the kernel refuse a link, so there is no time between a check and the use.
func openFolder(parent int, name string) (*os.File, error) {
	var fd int
	err := retry(func() (err error) {
		fd, err = unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		return err
	})
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// retry repeats a system call that a signal interrupted.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
