// Package blob is the content-addressed store of approved bytes: each file's content once, under its SHA-256, and the manifest
// of each approved tree under the tree's digest. Bytes come in through an Intake and go out through Open; Collect removes what
// no record needs.
//
// Several processes share a store. They are kept apart by a flock(2) on the folder "incoming": an Intake holds it shared,
// Collect exclusively.
//
// Durability: contents are synced before anything names them. A manifest, a blob or a bundle that has a name is therefore
// whole, at whatever moment the process is killed or the machine loses power. What is still being written lies in "incoming"
// and is removed later.
package blob

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/bundle"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/flock"
	"github.com/rumi-ai/rumi/libs/tree"
)

// The folders of a store.
const (
	blobs     = "blobs"     // large contents: <first two digits>/<sha256>
	bundles   = "bundles"   // small contents, many in a file; see bundle
	manifests = "manifests" // <digits of the digest>.json
	incoming  = "incoming"  // files that are being written, without a name in the other folders
)

// Store is a folder of blobs and manifests. It is safe for concurrent use, and several processes may share the folder.
type Store struct {
	Step func(string) // called between the steps of Intake.Commit, with what was done; tests kill the process there

	root *os.Root
	dir  *os.File // the same folder, for single system calls where os.Root would make several

	mu       sync.Mutex
	unsynced map[sum]bool     // large blobs that have their names but may not be on the disk yet
	loaded   map[string]bool  // bundles whose index is known
	index    map[sum]location // of small blobs
}

// Open opens the store in the folder path, and makes its folders. Files that a killed process left half-written are removed. A
// bundle that can't be read, or a file that can't be removed, is logged: blobs in it count as missing, and everything else can
// be read.
func Open(path string, log *slog.Logger) (s *Store, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("open blob store: %w", err)
		}
	}()
	if err := os.MkdirAll(path, 0o750); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	folders := []string{incoming, manifests, bundles, blobs}
	for i := range 256 {
		folders = append(folders, fmt.Sprintf("%s/%02x", blobs, i))
	}
	for _, folder := range folders {
		if err := root.Mkdir(folder, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, errors.Join(err, root.Close())
		}
	}
	dir, err := root.Open(".")
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	s = &Store{Step: func(string) {}, root: root, dir: dir, unsynced: map[sum]bool{}, loaded: map[string]bool{}, index: map[sum]location{}}
	// A process that was killed may have renamed files without syncing the folders. From now on these files count as stored, so they must
	// be on the disk.
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if err := s.removeStale(); err != nil {
		log.Warn("could not remove half-written files from user_data/approved", "error", err)
	}
	if err := s.load(false); err != nil {
		log.Warn("could not read the small files of some approved packs; approving a pack again restores its files", "error", err)
	}
	return s, nil
}

// removeStale removes what killed processes were writing. If another process is writing now, it does nothing: the next
// collection will.
func (s *Store) removeStale() error {
	lockFile, err := s.lock(flock.TryOpen, flock.Exclusive)
	if errors.Is(err, flock.ErrLocked) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lockFile.Close()
	return s.removeIncoming()
}

// removeIncoming removes everything in incoming. The caller holds the exclusive lock, so that nobody is writing there. A file
// that can't be removed doesn't keep the others.
func (s *Store) removeIncoming() error {
	names, err := s.entries(incoming)
	if err != nil {
		return err
	}
	var problems []error
	for _, name := range names {
		problems = append(problems, s.root.RemoveAll(incoming+"/"+name))
	}
	return errors.Join(problems...)
}

// entries lists the names in a folder. fs.ReadDir calls lstat for each of them, and would fail at a dead mount.
func (s *Store) entries(folder string) ([]string, error) {
	dir, err := s.root.Open(folder)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// Close closes the store.
func (s *Store) Close() error { return errors.Join(s.dir.Close(), s.root.Close()) }

func blobPath(name sum) string {
	digits := name.String()
	return blobs + "/" + digits[:2] + "/" + digits
}
func manifestPath(digits string) string { return manifests + "/" + digits + ".json" }

// lock locks the store, shared or exclusively, until the result is closed. Other processes are kept out, too. take is
// flock.TryOpen, which fails at once where another has the lock, or flock.WaitOpen.
func (s *Store) lock(take func(*os.File, flock.Mode) error, mode flock.Mode) (*os.File, error) {
	f, err := s.root.OpenFile(incoming, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err := take(f, mode); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// create makes a file in incoming. It is a plain openat instead of a call of os.Root, which takes several system calls: only
// this service writes to the store's folder, and all names in it are made here, so that no link can lead out of it.
func (s *Store) create(access int) (temp string, f *os.File, err error) {
	temp = incoming + "/" + rand.Text()
	fd, err := unix.Openat(int(s.dir.Fd()), temp, access|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o640)
	if err != nil {
		return "", nil, &fs.PathError{Op: "create", Path: temp, Err: err}
	}
	return temp, os.NewFile(uintptr(fd), temp), nil
}

// sync brings a file or a folder to the disk.
func (s *Store) sync(path string) error {
	f, err := s.root.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// load reads the indexes of the bundles that aren't known yet; with again it also forgets the bundles that were removed. A bundle
// that a power failure left torn holds nothing. The error names the bundles that can't be read; the others are known after it.
func (s *Store) load(again bool) error {
	names, err := s.entries(bundles)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if again {
		there := map[string]bool{}
		for _, name := range names {
			there[name] = true
		}
		for name, p := range s.index {
			if !there[p.bundle] {
				delete(s.index, name)
			}
		}
		// A blob that was in a removed bundle may be in another one, too, whose location the removed one's has overwritten: read all again.
		clear(s.loaded)
	}
	var problems []error
	for _, name := range names {
		if s.loaded[name] {
			continue
		}
		entries, err := s.readIndex(name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, bundle.ErrTorn) {
			continue
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("read bundle %s: %w", name, err))
			continue
		}
		s.loaded[name] = true
		for blob, p := range entries {
			s.index[blob] = p
		}
	}
	return errors.Join(problems...)
}

// openFile opens a regular file of the store to read it. Anything else is an error, and opening it doesn't block, even if it is
// a FIFO.
func (s *Store) openFile(path string) (*os.File, error) {
	f, err := s.root.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: path, Err: errors.New("not a regular file")}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// markDurable notes that a bundle has its name, and that it and large blobs are on the disk.
func (s *Store) markDurable(name string, b *bundleWriter, large []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b != nil {
		s.loaded[name] = true
		for blob, p := range b.entries {
			p.bundle = name
			s.index[blob] = p
		}
	}
	for _, path := range large {
		if blob, err := parseSum(filepath.Base(path)); err == nil {
			delete(s.unsynced, blob)
		}
	}
}

// hasSmall says whether a small blob is stored and on the disk.
func (s *Store) hasSmall(name sum, size int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.index[name]
	if !ok || p.size != size {
		return false
	}
	var st unix.Stat_t // another replica's Collect may have replaced the bundle by one that lacks the blob
	return unix.Fstatat(int(s.dir.Fd()), bundles+"/"+p.bundle, &st, unix.AT_SYMLINK_NOFOLLOW) == nil
}

// Manifest reads the manifest of the approved tree with a digest ("sha256:<hex>"). A digest without one is a not-found fault.
// The manifest's own digest is checked: a damaged file is an error, never another tree.
func (s *Store) Manifest(digest string) (tree.Manifest, error) {
	digits, err := tree.ParseDigest(digest)
	if err != nil {
		return tree.Manifest{}, err
	}
	f, err := s.openFile(manifestPath(digits))
	if errors.Is(err, fs.ErrNotExist) {
		return tree.Manifest{}, fault.NotFound("Tree not found: %s. What was approved is not kept any more: GET /api/packs lists which pack has this digest. Approve the pack again", digest).With("tree_not_found")
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

// Open opens a blob by its SHA-256 in hexadecimal. A missing blob is fs.ErrNotExist.
func (s *Store) Open(digits string) (io.ReadCloser, error) {
	name, err := parseSum(digits)
	if err != nil {
		return nil, fmt.Errorf("open blob: %w", err)
	}
	content, err := s.open(name)
	if errors.Is(err, fs.ErrNotExist) { // another replica wrote it, or Collect has just moved it to another bundle
		unread := s.load(true)
		if content, err = s.open(name); err != nil {
			err = errors.Join(err, unread) // it may be in one of the bundles that can't be read
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open blob: %w", err)
	}
	return content, nil
}

func (s *Store) open(name sum) (io.ReadCloser, error) {
	s.mu.Lock()
	p, ok := s.index[name]
	s.mu.Unlock()
	if !ok {
		return s.openFile(blobPath(name))
	}
	f, err := s.openFile(bundles + "/" + p.bundle)
	if err != nil {
		return nil, err
	}
	return bundledBlob{io.NewSectionReader(f, p.offset, p.size), f}, nil
}

// bundledBlob reads a blob in a bundle; closing it closes the bundle's file.
type bundledBlob struct {
	io.Reader
	io.Closer
}
