package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

const (
	tempPrefix     = ".receiving-"
	abandonedAfter = time.Hour // after which what is still being received was left by a process that died
	fetchTimeout   = 5 * time.Minute
)

// Cache keeps read-only copies of trees that another service owns, each in a folder named by its digest's digits. Copies are mounted into
// containers, so what Get returns must be what the digest names, whatever happened to the disk or was done by hand: each Get verifies. It
// is safe for concurrent use, and several processes may share its folder.
type Cache struct {
	dir   string
	fetch func(ctx context.Context, digest string) (io.ReadCloser, error)

	flights      singleflight.Group
	mu           sync.Mutex
	fingerprints map[string]Fingerprint // of the copies that this process has verified, by digest
}

// NewCache makes a Cache of the copies in dir, which must exist. fetch asks the owner of the trees for the stream that Send writes.
func NewCache(dir string, fetch func(ctx context.Context, digest string) (io.ReadCloser, error)) *Cache {
	return &Cache{dir: dir, fetch: fetch, fingerprints: map[string]Fingerprint{}}
}

// Get returns the path of the copy, the folder to mount, and fetches it if it is missing. The copy is verified against the digest each time:
// by hashing it or, if its Fingerprint is still the one from before this process hashed it, by that. A damaged copy is fetched again. Get's
// error wraps that of fetch.
func (c *Cache) Get(ctx context.Context, digest string) (string, error) {
	digits, err := ParseDigest(digest)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(c.dir, digits)
	// All callers for one digest wait for one fetch. One that gives up must not end it for the others.
	done := c.flights.DoChan(digest, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
		defer cancel()
		return nil, c.ensure(ctx, digest, dir)
	})
	select {
	case result := <-done:
		if result.Err != nil {
			return "", fmt.Errorf("get tree: %w", result.Err)
		}
		return filepath.Join(dir, TreeName), nil
	case <-ctx.Done():
		return "", fmt.Errorf("get tree: %w", ctx.Err())
	}
}

func (c *Cache) ensure(ctx context.Context, digest, dir string) error {
	switch err := c.verify(ctx, digest, dir); {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
	case errors.Is(err, ErrMismatch):
		if err := c.remove(digest, dir); err != nil {
			return err
		}
	default:
		return err
	}
	stream, err := c.fetch(ctx, digest)
	if err != nil {
		return err
	}
	defer stream.Close()
	// ErrExist: another process was faster. Its copy is verified like our own.
	if err := Receive(stream, digest, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return c.verify(ctx, digest, dir)
}

// verify returns nil if dir holds the tree, fs.ErrNotExist if nothing is there, ErrMismatch if it is another tree or damaged.
func (c *Cache) verify(ctx context.Context, digest, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	fingerprint, err := FingerprintOf(ctx, root)
	if err != nil {
		return damaged(ctx, err)
	}
	c.mu.Lock()
	known, ok := c.fingerprints[digest]
	c.mu.Unlock()
	if ok && known == fingerprint {
		return nil
	}
	if err := verifyCopy(ctx, root, digest); err != nil {
		return damaged(ctx, err)
	}
	c.mu.Lock()
	c.fingerprints[digest] = fingerprint
	c.mu.Unlock()
	return nil
}

// Manifest returns the manifest of a copy that Get has made. It doesn't verify the copy. Without a copy it is fs.ErrNotExist.
func (c *Cache) Manifest(digest string) (Manifest, error) {
	digits, err := ParseDigest(digest)
	if err != nil {
		return Manifest{}, err
	}
	root, err := os.OpenRoot(filepath.Join(c.dir, digits))
	if err != nil {
		return Manifest{}, fmt.Errorf("read manifest: %w", err)
	}
	defer root.Close()
	return manifestOf(root)
}

// Sweep removes the copies for whose digest keep is false, and what processes that died were receiving. The caller makes sure that no process is
// about to mount one of those.
func (c *Cache) Sweep(keep func(digest string) bool) error {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return fmt.Errorf("sweep trees: %w", err)
	}
	var problems []error
	for _, e := range entries {
		path := filepath.Join(c.dir, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), tempPrefix):
			if info, err := e.Info(); err != nil || time.Since(info.ModTime()) < abandonedAfter {
				continue
			}
			problems = append(problems, RemoveAll(path))
		case isHex(e.Name()) && !keep("sha256:"+e.Name()):
			problems = append(problems, c.remove("sha256:"+e.Name(), path))
		}
	}
	if err := errors.Join(problems...); err != nil {
		return fmt.Errorf("sweep trees: %w", err)
	}
	return nil
}

// remove renames a copy into a temporary folder before it removes it, so that no other process finds half of it.
func (c *Cache) remove(digest, dir string) error {
	c.mu.Lock()
	delete(c.fingerprints, digest)
	c.mu.Unlock()
	trash, err := os.MkdirTemp(c.dir, tempPrefix)
	if err != nil {
		return err
	}
	defer RemoveAll(trash)
	if err := os.Rename(dir, filepath.Join(trash, "dropped")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
