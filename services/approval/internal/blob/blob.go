// Package blob is the content-addressed store of approved bytes: each content once, under its SHA-256, and the manifest
// of each approved tree under its digest.
package blob

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

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

// abandoned is how old something in incoming must be to be what a process that died left there.
const abandoned = time.Hour

// Store is a folder of blobs and manifests. Bytes come into it through an Intake.
type Store struct {
	root *os.Root
	dir  *os.File     // the same, open, for calls that os.Root makes many of
	use  sync.RWMutex // held for reading by every Intake

	mu       sync.Mutex
	unsynced map[string]bool // blobs that have their names but may not be on the disk yet
}

// Open opens the store in the folder path, making what it needs; what a process that died left half-written is removed.
func Open(path string) (*Store, error) {
	if err := os.MkdirAll(path, 0o750); err != nil {
		return nil, fmt.Errorf("open blob store: %w", err)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("open blob store: %w", err)
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
	dir, err := root.Open(".")
	if err == nil {
		err = errors.Join(sweepIncoming(root), unix.Syncfs(int(dir.Fd())))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open blob store: %w", err), root.Close())
	}
	return &Store{root: root, dir: dir, unsynced: map[string]bool{}}, nil
}

// sweepIncoming removes what is too old to be another replica's.
func sweepIncoming(root *os.Root) error {
	entries, err := fs.ReadDir(root.FS(), incoming)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || time.Since(info.ModTime()) < abandoned {
			continue
		}
		if err := root.Remove(filepath.Join(incoming, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Close closes the store.
func (s *Store) Close() error { return errors.Join(s.dir.Close(), s.root.Close()) }

func blobPath(sha256 string) string     { return blobs + "/" + sha256[:2] + "/" + sha256 }
func manifestPath(digits string) string { return manifests + "/" + digits + ".json" }

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
	w, err := in.create()
	if err != nil {
		return nil, fmt.Errorf("create blob: %w", err)
	}
	return w, nil
}

// create makes a file in incoming. Nobody but this service writes to the store's folder, and its names are all made here,
// so plain calls relative to it do for what os.Root would take several for: an approval makes a file for each of the pack's.
func (in *Intake) create() (*writing, error) {
	temp := incoming + "/" + rand.Text()
	fd, err := unix.Openat(int(in.store.dir.Fd()), temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &fs.PathError{Op: "create", Path: temp, Err: err}
	}
	return &writing{intake: in, temp: temp, file: os.NewFile(uintptr(fd), temp)}, nil
}

type writing struct {
	intake *Intake
	temp   string // relative to the store
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
	if err := w.file.Close(); err != nil {
		return errors.Join(fmt.Errorf("commit blob: %w", err), s.root.Remove(w.temp))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	dir, name := int(s.dir.Fd()), blobPath(sha256)
	err := unix.Renameat2(dir, w.temp, dir, name, unix.RENAME_NOREPLACE)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, unix.EINVAL) { // there already, or a file system that can't promise that
		if info, err := s.root.Lstat(name); err == nil && info.Size() == w.size {
			if s.unsynced[sha256] { // another intake's, which may never sync it
				w.intake.note(sha256)
			}
			return s.root.Remove(w.temp)
		}
		err = unix.Renameat(dir, w.temp, dir, name)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("commit blob: %w", err), s.root.Remove(w.temp))
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
	_ = w.intake.store.root.Remove(w.temp) // what stays is removed by Open
}

// syncers is how many files are synced at once: the file system's journal takes those together that wait together.
const syncers = 128

// Keep writes the manifest whose blobs have been committed and brings all of it to the disk.
func (in *Intake) Keep(m tree.Manifest) error {
	name, err := in.putManifest(m)
	if err != nil {
		return fmt.Errorf("keep manifest: %w", err)
	}
	// In any order, as nothing names the manifest yet but what was kept before.
	if err := in.syncAll(name, manifests); err != nil {
		return fmt.Errorf("keep manifest: %w", err)
	}
	return nil
}

// putManifest gives a manifest its place, unless it is there: one that a record names is never replaced by one that is not
// on the disk yet.
func (in *Intake) putManifest(m tree.Manifest) (name string, err error) {
	digest := m.Digest()
	digits, err := tree.ParseDigest(digest)
	if err != nil {
		return "", err
	}
	name = manifestPath(digits)
	if _, err := in.store.Manifest(digest); err == nil {
		return name, nil
	}
	w, err := in.create()
	if err != nil {
		return "", err
	}
	err = errors.Join(tree.WriteManifest(w.file, m), w.file.Close())
	if err == nil {
		err = in.store.root.Rename(w.temp, name)
	}
	if err != nil {
		return "", errors.Join(err, in.store.root.Remove(w.temp))
	}
	return name, nil
}

// syncAll brings the committed blobs and some more files and folders to the disk.
func (in *Intake) syncAll(more ...string) error {
	in.mu.Lock()
	fresh := in.fresh
	in.mu.Unlock()
	paths := map[string]bool{}
	for _, sha256 := range fresh {
		paths[blobPath(sha256)] = true
		paths[filepath.Dir(blobPath(sha256))] = true
	}
	for _, path := range more {
		paths[path] = true
	}
	var group errgroup.Group
	group.SetLimit(syncers)
	for path := range paths {
		group.Go(func() error { return in.store.sync(path) })
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
	f, err := s.root.Open(manifestPath(digits))
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
