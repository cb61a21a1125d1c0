// Package flock has locks between processes on one host: flock(2) on a file that is named, or on one that is open. The
// kernel drops such a lock with the last descriptor of its open file, however the process ends, so none is left over
// by a crash. It isn't seen by other hosts. (libs/store/changes.go has locks of another kind, those of fcntl(2).)
//
// A File has a path: it is for lock files, which may be removed and made anew while others wait for them. TryOpen and
// WaitOpen lock what is open already, such as a folder; they are for files and folders that nobody replaces.
package flock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrLocked says that another open file, of this process or of another, holds the lock. Trying again later is right.
var ErrLocked = errors.New("another process has the lock")

// pollInterval is how often File.Lock tries. A blocking flock(2) would keep a thread of the process for as long as it
// waits, and couldn't be given up when a context ends.
const pollInterval = 10 * time.Millisecond

// Mode says whether others may hold the lock at the same time.
type Mode int

// The modes of flock(2).
const (
	Exclusive Mode = unix.LOCK_EX // nobody else holds it
	Shared    Mode = unix.LOCK_SH // others may share it, and nobody holds it alone
)

// TryOpen locks an open file or folder without waiting, or returns ErrLocked. The lock belongs to the open file: it ends with
// Unlock, or when f and all copies of its descriptor are closed. An f that has the lock in the other mode changes to
// this one, which the kernel does by giving up the old one first.
func TryOpen(f *os.File, mode Mode) error {
	switch err := call(f, int(mode)|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		return ErrLocked
	case err != nil:
		return fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return nil
}

// WaitOpen is TryOpen, but waits for the lock however long it takes. It keeps a thread of the process meanwhile: it is for locks
// that are held for a moment by processes of the suite only.
func WaitOpen(f *os.File, mode Mode) error {
	if err := call(f, int(mode)); err != nil {
		return fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return nil
}

// Unlock gives up the lock of an open file that stays open.
func Unlock(f *os.File) error {
	if err := call(f, unix.LOCK_UN); err != nil {
		return fmt.Errorf("unlock %s: %w", f.Name(), err)
	}
	return nil
}

// call is flock(2), begun again where a signal interrupted it: the Go runtime sends some to its own threads.
func call(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// File is a lock file: a path at which Try makes an empty file to lock. It is not for concurrent use. Two Files of one path
// exclude each other in one process, too.
type File struct {
	path string
	mode Mode
	file *os.File // open while the lock is held or waited for
}

// New is the lock file at path, to be held alone. Its folder must be there; the file is made by Try, with mode 0640.
func New(path string) *File { return &File{path: path, mode: Exclusive} }

// NewShared is New for a lock that any number of processes may share, as long as no process holds it alone.
func NewShared(path string) *File { return &File{path: path, mode: Shared} }

// Try takes the lock without waiting, or returns ErrLocked. A link at the path is an error: it could lead to a file of
// somebody else's choice.
func (f *File) Try() error {
	for {
		if f.file == nil {
			fd, err := unix.Open(f.path, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o640)
			if err != nil {
				return fmt.Errorf("open lock file %s: %w", f.path, err)
			}
			f.file = os.NewFile(uintptr(fd), f.path)
		}
		if err := TryOpen(f.file, f.mode); err != nil {
			return err
		}
		// The race: the holder removed the file after we had opened it, and before we got its lock. A lock of a file that
		// has no name excludes no other process, because all others open the new file at the path. So the file that is locked must be
		// the one at the path; if not, begin again.
		var locked, named unix.Stat_t
		if err := unix.Fstat(int(f.file.Fd()), &locked); err != nil {
			return fmt.Errorf("inspect lock file %s: %w", f.path, err)
		}
		if err := unix.Lstat(f.path, &named); err == nil && locked.Ino == named.Ino && locked.Dev == named.Dev {
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
		case <-time.After(pollInterval):
		}
	}
}

// Close gives up the lock, or waiting for it. The file stays.
func (f *File) Close() {
	if f.file != nil {
		f.file.Close()
		f.file = nil
	}
}

// Remove removes the file, and then gives up the lock. The other order would be a race: another process could take the lock
// before the removal, and hold the lock of a file without a name. See Try.
func (f *File) Remove() {
	os.Remove(f.path)
	f.Close()
}
