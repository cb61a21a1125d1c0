package tree_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/tree"
)

func send(t testing.TB, dir string) (stream []byte, digest string) {
	t.Helper()
	if err := os.Chmod(filepath.Join(dir, "backend/main.py"), 0o750); err != nil {
		t.Fatal(err)
	}
	m := scan(t, dir)
	var out bytes.Buffer
	if err := tree.Send(&out, m, from(dir)); err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), m.Digest()
}

func from(dir string) func(tree.Entry) (io.ReadCloser, error) {
	return func(e tree.Entry) (io.ReadCloser, error) { return os.Open(filepath.Join(dir, e.Path)) }
}

func TestSendReceive(t *testing.T) {
	stream, digest := send(t, folder(t))
	dir := filepath.Join(t.TempDir(), "copy")
	if err := tree.Receive(bytes.NewReader(stream), digest, dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { writable(dir) })
	for path, content := range sample {
		got, err := os.ReadFile(filepath.Join(dir, tree.TreeName, path))
		if err != nil || string(got) != content {
			t.Errorf("%s: got %d bytes, %v; want %d", path, len(got), err, len(content))
		}
	}
	for path, want := range map[string]fs.FileMode{".": 0o555, "backend": 0o555, "backend/main.py": 0o555, ".env": 0o444} {
		info, err := os.Lstat(filepath.Join(dir, tree.TreeName, path))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: the mode is %v, %v; want %v", path, info.Mode(), err, want)
		}
	}
	if err := tree.Verify(t.Context(), dir, digest); err != nil {
		t.Error(err)
	}
	if err := tree.Receive(bytes.NewReader(stream), digest, dir); !errors.Is(err, fs.ErrExist) {
		t.Errorf("received twice: got %v, want ErrExist", err)
	}
	onlyIn(t, filepath.Dir(dir), "copy")
}

// No change of one byte of a stream, no cut and no other stream leaves anything behind under a digest that isn't its own.
func TestReceiveRefusesTamperedStreams(t *testing.T) {
	small := filepath.Join(t.TempDir(), "p")
	for path, content := range map[string]string{"backend/main.py": "print(1)", "b": "same", "c": "same"} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(small, path)), 0o755), os.WriteFile(filepath.Join(small, path), []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	stream, digest := send(t, small)
	parent := t.TempDir()
	attempt := func(name string, tampered []byte) {
		t.Helper()
		dir := filepath.Join(parent, "copy")
		if err := tree.Receive(bytes.NewReader(tampered), digest, dir); err == nil {
			// What tar itself ignores (times, owners, padding) may change, what is in the tree may not.
			if err := tree.Verify(t.Context(), dir, digest); err != nil {
				t.Errorf("%s: received and then %v", name, err)
			}
			writable(dir)
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}
		onlyIn(t, parent)
	}
	for i := 0; i < len(stream); i += 7 {
		tampered := bytes.Clone(stream)
		tampered[i] ^= 0x20
		attempt("flip", tampered)
	}
	for i := 0; i < len(stream); i += 101 {
		attempt("cut", stream[:i])
	}
	attempt("empty", nil)
	attempt("one file more", oneMore(t, stream))
	other, _ := send(t, folder(t))
	if err := tree.Receive(bytes.NewReader(other), digest, filepath.Join(parent, "copy")); !errors.Is(err, tree.ErrMismatch) {
		t.Errorf("another tree: got %v, want ErrMismatch", err)
	}
	if err := tree.Receive(bytes.NewReader(oneMore(t, stream)), digest, filepath.Join(parent, "copy")); err == nil {
		t.Error("accepted a file more")
	}
}

func TestReadManifestRefuses(t *testing.T) {
	const file = `"kind":"file","mode":420,"size":0,"sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"`
	const top = `{"path":".","kind":"dir","mode":493,"size":0}`
	for name, entries := range map[string]string{
		"nothing":          ``,
		"no tree":          `{"path":"a",` + file + `}`,
		"tree a file":      `{"path":".",` + file + `}`,
		"climbs":           top + `,{"path":"../a",` + file + `}`,
		"rooted":           top + `,{"path":"/a",` + file + `}`,
		"dot":              top + `,{"path":"./a",` + file + `}`,
		"NUL":              top + `,{"path":"a\u0000",` + file + `}`,
		"twice":            top + `,{"path":"a",` + file + `},{"path":"a",` + file + `}`,
		"out of order":     top + `,{"path":"b",` + file + `},{"path":"a",` + file + `}`,
		"in no folder":     top + `,{"path":"a/b",` + file + `}`,
		"in a file":        top + `,{"path":"a",` + file + `},{"path":"a/b",` + file + `}`,
		"kind":             top + `,{"path":"a","kind":"link","mode":420,"size":0}`,
		"mode":             top + `,{"path":"a",` + strings.Replace(file, "420", "65536", 1) + `}`,
		"negative size":    top + `,{"path":"a",` + strings.Replace(file, `"size":0`, `"size":-1`, 1) + `}`,
		"hash too short":   top + `,{"path":"a",` + strings.Replace(file, "e3b0", "", 1) + `}`,
		"folder with hash": top + `,{"path":"a",` + strings.Replace(file, `"file"`, `"dir"`, 1) + `}`,
		"unknown member":   top + `,{"path":"a","x":1,` + file + `}`,
		"too many bytes":   top + `,{"path":"a",` + strings.Replace(file, `"size":0`, `"size":2147483648`, 1) + `},{"path":"b",` + strings.Replace(file, `"size":0`, `"size":1`, 1) + `}`,
	} {
		if m, err := tree.ReadManifest(strings.NewReader(`{"entries":[` + entries + `]}`)); err == nil {
			t.Errorf("%s: accepted as %+v, want an error", name, m)
		}
	}
	if _, err := tree.ReadManifest(strings.NewReader(`{"entries":[` + top + `,{"path":"a",` + file + `}]}`)); err != nil {
		t.Error(err)
	}
}

func TestSendRefusesOtherContent(t *testing.T) {
	dir := folder(t)
	m := scan(t, dir)
	for name, content := range map[string]string{"shorter": "same", "longer": "same length!", "other": "SAME LENGTH"} {
		if err := replace("one", content)(dir); err != nil {
			t.Fatal(err)
		}
		if err := tree.Send(io.Discard, m, from(dir)); !errors.Is(err, tree.ErrMismatch) {
			t.Errorf("%s: got %v, want ErrMismatch", name, err)
		}
	}
}

// owner is a service that owns one tree, and the folder of a cache of it.
type owner struct {
	dir, digest string
	stream      []byte
	fetched     atomic.Int32
}

func newOwner(t *testing.T) *owner {
	t.Helper()
	o := &owner{dir: t.TempDir()}
	o.stream, o.digest = send(t, folder(t))
	t.Cleanup(func() { writable(o.dir) })
	return o
}

func (o *owner) fetch(_ context.Context, want string) (io.ReadCloser, error) {
	o.fetched.Add(1)
	if want != o.digest {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(o.stream)), nil
}

// get is the path of the tree's copy in a new cache.
func (o *owner) get(t *testing.T) (*tree.Cache, string) {
	t.Helper()
	cache := tree.NewCache(o.dir, o.fetch)
	path, err := cache.Get(t.Context(), o.digest)
	if err != nil {
		t.Fatal(err)
	}
	return cache, path
}

// However many ask at once, a tree is fetched once.
func TestCacheFetchesOnce(t *testing.T) {
	o := newOwner(t)
	cache := tree.NewCache(o.dir, o.fetch)
	digest := o.digest
	var wait sync.WaitGroup
	for range 20 {
		wait.Go(func() {
			path, err := cache.Get(t.Context(), digest)
			if err != nil || filepath.Base(path) != tree.TreeName {
				t.Errorf("got the path %q, %v; want one that ends in %s", path, err, tree.TreeName)
			}
		})
	}
	wait.Wait()
	if n := o.fetched.Load(); n != 1 {
		t.Errorf("fetched %d times, want once", n)
	}
	if m, err := cache.Manifest(digest); err != nil || m.Digest() != digest {
		t.Errorf("manifest of %s, %v; want that of %s", m.Digest(), err, digest)
	}
	missing := "sha256:" + sum("x")
	if _, err := cache.Get(t.Context(), missing); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a tree that nobody has: %v, want fs.ErrNotExist", err)
	}
	for _, bad := range []string{"", "sha256:", "sha256:../x", "sha256:" + strings.Repeat("A", 64), strings.TrimPrefix(digest, "sha256:")} {
		if _, err := cache.Get(t.Context(), bad); err == nil {
			t.Errorf("got a tree of the digest %q, want an error", bad)
		}
	}
}

// Whatever happens to a copy, Get notices and fetches it again, in the process that fetched it and in another.
func TestDamagedCopiesAreFetchedAgain(t *testing.T) {
	o := newOwner(t)
	cache, path := o.get(t)
	for name, damage := range map[string]func() error{
		"content": func() error {
			return errors.Join(os.Chmod(path+"/one", 0o644), os.WriteFile(path+"/one", []byte("SAME LENGTH"), 0o444), os.Chmod(path+"/one", 0o444))
		},
		"mode": func() error { return os.Chmod(path+"/one", 0o555) },
		"added": func() error {
			return errors.Join(os.Chmod(path, 0o755), os.WriteFile(path+"/new", nil, 0o444), os.Chmod(path, 0o555))
		},
		"removed":  func() error { return errors.Join(os.Chmod(path, 0o755), os.Remove(path+"/one"), os.Chmod(path, 0o555)) },
		"manifest": func() error { return errors.Join(os.Remove(filepath.Dir(path) + "/manifest")) },
		"link": func() error {
			return errors.Join(os.Chmod(path, 0o755), os.Symlink("one", path+"/l"), os.Chmod(path, 0o555))
		},
		"gone": func() error { writable(path); return os.RemoveAll(path) },
	} {
		for _, c := range []*tree.Cache{cache, tree.NewCache(o.dir, o.fetch)} { // the same process, and another
			if err := damage(); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			before := o.fetched.Load()
			if _, err := c.Get(t.Context(), o.digest); err != nil || o.fetched.Load() != before+1 {
				t.Errorf("%s: %v, fetched %d times, want once", name, err, o.fetched.Load()-before)
			}
			if err := tree.Verify(t.Context(), filepath.Dir(path), o.digest); err != nil {
				t.Errorf("%s: afterwards: %v", name, err)
			}
		}
	}
}

func TestSweepOfCopies(t *testing.T) {
	o := newOwner(t)
	cache, _ := o.get(t)
	dir, digest := o.dir, o.digest
	old := filepath.Join(dir, ".receiving-1")
	if err := errors.Join(os.MkdirAll(old+"/tree", 0o755), os.Chmod(old+"/tree", 0o555), os.Chtimes(old, time.Unix(1, 0), time.Unix(1, 0))); err != nil {
		t.Fatal(err)
	}
	if err := cache.Sweep(func(d string) bool { return d == digest }); err != nil {
		t.Fatal(err)
	}
	onlyIn(t, dir, strings.TrimPrefix(digest, "sha256:"))
	if err := cache.Sweep(func(string) bool { return false }); err != nil {
		t.Fatal(err)
	}
	onlyIn(t, dir)
}

// oneMore appends a file to a stream.
func oneMore(t *testing.T, stream []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	in, w := tar.NewReader(bytes.NewReader(stream)), tar.NewWriter(&out)
	for {
		header, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(w, in); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.WriteHeader(&tar.Header{Name: sum(""), Mode: 0o444}), w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// onlyIn checks what a folder holds.
func onlyIn(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(names, " ") {
		t.Fatalf("%s holds %v, want %v", dir, got, names)
	}
}

// writable lets t.TempDir remove a copy.
func writable(dir string) {
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			return os.Chmod(path, 0o755)
		}
		return nil
	})
}
