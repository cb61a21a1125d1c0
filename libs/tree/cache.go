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

// Cache keeps read-only copies of trees that another service owns, in a folder named by the digits of each digest. Several
// processes may share its folder. It is safe for concurrent use.
type Cache struct {
	dir   string
	fetch func(ctx context.Context, digest string) (io.ReadCloser, error)

	flights      singleflight.Group
	mu           sync.Mutex
	fingerprints map[string]Fingerprint // of the copies that this process has verified, by digest
}

// NewCache makes a Cache of the trees in dir, which exists. fetch asks the owner for what Send writes.
func NewCache(dir string, fetch func(ctx context.Context, digest string) (io.ReadCloser, error)) *Cache {
	return &Cache{dir: dir, fetch: fetch, fingerprints: map[string]Fingerprint{}}
}

// Get gives the path of the copy (the folder to mount), fetching it where it is missing. Each time the copy is checked
// against the digest: by hashing it, or, where nothing has changed since it was hashed, by its Fingerprint. A damaged copy is
// fetched anew. The error of fetch is in Get's.
func (c *Cache) Get(ctx context.Context, digest string) (string, error) {
	digits, err := ParseDigest(digest)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(c.dir, digits)
	// A caller that gives up doesn't take from the others what they wait for too.
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
	// Another process may have been faster.
	if err := Receive(stream, digest, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return c.verify(ctx, digest, dir)
}

// verify is nil when dir holds the tree, fs.ErrNotExist when there is nothing, ErrMismatch when it is another.
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

// damaged makes of what was found in a copy that it is not the one; a caller's end stays what it is.
func damaged(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, ErrMismatch) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrMismatch, withoutNotExist{err})
}

// withoutNotExist keeps the text of an error: a file that is missing from a copy must not pass for a missing copy.
type withoutNotExist struct{ err error }

func (e withoutNotExist) Error() string { return e.err.Error() }

// Verify checks that dir, made by Receive, still holds the tree that digest names. Otherwise the error is ErrMismatch.
func Verify(ctx context.Context, dir, digest string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("verify tree: %w", err)
	}
	defer root.Close()
	if err := verifyCopy(ctx, root, digest); err != nil {
		return fmt.Errorf("verify tree: %w", damaged(ctx, err))
	}
	return nil
}

func verifyCopy(ctx context.Context, root *os.Root, digest string) error {
	m, err := manifestOf(root)
	if err != nil {
		return err
	}
	if m.Digest() != digest {
		return ErrMismatch
	}
	copied, err := root.OpenRoot(TreeName)
	if err != nil {
		return err
	}
	defer copied.Close()
	found, err := Scan(ctx, copied, nil)
	if err != nil {
		return err
	}
	if len(found.Entries) != len(m.Entries) {
		return ErrMismatch
	}
	for i, want := range m.Entries {
		want.Mode = copyMode(want)
		if found.Entries[i] != want {
			return fmt.Errorf("%w: %q", ErrMismatch, want.Path)
		}
	}
	return nil
}

// Manifest is that of a copy that Get has made; fs.ErrNotExist without one.
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

func manifestOf(root *os.Root) (Manifest, error) {
	f, err := root.Open(ManifestName)
	if err != nil {
		return Manifest{}, fmt.Errorf("read manifest: %w", err)
	}
	defer f.Close()
	return ReadManifest(f)
}

// Sweep removes the copies whose digests keep doesn't want, and what processes that died were receiving. Nobody may be
// about to mount a tree that keep doesn't want.
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

// remove takes a copy out of the way in one step before it is removed, so that no half of it is ever found.
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
