// Package environment stores the environments that were built for packs: read-only folders for sys.path, by the digest of their
// tree.
package environment

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	api "github.com/rumi-ai/rumi/api/pip"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/tree"
	"github.com/rumi-ai/rumi/services/pip-installer/internal/lock"
)

// maxMetadata bounds a METADATA file, in bytes; it may contain a whole README.
const maxMetadata = 4 << 20

// Store keeps environments in a folder. It is safe for concurrent use, and several processes may use the folder.
type Store struct {
	dir   string
	cache *tree.Cache
}

// NewStore makes a Store of the environments in dir, which must exist.
func NewStore(dir string) *Store {
	missing := func(context.Context, string) (io.ReadCloser, error) { return nil, errMissing() }
	return &Store{dir: dir, cache: tree.NewCache(dir, missing)}
}

func errMissing() error { return fault.NotFound("Environment not found").With("environment_not_found") }

// Path is the folder of the environment with a digest, whether or not it exists.
func (s *Store) Path(digest string) (string, error) {
	digits, err := tree.ParseDigest(digest)
	if err != nil {
		return "", err
	}
	return filepath.Join(s.dir, digits, tree.TreeName), nil
}

// Add checks what a builder left in the folder built, and stores a copy of it. Nobody may write to that folder any more.
// Something that must not be in an environment is a *RefusedError.
func (s *Store) Add(ctx context.Context, built string, locked []lock.Requirement) (api.Environment, error) {
	root, err := os.OpenRoot(built)
	if err != nil {
		return api.Environment{}, fmt.Errorf("add environment: %w", err)
	}
	defer root.Close()
	m, err := tree.Scan(ctx, root, nil)
	if refused, ok := errors.AsType[*tree.RefusedError](err); ok {
		return api.Environment{}, &RefusedError{fmt.Sprintf("%q: %s", refused.Path, refused.Reason)}
	}
	if errors.Is(err, fs.ErrPermission) {
		return api.Environment{}, &RefusedError{"a file can't be read"}
	}
	if err != nil {
		return api.Environment{}, fmt.Errorf("add environment: %w", err)
	}
	packages, err := vet(m, func(name string) ([]byte, error) { return readSmall(root, name) }, locked)
	if err != nil {
		return api.Environment{}, err
	}
	// Modes are normalised: they depend on the builder's umask, and the digest must not.
	for i, e := range m.Entries {
		m.Entries[i].Mode = 0o444
		if e.Kind == tree.Dir || e.Mode&0o111 != 0 {
			m.Entries[i].Mode = 0o555
		}
	}
	env := api.Environment{Digest: m.Digest(), Packages: packages}
	if err := s.store(ctx, root, m, env.Digest); err != nil {
		return api.Environment{}, fmt.Errorf("add environment: %w", err)
	}
	return env, nil
}

func readSmall(root *os.Root, name string) ([]byte, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read metadata: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxMetadata+1))
	if err != nil {
		return nil, fmt.Errorf("read metadata: %w", err)
	}
	if len(text) > maxMetadata {
		return nil, refuse("%q is larger than %d bytes", name, maxMetadata)
	}
	return text, nil
}

// store copies a tree into the store as if it came from another machine: hashed on the way, synced, renamed.
func (s *Store) store(ctx context.Context, root *os.Root, m tree.Manifest, digest string) error {
	switch _, err := s.cache.Get(ctx, digest); {
	case err == nil:
		return nil
	case !fault.Is(err, fault.KindNotFound):
		return err
	}
	path, err := s.Path(digest)
	if err != nil {
		return err
	}
	r, w := io.Pipe()
	go func() {
		w.CloseWithError(tree.Send(w, m, func(e tree.Entry) (io.ReadCloser, error) { return root.Open(e.Path) }))
	}()
	err = tree.Receive(r, digest, filepath.Dir(path))
	_ = r.CloseWithError(err) // lets the sender end
	if errors.Is(err, fs.ErrExist) {
		return nil // another replica has stored the same environment meanwhile
	}
	return err
}

// Send writes an environment for tree.Receive. One that doesn't exist, or isn't complete, is a not-found fault.
func (s *Store) Send(ctx context.Context, w io.Writer, digest string) error {
	path, err := s.cache.Get(ctx, digest)
	if err != nil {
		return err
	}
	m, err := s.cache.Manifest(digest)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return fmt.Errorf("send environment: %w", err)
	}
	defer root.Close()
	return tree.Send(w, m, func(e tree.Entry) (io.ReadCloser, error) { return root.Open(e.Path) })
}

// Sweep removes the environments for which keep is false; age is the time since one was added.
func (s *Store) Sweep(keep func(digest string, age time.Duration) bool) error {
	return s.cache.Sweep(func(digest string) bool {
		path, err := s.Path(digest)
		if err != nil {
			return true
		}
		info, err := os.Stat(filepath.Join(filepath.Dir(path), tree.ManifestName)) // never changed once it is there
		return err == nil && keep(digest, time.Since(info.ModTime()))
	})
}
