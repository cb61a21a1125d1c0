// Package blob is the content-addressed store of approved bytes: each content once, under its SHA-256, and the manifest
// of each approved tree under its digest.
package blob

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/tree"
)

// The folders of a store.
const (
	blobs     = "blobs"     // <first two digits>/<sha256>
	manifests = "manifests" // <digits of the digest>.json
	incoming  = "incoming"  // what is being written
)

// Store is a folder of blobs and manifests. It is a tree.Sink; what it was given is on the disk for certain only after
// Keep.
type Store struct {
	root *os.Root
	use  sync.RWMutex // held for reading while blobs are on their way to being named by a manifest that is in use
}

// Open opens the store in dir, making what it needs; what an earlier process left half-written is removed.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("open blob store: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open blob store: %w", err)
	}
	if err := root.RemoveAll(incoming); err != nil {
		return nil, errors.Join(fmt.Errorf("open blob store: %w", err), root.Close())
	}
	folders := []string{incoming, manifests, blobs}
	for i := range 256 {
		folders = append(folders, fmt.Sprintf("%s/%02x", blobs, i))
	}
	for _, folder := range folders {
		if err := root.Mkdir(folder, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, errors.Join(fmt.Errorf("open blob store: %w", err), root.Close())
		}
	}
	return &Store{root: root}, nil
}

// Close closes the store.
func (s *Store) Close() error { return s.root.Close() }

func blobPath(sha256 string) string { return filepath.Join(blobs, sha256[:2], sha256) }

// Create implements tree.Sink.
func (s *Store) Create(int64) (tree.Blob, error) {
	f, err := os.CreateTemp(filepath.Join(s.root.Name(), incoming), "")
	if err != nil {
		return nil, fmt.Errorf("create blob: %w", err)
	}
	return &writing{store: s, file: f}, nil
}

type writing struct {
	store *Store
	file  *os.File
	size  int64
}

func (w *writing) Write(p []byte) (int, error) {
	n, err := w.file.Write(p)
	w.size += int64(n)
	return n, err
}

// Commit gives the blob its name, unless it is there already. A blob of another size is what a crash of the machine
// left of an earlier one.
func (w *writing) Commit(sha256 string) error {
	temp := filepath.Join(incoming, filepath.Base(w.file.Name()))
	if err := w.file.Close(); err != nil {
		return errors.Join(fmt.Errorf("commit blob: %w", err), w.store.root.Remove(temp))
	}
	if info, err := w.store.root.Lstat(blobPath(sha256)); err == nil && info.Size() == w.size {
		return w.store.root.Remove(temp)
	}
	if err := w.store.root.Rename(temp, blobPath(sha256)); err != nil {
		return errors.Join(fmt.Errorf("commit blob: %w", err), w.store.root.Remove(temp))
	}
	return nil
}

func (w *writing) Discard() {
	_ = w.file.Close()
	_ = os.Remove(w.file.Name()) // what stays is removed by Open
}

// Keep writes the manifest whose blobs have been committed and brings all of it to the disk. One sync of the file system
// is cheaper than one for each of thousands of files.
func (s *Store) Keep(m tree.Manifest) error {
	digits, err := tree.ParseDigest(m.Digest())
	if err != nil {
		return fmt.Errorf("keep manifest: %w", err)
	}
	f, err := os.CreateTemp(filepath.Join(s.root.Name(), incoming), "")
	if err != nil {
		return fmt.Errorf("keep manifest: %w", err)
	}
	err = errors.Join(tree.WriteManifest(f, m), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(s.root.Name(), manifests, digits+".json"))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("keep manifest: %w", err), os.Remove(f.Name()))
	}
	dir, err := s.root.Open(".")
	if err != nil {
		return fmt.Errorf("keep manifest: %w", err)
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("keep manifest: sync: %w", err)
	}
	return nil
}

// Manifest is the approved tree of a digest ("sha256:<hex>"); one that was never approved is a not-found fault.
func (s *Store) Manifest(digest string) (tree.Manifest, error) {
	digits, err := tree.ParseDigest(digest)
	if err != nil {
		return tree.Manifest{}, err
	}
	f, err := s.root.Open(filepath.Join(manifests, digits+".json"))
	if errors.Is(err, fs.ErrNotExist) {
		return tree.Manifest{}, fault.NotFound("Tree not found: %s", digest)
	}
	if err != nil {
		return tree.Manifest{}, fmt.Errorf("read manifest: %w", err)
	}
	defer f.Close()
	m, err := tree.ReadManifest(f)
	if err != nil {
		return tree.Manifest{}, err
	}
	if got := m.Digest(); got != digest {
		return tree.Manifest{}, fmt.Errorf("read manifest of %s: its digest is %s", digest, got)
	}
	return m, nil
}

// Open opens a blob by its SHA-256 in hexadecimal.
func (s *Store) Open(sha256 string) (io.ReadCloser, error) {
	f, err := s.root.Open(blobPath(sha256))
	if err != nil {
		return nil, fmt.Errorf("open blob: %w", err)
	}
	return f, nil
}

// Use keeps Collect away until the result is called: between the first Create and the moment when the manifest that Keep
// wrote is among those that are named to Collect.
func (s *Store) Use() (done func()) {
	s.use.RLock()
	return s.use.RUnlock
}

// Collect removes every manifest that is not among the digests that listed gives, and every blob that none of whole,
// some of those, needs. It gives the number of files removed. A digest in whole whose manifest is missing is an error,
// and nothing is removed.
func (s *Store) Collect(named func() (listed, whole []string, err error)) (removed int, err error) {
	s.use.Lock()
	defer s.use.Unlock()
	listed, whole, err := named()
	if err != nil {
		return 0, err
	}
	needed := map[string]bool{}
	for _, digest := range whole {
		m, err := s.Manifest(digest)
		if err != nil {
			return 0, fmt.Errorf("collect blobs: %w", err)
		}
		for _, e := range m.Entries {
			needed[e.SHA256] = true
		}
	}
	kept := map[string]bool{}
	for _, digest := range append(listed, whole...) {
		kept[strings.TrimPrefix(digest, "sha256:")+".json"] = true
	}
	err = errors.Join(
		s.sweep(manifests, kept, &removed),
		s.sweep(blobs, needed, &removed),
	)
	if err != nil {
		return removed, fmt.Errorf("collect blobs: %w", err)
	}
	return removed, nil
}

// sweep removes the files under a folder whose names are not in keep.
func (s *Store) sweep(folder string, keep map[string]bool, removed *int) error {
	return fs.WalkDir(s.root.FS(), folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || keep[entry.Name()] {
			return err
		}
		*removed++
		return s.root.Remove(path)
	})
}
