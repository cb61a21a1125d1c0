// Package flock has files whose lock says who does something: one process on this host at a time. The kernel drops a
// lock with its holder, however that ends.
package flock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrLocked is a lock that another holds. Trying again later is right.
var ErrLocked = errors.New("another process has the lock")

// pollEvery is how often Lock tries. A blocking flock(2) would keep a thread, and couldn't be given up.
const pollEvery = 10 * time.Millisecond

// File is a lock file. It is not for concurrent use; two Files of one path exclude each other in one process, too.
type File struct {
	path string
	how  int
	file *os.File // open while the lock is held or waited for
}

// New names a lock file, which Try makes (0640, its folder must be there).
func New(path string) *File { return &File{path: path, how: unix.LOCK_EX} }

// NewShared is New for a lock that any number may hold who share it, while nobody holds it alone.
func NewShared(path string) *File { return &File{path: path, how: unix.LOCK_SH} }

// Try takes the lock without waiting, or returns ErrLocked. A link at the path is an error.
func (f *File) Try() error {
	for {
		if f.file == nil {
			fd, err := unix.Open(f.path, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o640)
			if err != nil {
				return fmt.Errorf("open lock file %s: %w", f.path, err)
			}
			f.file = os.NewFile(uintptr(fd), f.path)
		}
		switch err := unix.Flock(int(f.file.Fd()), f.how|unix.LOCK_NB); {
		case errors.Is(err, unix.EWOULDBLOCK):
			return ErrLocked
		case err != nil:
			return fmt.Errorf("lock %s: %w", f.path, err)
		}
		// A holder that removed the file left us the lock of nothing.
		var mine, there unix.Stat_t
		if err := unix.Fstat(int(f.file.Fd()), &mine); err != nil {
			return fmt.Errorf("look at lock %s: %w", f.path, err)
		}
		if err := unix.Lstat(f.path, &there); err == nil && mine.Ino == there.Ino && mine.Dev == there.Dev {
			return nil
		}
		f.Close()
	}
}

// Lock waits for the lock, until ctx ends.
func (f *File) Lock(ctx context.Context) error {
	for {
		err := f.Try()
		if !errors.Is(err, ErrLocked) {
			return err
		}
		select {
		case <-ctx.Done():
			f.Close()
			return fmt.Errorf("lock %s: %w", f.path, ctx.Err())
		case <-time.After(pollEvery):
		}
	}
}

// Close lets the lock go, or gives up waiting for it. The file stays.
func (f *File) Close() {
	if f.file != nil {
		f.file.Close()
		f.file = nil
	}
}

// Remove takes the file away while the lock is still held, so that nobody can hold a lock on a file that is about to go.
func (f *File) Remove() {
	os.Remove(f.path)
	f.Close()
}
