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

	"github.com/rumi-ai/rumi/libs/flock"
	"github.com/rumi-ai/rumi/libs/tree"
)

// Intake takes a tree's bytes into the store. It is a tree.Sink, so that a tree.Scan hashes and copies in one reading. After
// Commit the tree is stored and on the disk. Until Close nothing is collected from the store: otherwise Collect could remove a
// blob that this tree shares with a dead one, between the moment it was found to be there and the moment the new manifest needs
// it.
type Intake struct {
	store    *Store
	lockFile *os.File // holds the shared lock; see Store.lock

	mu            sync.Mutex
	bundle        *bundleWriter // nil before the first small blob and after Commit
	unsyncedPaths []string      // large blobs of the tree that Commit has to sync
}

// NewIntake begins to take bytes in. Close must be called, after the digest is in a record if there was a Commit: from Close
// on, a tree that no record names is collected.
func (s *Store) NewIntake() (*Intake, error) {
	lockFile, err := s.lock(flock.WaitOpen, flock.Shared)
	if err != nil {
		return nil, fmt.Errorf("begin to keep: %w", err)
	}
	return &Intake{store: s, lockFile: lockFile}, nil
}

// Close releases the store to Collect. What wasn't committed is discarded.
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

// Open opens a blob that this intake took in, or that the store has, by its SHA-256 in hexadecimal.
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

// blobWriter writes one blob. It stays in memory until it is larger than maxSmall; then it becomes a file in incoming.
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

// Commit gives the blob its name, which is its SHA-256 in hexadecimal. A blob that the store has already is dropped.
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
		_ = w.intake.store.root.Remove(w.temp) // what can't be removed now is removed by the next Open
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

// commitLarge is Commit for a blob that is a file. A file of that name with another size is what a power failure left of an
// earlier write, and is replaced.
func (w *blobWriter) commitLarge(name sum) error {
	s := w.intake.store
	if err := w.file.Close(); err != nil {
		return errors.Join(err, s.root.Remove(w.temp))
	}
	path := blobPath(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if info, err := s.root.Lstat(path); err == nil && info.Size() == w.size {
		if s.unsynced[name] { // another intake has just renamed it, and may be closed without syncing it: this one must
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

// addUnsynced has Commit sync a file.
func (in *Intake) addUnsynced(path string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.unsyncedPaths = append(in.unsyncedPaths, path)
}

// syncConcurrency is how many files are synced at once: a file system's journal commits those together that wait together.
const syncConcurrency = 32

// Commit writes the manifest of a tree whose blobs have been committed, and brings everything to the disk: first contents, then
// names. After a crash at any step, whatever has a name is whole.
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
	// Not by libs/atomicfile: its two syncs for each file, one after the other, would make an import of thousands of files take
	// minutes. Here all contents are synced together, and then all folders.
	defer func() {
		list.Close()
		_ = s.root.Remove(temp) // it was renamed, or it failed; Open removes what stays
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
