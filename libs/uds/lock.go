package uds

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// lock is the exclusive flock that decides which replica serves a socket. The kernel drops it with its holder. Its
// file lies beside the socket's directory, out of reach of whoever has the directory mounted.
type lock struct {
	path string
	file *os.File // open while the lock is held or waited for
}

func newLock(cfg Config) (*lock, error) {
	if filepath.Base(cfg.Name) != cfg.Name || cfg.Name == "." || cfg.Name == ".." {
		return nil, fmt.Errorf("listen: %q is no directory name", cfg.Name)
	}
	if err := os.MkdirAll(cfg.Dir, 0o751); err != nil {
		return nil, fmt.Errorf("make socket folder: %w", err)
	}
	return &lock{path: filepath.Join(cfg.Dir, cfg.Name+".lock")}, nil
}

// try takes the lock without waiting, or returns ErrLocked.
func (k *lock) try() error {
	for {
		if k.file == nil {
			fd, err := unix.Open(k.path, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
			if err != nil {
				return fmt.Errorf("open lock file %s: %w", k.path, err)
			}
			k.file = os.NewFile(uintptr(fd), k.path)
		}
		switch err := unix.Flock(int(k.file.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
		case errors.Is(err, unix.EWOULDBLOCK):
			return ErrLocked
		case err != nil:
			return fmt.Errorf("lock %s: %w", k.path, err)
		}
		// A holder that removed the file left us the lock of nothing.
		var mine, there unix.Stat_t
		if err := unix.Fstat(int(k.file.Fd()), &mine); err != nil {
			return fmt.Errorf("look at lock %s: %w", k.path, err)
		}
		if err := unix.Lstat(k.path, &there); err == nil && mine.Ino == there.Ino && mine.Dev == there.Dev {
			return nil
		}
		k.close()
	}
}

func (k *lock) close() {
	if k.file != nil {
		k.file.Close()
		k.file = nil
	}
}

// remove takes the file away while the lock is still held, so that nobody can hold a lock on a file that is about to go.
func (k *lock) remove() {
	os.Remove(k.path)
	k.close()
}
