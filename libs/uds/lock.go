package uds

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/rumi-ai/rumi/libs/flock"
)

// lock is the exclusive flock that decides which replica serves a socket. Its file is beside the socket's directory, not in
// it: a pack has the directory mounted, and could hold the lock itself, to keep its socket from being served.
type lock struct{ file *flock.File }

// newLock names the lock of a socket. It makes the folder of the sockets if it is missing.
func newLock(cfg Config) (*lock, error) {
	if filepath.Base(cfg.Name) != cfg.Name || cfg.Name == "." || cfg.Name == ".." {
		return nil, fmt.Errorf("listen: %q is no directory name", cfg.Name)
	}
	if err := os.MkdirAll(cfg.Dir, 0o751); err != nil {
		return nil, fmt.Errorf("make socket folder: %w", err)
	}
	return &lock{flock.New(filepath.Join(cfg.Dir, cfg.Name+".lock"))}, nil
}

// try takes the lock without waiting, or returns ErrLocked.
func (k *lock) try() error {
	err := k.file.Try()
	if errors.Is(err, flock.ErrLocked) {
		return ErrLocked
	}
	return err
}

// close releases the lock; the file stays.
func (k *lock) close() { k.file.Close() }

// remove removes the file and releases the lock; see flock.File.Remove.
func (k *lock) remove() { k.file.Remove() }
