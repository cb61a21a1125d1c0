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

	"golang.org/x/sync/errgroup"
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

// Store is a folder of blobs and manifests. Bytes come into it through an Intake.
type Store struct {
	root *os.Root
	use  sync.RWMutex // held for reading by every Intake

	mu       sync.Mutex
	unsynced map[string]bool // blobs that have their names but may not be on the disk yet
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
	// What an earlier process named but didn't sync counts as there from now on, so it must be.
	if err := syncAll(root); err != nil {
		return nil, errors.Join(fmt.Errorf("open blob store: %w", err), root.Close())
	}
	return &Store{root: root, unsynced: map[string]bool{}}, nil
}

func syncAll(root *os.Root) error {
	dir, err := root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	return unix.Syncfs(int(dir.Fd()))
}

// Close closes the store.
func (s *Store) Close() error { return s.root.Close() }

func blobPath(sha256 string) string { return filepath.Join(blobs, sha256[:2], sha256) }

// Intake takes a tree's bytes into the store. It is a tree.Sink; what it was given is on the disk for certain after
// Keep. Until End nothing is collected.
type Intake struct {
	store *Store

	mu    sync.Mutex
	fresh []string // blobs of the tree that Keep has to sync
}

// Begin begins to take bytes in; End must be called when the manifest that Keep wrote is among those that are named to
// Collect, or won't be.
func (s *Store) Begin() *Intake {
	s.use.RLock()
	return &Intake{store: s}
}

// End lets Collect take what is not named.
func (in *Intake) End() { in.store.use.RUnlock() }

// Create implements tree.Sink.
func (in *Intake) Create(int64) (tree.Blob, error) {
	f, err := os.CreateTemp(filepath.Join(in.store.root.Name(), incoming), "")
	if err != nil {
		return nil, fmt.Errorf("create blob: %w", err)
	}
	return &writing{intake: in, file: f}, nil
}

type writing struct {
	intake *Intake
	file   *os.File
	size   int64
}

func (w *writing) Write(p []byte) (int, error) {
	n, err := w.file.Write(p)
	w.size += int64(n)
	return n, err
}

// Commit gives the blob its name, unless it is there already. A blob of another size is what a crash of the machine
// left of an earlier one.
func (w *writing) Commit(sha256 string) error {
	s := w.intake.store
	temp := filepath.Join(incoming, filepath.Base(w.file.Name()))
	if err := w.file.Close(); err != nil {
		return errors.Join(fmt.Errorf("commit blob: %w", err), s.root.Remove(temp))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if info, err := s.root.Lstat(blobPath(sha256)); err == nil && info.Size() == w.size {
		if s.unsynced[sha256] { // another intake's, which may never sync it
			w.intake.note(sha256)
		}
		return s.root.Remove(temp)
	}
	if err := s.root.Rename(temp, blobPath(sha256)); err != nil {
		return errors.Join(fmt.Errorf("commit blob: %w", err), s.root.Remove(temp))
	}
	s.unsynced[sha256] = true
	w.intake.note(sha256)
	return nil
}

func (in *Intake) note(sha256 string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.fresh = append(in.fresh, sha256)
}

func (w *writing) Discard() {
	_ = w.file.Close()
	_ = os.Remove(w.file.Name()) // what stays is removed by Open
}

// syncers is how many files are synced at once: the file system's journal takes them together.
const syncers = 16

// Keep writes the manifest whose blobs have been committed and brings all of it to the disk.
func (in *Intake) Keep(m tree.Manifest) error {
	digits, err := tree.ParseDigest(m.Digest())
	if err != nil {
		return fmt.Errorf("keep manifest: %w", err)
	}
	if err := in.syncBlobs(); err != nil {
		return fmt.Errorf("keep manifest: %w", err)
	}
	s := in.store
	f, err := os.CreateTemp(filepath.Join(s.root.Name(), incoming), "")
	if err != nil {
		return fmt.Errorf("keep manifest: %w", err)
	}
	err = errors.Join(tree.WriteManifest(f, m), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(s.root.Name(), manifests, digits+".json"))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("keep manifest: %w", err), os.Remove(f.Name()))
	}
	if err := s.sync(manifests); err != nil {
		return fmt.Errorf("keep manifest: %w", err)
	}
	return nil
}

func (in *Intake) syncBlobs() error {
	in.mu.Lock()
	fresh := in.fresh
	in.mu.Unlock()
	folders := map[string]bool{}
	var group errgroup.Group
	group.SetLimit(syncers)
	for _, sha256 := range fresh {
		folders[filepath.Dir(blobPath(sha256))] = true
		group.Go(func() error { return in.store.sync(blobPath(sha256)) })
	}
	for folder := range folders {
		group.Go(func() error { return in.store.sync(folder) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	in.store.mu.Lock()
	defer in.store.mu.Unlock()
	for _, sha256 := range fresh {
		delete(in.store.unsynced, sha256)
	}
	return nil
}

// sync brings a file or a folder to the disk.
func (s *Store) sync(path string) error {
	f, err := s.root.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
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
		s.mu.Lock()
		delete(s.unsynced, entry.Name())
		s.mu.Unlock()
		return s.root.Remove(path)
	})
}
