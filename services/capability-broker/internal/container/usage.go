package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/periodic"
)

// measureInterval is how often the data folders of running packs are measured where there is a limit. A pack may go over it
// for as long.
const measureInterval = time.Minute

// Usage is what a pack's data folder holds.
type Usage struct {
	Bytes int64 // on the disk, nameBytes at least for each of Files
	Files int64 // folders included
}

const (
	namesAtOnce = 256 // of a folder that is measured: a pack may put any number of files into one
	deepest     = 256 // folders in each other; each holds a descriptor while what is in it is measured

	// nameBytes is what a name counts for that takes less on the disk. An empty file takes an inode and no block; where no
	// inode is left, nobody on the host makes a file any more.
	nameBytes = 4096
)

// usage measures a folder, following no link, also where the pack puts one in a folder's place meanwhile. What vanishes
// counts for nothing; what can't be read or lies deeper than deepest is an error, since a pack may close its folders to us.
// It needs no more memory for many files than for few.
func usage(ctx context.Context, dir string) (Usage, error) {
	var u Usage
	if err := u.measure(ctx, unix.AT_FDCWD, dir, 0); err != nil {
		return u, fmt.Errorf("measure data folder: %w", err)
	}
	return u, nil
}

// measure adds what has that name in the folder that parent is open on, and what is in it.
func (u *Usage) measure(ctx context.Context, parent int, name string, depth int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var is unix.Stat_t
	switch err := retry(func() error { return unix.Fstatat(parent, name, &is, unix.AT_SYMLINK_NOFOLLOW) }); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	u.Files++
	u.Bytes += max(is.Blocks*512, nameBytes) // what the file system says it takes; a hole takes nothing
	if is.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	if depth >= deepest {
		return fmt.Errorf("folders lie in each other more than %d deep", deepest)
	}
	var fd int
	err := retry(func() (err error) {
		fd, err = unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		return err
	})
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP): // it was replaced
		return nil
	case err != nil:
		return err
	}
	folder := os.NewFile(uintptr(fd), name)
	defer folder.Close()
	for {
		names, err := folder.Readdirnames(namesAtOnce)
		for _, name := range names {
			if err := u.measure(ctx, fd, name, depth+1); err != nil {
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

// retry repeats a system call that a signal interrupted.
func retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

// dataProblem says what is wrong with a data folder, "" for nothing.
func (m *Manager) dataProblem(ctx context.Context, dir string) string {
	if m.DataMax == 0 {
		return ""
	}
	switch u, err := usage(ctx, dir); {
	case ctx.Err() != nil:
		return ""
	case err != nil:
		return "data folder can't be measured"
	case u.Bytes > m.DataMax:
		return fmt.Sprintf("data folder holds %d MiB in %d files and folders, more than the %d MiB that it may", u.Bytes>>20, u.Files, m.DataMax>>20)
	}
	return ""
}

// checkDataLimit refuses to start a pack whose data folder is over its limit already.
func (m *Manager) checkDataLimit(ctx context.Context, dir string) error {
	if reason := m.dataProblem(ctx, dir); reason != "" {
		return fault.Conflict("Pack can't be started: its %s", reason).With("data_full")
	}
	return nil
}

// watchDataLimit measures until Watch ends.
func (m *Manager) watchDataLimit() {
	_ = periodic.Run(m.background, measureInterval, m.enforceDataLimit)
}

// enforceDataLimit stops those packs whose data folders are over the limit.
func (m *Manager) enforceDataLimit(ctx context.Context) {
	for _, r := range m.allRecords() {
		if !r.Running {
			continue
		}
		reason := m.dataProblem(ctx, filepath.Join(m.DataDir, r.PackID))
		if reason == "" {
			continue
		}
		m.Log.WarnContext(ctx, "stopping a container", "pack_id", r.PackID, "reason", reason)
		if err := m.stopIfStill(ctx, r.PackID, r.ContainerID, reason); err != nil {
			m.Log.ErrorContext(ctx, "stopping a container failed; trying again", "pack_id", r.PackID, "error", err)
		}
	}
}

// stopIfStill stops a pack's container, if it is still that one, for a reason found without holding the pack.
func (m *Manager) stopIfStill(ctx context.Context, packID, id, reason string) error {
	release, err := m.lockPack(ctx, packID)
	if err != nil {
		return err
	}
	defer release()
	r, err := m.Records.Record(ctx, packID)
	if err != nil || !r.Running || r.ContainerID != id {
		return err
	}
	return m.stopContainer(ctx, r, 0, reason, false)
}
