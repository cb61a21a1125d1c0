package tree_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/tree"
)

// sample is a small pack with everything in it that hashing has been seen to forget.
var sample = map[string]string{
	"ecosystem.json":                    `{"pack_id": "p"}`,
	"backend/main.py":                   "print(1)\n",
	".git/config":                       "[core]\n",
	".git/hooks/pre-commit":             "#!/bin/sh\n",
	".github/x.py":                      "x = 1\n",
	"__pycache__/m.cpython-311.pyc":     "\x00\x01",
	"backend/__pycache__/n.cpython.pyc": "\x00\x02",
	"a.pyc.py":                          "y = 1\n",
	".hidden":                           "h",
	".env":                              "TOKEN=",
	"node_modules/x/index.js":           "1",
	"one":                               "same length",
	"two":                               "diff length",
	"big":                               strings.Repeat("0123456789", 100_000),
}

func TestHashScope(t *testing.T) {
	change := map[string]func(dir string) error{
		".git content":      replace(".git/config", "[kern]\n"),
		".github":           replace(".github/x.py", "x = 2\n"),
		"__pycache__":       replace("__pycache__/m.cpython-311.pyc", "\x00\x03"),
		"inner __pycache__": replace("backend/__pycache__/n.cpython.pyc", "\x00\x04"),
		"a.pyc.py":          replace("a.pyc.py", "y = 2\n"),
		"hidden file":       replace(".hidden", "i"),
		".env":              replace(".env", "TOKEN"),
		"node_modules":      replace("node_modules/x/index.js", "2"),
		"end of a big file": replace("big", strings.Repeat("0123456789", 99_999)+"012345678x"),
		"new hidden file":   replace(".new", ""),
		"new bytecode":      replace("backend/__pycache__/o.pyc", ""),
		"removed":           func(d string) error { return os.Remove(filepath.Join(d, ".hidden")) },
		"empty folder":      func(d string) error { return os.Mkdir(filepath.Join(d, "empty"), 0o755) },
		"hidden folder":     func(d string) error { return os.Mkdir(filepath.Join(d, ".empty"), 0o755) },
		"folder's mode":     mode("backend", 0o700),
		"tree's mode":       mode(".", 0o700),
		"executable bit":    mode("backend/main.py", 0o755),
		"other's write bit": mode("backend/main.py", 0o646),
		"set-user-id":       mode("backend/main.py", 0o644|os.ModeSetuid),
		"sticky folder":     mode("backend", 0o755|os.ModeSticky),
		"renamed":           func(d string) error { return os.Rename(filepath.Join(d, "one"), filepath.Join(d, "three")) },
		"two names swapped": swap("one", "two"),
		"file for a folder": func(d string) error {
			return errors.Join(os.RemoveAll(filepath.Join(d, ".github")), replace(".github", "x = 1\n")(d))
		},
		"moved up": func(d string) error {
			return os.Rename(filepath.Join(d, "backend/main.py"), filepath.Join(d, "main.py"))
		},
		"case":               func(d string) error { return os.Rename(filepath.Join(d, "one"), filepath.Join(d, "One")) },
		"same size and time": sameSizeAndTime("one", "SAME LENGTH"),
	}
	before := scan(t, folder(t)).Digest()
	if again := scan(t, folder(t)).Digest(); again != before {
		t.Fatalf("the same files elsewhere are %s, not %s", again, before)
	}
	for name, apply := range change {
		t.Run(name, func(t *testing.T) {
			dir := folder(t)
			if err := apply(dir); err != nil {
				t.Fatal(err)
			}
			if scan(t, dir).Digest() == before {
				t.Error("the digest is the same")
			}
		})
	}
	t.Run("read or touched", func(t *testing.T) {
		dir := folder(t)
		if err := os.Chtimes(filepath.Join(dir, "one"), time.Unix(1, 0), time.Unix(2, 0)); err != nil {
			t.Fatal(err)
		}
		if scan(t, dir).Digest() != before {
			t.Error("the digest depends on times")
		}
	})
}

func TestStampSeesEveryChange(t *testing.T) {
	fingerprint := func(t *testing.T, dir string) tree.Fingerprint {
		t.Helper()
		s, err := tree.FingerprintOf(t.Context(), open(t, dir))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for name, apply := range map[string]func(dir string) error{
		"content":            replace(".git/config", "[kern]\n"),
		"new":                replace("backend/__pycache__/o.pyc", ""),
		"empty folder":       func(d string) error { return os.Mkdir(filepath.Join(d, "empty"), 0o755) },
		"mode":               mode("backend/main.py", 0o755),
		"two names swapped":  swap("one", "two"),
		"same size and time": sameSizeAndTime("one", "SAME LENGTH"),
	} {
		t.Run(name, func(t *testing.T) {
			dir := folder(t)
			before := fingerprint(t, dir)
			if fingerprint(t, dir) != before {
				t.Fatal("the fingerprint differs without a change")
			}
			for began := time.Now(); time.Since(began) < 20*time.Millisecond; { // the granularity of change times
			}
			if err := apply(dir); err != nil {
				t.Fatal(err)
			}
			if fingerprint(t, dir) == before {
				t.Error("the fingerprint is the same")
			}
		})
	}
}

func TestRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		path   string
		reason string
		make   func(path string) error
	}{
		"link to a file":   {"link", "symbolic link", func(p string) error { return os.Symlink("one", p) }},
		"link to a folder": {"backend/link", "symbolic link", func(p string) error { return os.Symlink("../.git", p) }},
		"link out":         {"link", "symbolic link", func(p string) error { return os.Symlink("/etc/passwd", p) }},
		"dangling link":    {".git/link", "symbolic link", func(p string) error { return os.Symlink("nowhere", p) }},
		"FIFO":             {"pipe", "FIFO", func(p string) error { return syscall.Mkfifo(p, 0o644) }},
		"socket":           {"s", "socket", listen},
		"name not UTF-8":   {"a\xff", "name is not UTF-8", func(p string) error { return os.WriteFile(p, nil, 0o644) }},
		"folder not UTF-8": {"\xc3", "name is not UTF-8", func(p string) error { return os.Mkdir(p, 0o755) }},
		"65 folders deep":  {strings.Repeat("d/", 64) + "d", "too deep", func(p string) error { return os.MkdirAll(p, 0o755) }},
		"more than 2 GiB":  {"huge", fmt.Sprintf("more than %d bytes in all", int64(tree.MaxBytes)), huge},
	} {
		t.Run(name, func(t *testing.T) {
			dir := folder(t)
			if err := c.make(filepath.Join(dir, c.path)); err != nil {
				t.Fatal(err)
			}
			_, err := tree.Scan(t.Context(), open(t, dir), nil)
			refused, ok := errors.AsType[*tree.RefusedError](err)
			if !ok || refused.Path != c.path || refused.Reason != c.reason {
				t.Errorf("got %v, want a refusal of %q: %s", err, c.path, c.reason)
			}
			if name == "more than 2 GiB" {
				return // a Fingerprint reads no file
			}
			if _, err := tree.FingerprintOf(t.Context(), open(t, dir)); err == nil {
				t.Error("FingerprintOf accepts it")
			}
		})
	}
}

func TestScanEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := tree.Scan(ctx, open(t, folder(t)), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it was cancelled", err)
	}
}

func TestScanDescribes(t *testing.T) {
	dir := folder(t)
	m := scan(t, dir)
	if m.Entries[0] != (tree.Entry{Path: ".", Kind: tree.Dir, Mode: 0o755}) {
		t.Errorf("the tree itself is %+v", m.Entries[0])
	}
	hashes := m.FileHashes()
	if len(hashes) != len(sample) {
		t.Errorf("%d files, want %d", len(hashes), len(sample))
	}
	for path, content := range sample {
		if want := "sha256:" + sum(content); hashes[path] != want {
			t.Errorf("%s is %s, want %s", path, hashes[path], want)
		}
	}
}

// What Scan hashed is what the sink was given, byte for byte, whatever happens to the files meanwhile.
func TestSinkKeepsWhatIsHashed(t *testing.T) {
	sink := &memory{blobs: map[string]string{}}
	m, err := tree.Scan(t.Context(), open(t, folder(t)), sink)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range m.Entries {
		if e.Kind != tree.File {
			continue
		}
		if kept := sink.blobs[e.SHA256]; sum(kept) != e.SHA256 || int64(len(kept)) != e.Size {
			t.Errorf("%s is kept as %d bytes", e.Path, len(kept))
		}
	}
	sink = &memory{blobs: map[string]string{}, full: true}
	if _, err := tree.Scan(t.Context(), open(t, folder(t)), sink); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a full sink: got %v, want ENOSPC", err)
	}
	if sink.open != 0 {
		t.Errorf("%d blobs neither committed nor alreadyCommitted", sink.open)
	}
}

// A scan while somebody keeps changing a file describes one state of it or fails, and keeps what it describes.
func TestScanDuringChanges(t *testing.T) {
	dir := folder(t)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			_ = os.WriteFile(filepath.Join(dir, "new"), bytes.Repeat([]byte{byte(i)}, i%300_000), 0o644)
			_ = os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "big"))
		}
	}()
	for range 50 {
		sink := &memory{blobs: map[string]string{}}
		m, err := tree.Scan(t.Context(), open(t, dir), sink)
		if err != nil {
			continue // "new" may be gone between listing and opening
		}
		for _, e := range m.Entries {
			if kept := sink.blobs[e.SHA256]; e.Kind == tree.File && sum(kept) != e.SHA256 {
				t.Fatalf("%s is not what was kept", e.Path)
			}
		}
	}
	close(stop)
	<-stopped
}

func BenchmarkScan200Packs(b *testing.B) {
	dir := b.TempDir()
	for p := range 200 {
		for f := range 50 {
			path := filepath.Join(dir, fmt.Sprintf("p%d/d%d/f%d.py", p, f%5, f))
			_ = os.MkdirAll(filepath.Dir(path), 0o755)
			if err := os.WriteFile(path, bytes.Repeat([]byte("# some code\n"), 100+f), 0o644); err != nil {
				b.Fatal(err)
			}
		}
	}
	each := func(b *testing.B, do func(root *os.Root) error) {
		for b.Loop() {
			var wait sync.WaitGroup
			packs := make(chan int, 200)
			for p := range 200 {
				packs <- p
			}
			close(packs)
			for range 2 {
				wait.Go(func() {
					for p := range packs {
						root, err := os.OpenRoot(filepath.Join(dir, fmt.Sprintf("p%d", p)))
						if err == nil {
							err = do(root)
							root.Close()
						}
						if err != nil {
							b.Error(err)
						}
					}
				})
			}
			wait.Wait()
		}
	}
	b.Run("hash", func(b *testing.B) {
		each(b, func(root *os.Root) error { _, err := tree.Scan(b.Context(), root, nil); return err })
	})
	b.Run("fingerprint", func(b *testing.B) {
		each(b, func(root *os.Root) error { _, err := tree.FingerprintOf(b.Context(), root); return err })
	})
}

// memory is a Sink.
type memory struct {
	mu    sync.Mutex
	blobs map[string]string
	open  int
	full  bool
}

type memoryBlob struct {
	of *memory
	bytes.Buffer
}

func (m *memory) Create(int64) (tree.Blob, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.open++
	return &memoryBlob{of: m}, nil
}

func (b *memoryBlob) Write(p []byte) (int, error) {
	if b.of.full {
		return 0, syscall.ENOSPC
	}
	return b.Buffer.Write(p)
}

func (b *memoryBlob) Commit(sha256 string) error {
	b.of.mu.Lock()
	defer b.of.mu.Unlock()
	b.of.open--
	b.of.blobs[sha256] = b.String()
	return nil
}

func (b *memoryBlob) Discard() {
	b.of.mu.Lock()
	defer b.of.mu.Unlock()
	b.of.open--
}

// folder writes the sample to a new folder.
func folder(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "p")
	for path, content := range sample {
		file := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func scan(t testing.TB, dir string) tree.Manifest {
	t.Helper()
	m, err := tree.Scan(t.Context(), open(t, dir), nil)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func open(t testing.TB, dir string) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

func sum(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:])
}

func replace(path, content string) func(string) error {
	return func(dir string) error { return os.WriteFile(filepath.Join(dir, path), []byte(content), 0o644) }
}

func mode(path string, mode os.FileMode) func(string) error {
	return func(dir string) error { return os.Chmod(filepath.Join(dir, path), mode) }
}

func swap(a, b string) func(string) error {
	return func(dir string) error {
		a, b, temp := filepath.Join(dir, a), filepath.Join(dir, b), filepath.Join(dir, "temp")
		return errors.Join(os.Rename(a, temp), os.Rename(b, a), os.Rename(temp, b))
	}
}

func sameSizeAndTime(path, content string) func(string) error {
	return func(dir string) error {
		file := filepath.Join(dir, path)
		info, err := os.Stat(file)
		if err != nil {
			return err
		}
		return errors.Join(os.WriteFile(file, []byte(content), 0o644), os.Chtimes(file, info.ModTime(), info.ModTime()))
	}
}

func listen(path string) error {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err == nil {
		l.SetUnlinkOnClose(false)
		err = l.Close()
	}
	return err
}

func huge(path string) error {
	return errors.Join(os.WriteFile(path, nil, 0o644), os.Truncate(path, tree.MaxBytes+1))
}

// seenAll is a Visitor that remembers what it sees.
type seenAll struct{ folders, files []string }

func (s *seenAll) Folder(int, *unix.Stat_t) error {
	s.folders = append(s.folders, "")
	return nil
}

func (s *seenAll) File(_ int, name string, _ *unix.Stat_t) error {
	s.files = append(s.files, name)
	return nil
}

func TestAVisitorSeesEverything(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a/b", "empty"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"one", "a/two", "a/b/.three"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	root := open(t, dir)
	var seen seenAll
	fingerprint, err := tree.FingerprintWith(t.Context(), root, &seen)
	if err != nil {
		t.Fatal(err)
	}
	if len(seen.folders) != 4 || !slices.Equal(seen.files, []string{".three", "two", "one"}) {
		t.Errorf("saw %d folders and the files %v; want 4, and .three, two, one", len(seen.folders), seen.files)
	}
	if again, err := tree.FingerprintOf(t.Context(), root); err != nil || again != fingerprint {
		t.Errorf("a visitor changes the fingerprint: %v", err)
	}
}
