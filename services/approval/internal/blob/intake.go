package blob

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/tree"
)

// Intake takes a tree's bytes into the store. It is a tree.Sink; what it was given is in the store, and on the disk for certain, after
// Keep. Until End nothing is collected.
type Intake struct {
	store    *Store
	lockFile *os.File // locked; see Store.hold

	mu            sync.Mutex
	bundle        *bundle  // nil before the first small blob and after Keep
	unsyncedPaths []string // large blobs of the tree that Keep has to sync
}

// Begin begins to take bytes in; End must be called when the manifest that Keep wrote is among those that are named to
// Collect, or won't be.
func (s *Store) NewIntake() (*Intake, error) {
	lockFile, err := s.lock(unix.LOCK_SH)
	if err != nil {
		return nil, fmt.Errorf("begin to keep: %w", err)
	}
	return &Intake{store: s, lockFile: lockFile}, nil
}

// End lets Collect take what is not named; what Keep was not called for is gone.
func (in *Intake) Close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.bundle != nil {
		in.bundle.discard()
		in.bundle = nil
	}
	in.lockFile.Close()
}

// Create implements tree.Sink.
func (in *Intake) Create(size int64) (tree.Blob, error) {
	return &blobWriter{intake: in, content: make([]byte, 0, min(max(size, 0), maxSmall))}, nil
}

// Open opens a blob that was taken in by this intake or is in the store, by its SHA-256 in hexadecimal.
func (in *Intake) Open(digits string) (io.ReadCloser, error) {
	name, err := parseSum(digits)
	if err != nil {
		return nil, fmt.Errorf("open blob: %w", err)
	}
	in.mu.Lock()
	if in.bundle != nil {
		if content, ok, err := in.bundle.open(name); ok {
			in.mu.Unlock()
			return content, err
		}
	}
	in.mu.Unlock()
	return in.store.Open(digits)
}

// writing is a blob on its way. It is in memory until it is found to be large.
type blobWriter struct {
	intake  *Intake
	content []byte
	temp    string // relative to the store
	file    *os.File
	size    int64
}

func (w *blobWriter) Write(p []byte) (int, error) {
	w.size += int64(len(p))
	if w.file == nil && w.size <= maxSmall {
		w.content = append(w.content, p...)
		return len(p), nil
	}
	if w.file == nil {
		var err error
		if w.temp, w.file, err = w.intake.store.create(unix.O_WRONLY); err != nil {
			return 0, fmt.Errorf("create blob: %w", err)
		}
		if _, err := w.file.Write(w.content); err != nil {
			return 0, err
		}
		w.content = nil
	}
	return w.file.Write(p)
}

// Commit gives the blob its name, unless it is there already.
func (w *blobWriter) Commit(digits string) error {
	name, err := parseSum(digits)
	if err == nil && w.file != nil {
		err = w.commitLarge(name)
	} else if err == nil {
		err = w.intake.addSmall(name, w.content)
	}
	if err != nil {
		return fmt.Errorf("commit blob: %w", err)
	}
	return nil
}

func (w *blobWriter) Discard() {
	if w.file != nil {
		_ = w.file.Close()
		_ = w.intake.store.root.Remove(w.temp) // what stays is removed by Open
	}
}

func (in *Intake) addSmall(name sum, content []byte) (err error) {
	if in.store.hasSmall(name, int64(len(content))) {
		return nil
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.bundle == nil {
		if in.bundle, err = in.store.newBundle(); err != nil {
			return err
		}
	}
	if _, ok := in.bundle.entries[name]; ok {
		return nil
	}
	return in.bundle.add(name, content)
}

// commitLarge is Commit for a blob that is a file. One of another size is what a crash of the machine left of an earlier one.
func (w *blobWriter) commitLarge(name sum) error {
	s := w.intake.store
	if err := w.file.Close(); err != nil {
		return errors.Join(err, s.root.Remove(w.temp))
	}
	path := blobPath(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if info, err := s.root.Lstat(path); err == nil && info.Size() == w.size {
		if s.unsynced[name] { // another intake's, which may never sync it
			w.intake.addUnsynced(path)
		}
		return s.root.Remove(w.temp)
	}
	if err := s.root.Rename(w.temp, path); err != nil {
		return errors.Join(err, s.root.Remove(w.temp))
	}
	s.unsynced[name] = true
	w.intake.addUnsynced(path)
	return nil
}

func (in *Intake) addUnsynced(path string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.unsyncedPaths = append(in.unsyncedPaths, path)
}

// syncers is how many files are synced at once: the file system's journal takes those together that wait together.
const syncConcurrency = 32

// Keep writes the manifest whose blobs have been committed and brings all of it to the disk: contents first, then names, so
// that whatever has a name is whole.
func (in *Intake) Commit(m tree.Manifest) error {
	if err := in.commit(m); err != nil {
		return fmt.Errorf("keep manifest: %w", err)
	}
	return nil
}

func (in *Intake) commit(m tree.Manifest) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	digest := m.Digest()
	digits, err := tree.ParseDigest(digest)
	if err != nil {
		return err
	}
	s := in.store
	temp, list, err := s.create(unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer func() {
		list.Close()
		_ = s.root.Remove(temp) // it has its place, or it failed; what stays is removed by Open
	}()
	if err := tree.WriteManifest(list, m); err != nil {
		return err
	}
	var contents errgroup.Group
	contents.SetLimit(syncConcurrency)
	contents.Go(list.Sync)
	if in.bundle != nil {
		contents.Go(in.bundle.sync)
	}
	for _, path := range in.unsyncedPaths {
		contents.Go(func() error { return s.sync(path) })
	}
	s.Step("written")
	if err := contents.Wait(); err != nil {
		return err
	}
	s.Step("contents synced")

	folders := map[string]bool{manifests: true}
	for _, path := range in.unsyncedPaths {
		folders[filepath.Dir(path)] = true
	}
	if err := s.root.Rename(temp, manifestPath(digits)); err != nil {
		return err
	}
	s.Step("manifest named")
	named := ""
	if in.bundle != nil {
		if named, err = in.bundle.name(); err != nil {
			return err
		}
		folders[bundles] = true
	}
	s.Step("bundle named")
	var names errgroup.Group
	names.SetLimit(syncConcurrency)
	for folder := range folders {
		names.Go(func() error { return s.sync(folder) })
	}
	if err := names.Wait(); err != nil {
		return err
	}
	s.Step("names synced")
	s.markDurable(named, in.bundle, in.unsyncedPaths)
	in.bundle, in.unsyncedPaths = nil, nil
	return nil
}
