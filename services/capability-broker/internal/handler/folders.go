package handler

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

	"github.com/rumi-ai/rumi/libs/tree"
)

// stagedName is the folder of copies that are not installed yet, beside those of the packs. No pack id begins with a dot.
const stagedName = ".staged"

// maxStaged is how old a staged copy may be. An older one was left by a process that died.
const maxStaged = time.Hour

// ErrUntrusted is in an error that a handler's copy is not what is trusted, or can't be read.
var ErrUntrusted = errors.New("the handler's copy is not what is trusted")

// Folders are the read-only copies of handlers, <dir>/<pack_id>/<slug>. What is trusted is decided by Service; Folders makes sure that nothing
// else is mounted into a container. It is safe for concurrent use.
//
// Whoever gets at the disk behind the broker's back may change a copy. So its digest is computed before each start, and the lock makes sure
// that this process doesn't replace the copy between that check and the mount. From then on the container has the folder itself, whatever
// becomes of the name.
type Folders struct {
	dir string
	mu  sync.RWMutex // shared from the check of a copy to its mount, exclusive while one is replaced or removed
}

// NewFolders makes the folder of copies.
func NewFolders(dir string) (*Folders, error) {
	if err := os.MkdirAll(filepath.Join(dir, stagedName), 0o750); err != nil {
		return nil, fmt.Errorf("make folder of handlers: %w", err)
	}
	return &Folders{dir: dir}, nil
}

func (f *Folders) path(packID, slug string) string { return filepath.Join(f.dir, packID, slug) }

func (f *Folders) staged(t Trust) string {
	return filepath.Join(f.dir, stagedName, strings.TrimPrefix(t.FolderDigest, "sha256:")+"-"+t.PackID+"-"+t.Slug)
}

// stage copies a folder to where install finds it, and returns t with the digest of the copy. The copy is synced when stage returns. It is
// received as a tree is from another service, so that what is hashed is what was written, even if the source changes meanwhile.
func (f *Folders) stage(ctx context.Context, source *os.Root, t Trust) (Trust, error) {
	m, err := manifest(ctx, source)
	if err != nil {
		return t, fmt.Errorf("copy handler: %w", err)
	}
	t.FolderDigest = m.Digest()
	in, out := io.Pipe()
	go func() {
		out.CloseWithError(tree.Send(out, m, func(e tree.Entry) (io.ReadCloser, error) { return source.Open(e.Path) }))
	}()
	defer in.Close()
	if err := tree.Receive(in, t.FolderDigest, f.staged(t)); err != nil && !errors.Is(err, fs.ErrExist) {
		return t, fmt.Errorf("copy handler: %w", err)
	}
	return t, nil
}

// manifest is the manifest of a folder's copy. The copy is read-only, so these modes are the ones that verify will find.
func manifest(ctx context.Context, source *os.Root) (tree.Manifest, error) {
	m, err := tree.Scan(ctx, source, nil)
	for i, e := range m.Entries {
		if m.Entries[i].Mode = 0o444; e.Kind == tree.Dir || e.Mode&0o111 != 0 {
			m.Entries[i].Mode = 0o555
		}
	}
	return m, err
}

// install replaces the present copy by the staged copy of what is trusted, unless the present one is right already. It runs after the trust was
// committed. A crash before it is finished leaves a copy that is missing or wrong, with which nothing starts, and the staged one, which
// Service.recover installs.
func (f *Folders) install(ctx context.Context, t Trust) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.verify(ctx, t) == nil {
		return f.discard(t)
	}
	from, to := filepath.Join(f.staged(t), tree.TreeName), f.path(t.PackID, t.Slug)
	if err := tree.Verify(ctx, f.staged(t), t.FolderDigest); err != nil {
		return fmt.Errorf("install handler: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o750); err != nil {
		return fmt.Errorf("install handler: %w", err)
	}
	if err := tree.RemoveAll(to); err != nil {
		return fmt.Errorf("install handler: %w", err)
	}
	// rename(2) of a folder to another parent needs the right to write in the folder itself, since its ".." changes.
	if err := os.Chmod(from, 0o755); err != nil {
		return fmt.Errorf("install handler: %w", err)
	}
	if err := os.Rename(from, to); err != nil {
		return fmt.Errorf("install handler: %w", err)
	}
	if err := os.Chmod(to, 0o555); err != nil {
		return fmt.Errorf("install handler: %w", err)
	}
	if err := syncFolder(filepath.Dir(to)); err != nil {
		return fmt.Errorf("install handler: %w", err)
	}
	if err := f.discard(t); err != nil {
		return fmt.Errorf("install handler: %w", err)
	}
	return f.verify(ctx, t)
}

func (f *Folders) verify(ctx context.Context, t Trust) error {
	root, err := os.OpenRoot(f.path(t.PackID, t.Slug))
	if err != nil {
		return fmt.Errorf("verify handler: %w: %w", ErrUntrusted, err)
	}
	defer root.Close()
	m, err := tree.Scan(ctx, root, nil)
	if err != nil {
		return fmt.Errorf("verify handler: %w: %w", ErrUntrusted, err)
	}
	if found := m.Digest(); found != t.FolderDigest {
		return fmt.Errorf("verify handler: %w: its digest is %s", ErrUntrusted, found)
	}
	return nil
}

// Use calls mount with the path of a handler's copy, after it has verified that the copy is what is trusted. This process doesn't change the
// copy until mount returns. If it isn't what is trusted the error is ErrUntrusted; other errors are mount's.
func (f *Folders) Use(ctx context.Context, t Trust, mount func(path string) error) error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if err := f.verify(ctx, t); err != nil {
		return err
	}
	return mount(f.path(t.PackID, t.Slug))
}

// verified says whether the copy is what is trusted.
func (f *Folders) verified(ctx context.Context, t Trust) bool {
	return f.Use(ctx, t, func(string) error { return nil }) == nil
}

// discard removes a staged copy.
func (f *Folders) discard(t Trust) error { return tree.RemoveAll(f.staged(t)) }

// removePack removes all copies of a pack.
func (f *Folders) removePack(packID string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := tree.RemoveAll(filepath.Join(f.dir, packID)); err != nil {
		return fmt.Errorf("remove handlers of %s: %w", packID, err)
	}
	return nil
}

// remove removes one copy.
func (f *Folders) remove(packID, slug string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := tree.RemoveAll(f.path(packID, slug)); err != nil {
		return fmt.Errorf("remove handler %s/%s: %w", packID, slug, err)
	}
	return nil
}

// sweep removes staged copies that were never installed.
func (f *Folders) sweep(now time.Time) error {
	dir := filepath.Join(f.dir, stagedName)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("sweep handlers: %w", err)
	}
	var problems []error
	for _, e := range entries {
		if info, err := e.Info(); err == nil && now.Sub(info.ModTime()) > maxStaged {
			problems = append(problems, tree.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(problems...)
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
