package uds

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/rumi-ai/rumi/libs/flock"
)

// lock is the exclusive flock that decides which replica serves a socket. Its file lies beside the socket's directory, out
// of reach of whoever has the directory mounted.
type lock struct{ file *flock.File }

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

func (k *lock) close() { k.file.Close() }

// remove takes the file away while the lock is still held.
func (k *lock) remove() { k.file.Remove() }
