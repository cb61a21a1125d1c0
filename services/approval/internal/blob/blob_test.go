package blob_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/tree"
	"github.com/rumi-ai/rumi/services/approval/internal/blob"
)

func open(t *testing.T, dir string) *blob.Store {
	t.Helper()
	s, err := blob.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func folder(t *testing.T, files map[string]string) *os.Root {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

// take takes a folder into the store; keep says whether its manifest, too.
func take(t *testing.T, s *blob.Store, root *os.Root, keep bool) tree.Manifest {
	t.Helper()
	in := s.Begin()
	defer in.End()
	m, err := tree.Scan(t.Context(), root, in)
	if err != nil {
		t.Fatal(err)
	}
	if keep {
		if err := in.Keep(m); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func blobs(t *testing.T, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(dir + "/blobs/*/*")
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestEachContentIsKeptOnce(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	large := strings.Repeat("0123456789abcdef", 64<<10)
	m := take(t, s, folder(t, map[string]string{"a": "same", "b": "same", "c": "", "d": large}), true)
	if got := blobs(t, dir); len(got) != 3 {
		t.Errorf("%d blobs: %v", len(got), got)
	}
	if left, _ := os.ReadDir(dir + "/incoming"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	again, err := open(t, dir).Manifest(m.Digest())
	if err != nil || again.Digest() != m.Digest() {
		t.Fatal(err)
	}
	for _, e := range again.Entries {
		if e.Kind != tree.File {
			continue
		}
		f, err := s.Open(e.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		var content bytes.Buffer
		if _, err := content.ReadFrom(f); err != nil || int64(content.Len()) != e.Size {
			t.Errorf("%s: %d bytes, %v", e.Path, content.Len(), err)
		}
		f.Close()
	}
}

func TestWhatACrashLeftIsReplaced(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	root := folder(t, map[string]string{"a": "content"})
	take(t, s, root, false)
	if err := os.Truncate(blobs(t, dir)[0], 0); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/incoming/half", []byte("x"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/incoming/another replica's", []byte("x"), 0o640); err != nil {
		t.Fatal(err)
	}
	long := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(dir+"/incoming/half", long, long); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	if left, err := os.ReadDir(dir + "/incoming"); err != nil || len(left) != 1 || left[0].Name() != "another replica's" {
		t.Errorf("incoming holds %v, %v", left, err)
	}
	take(t, s, root, true)
	if info, err := os.Stat(blobs(t, dir)[0]); err != nil || info.Size() != int64(len("content")) {
		t.Errorf("the blob is still cut: %v", err)
	}
}

func TestManifestsAreCheckedWhenRead(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	take(t, s, folder(t, map[string]string{"a": "x"}), true)
	other := "sha256:" + strings.Repeat("0", 64)
	if _, err := s.Manifest(other); !fault.Is(err, fault.KindNotFound) {
		t.Error(err)
	}
	for _, bad := range []string{"", "sha256:", "../../x", "sha256:../../../../etc/passwd", other + "\n", strings.ToUpper(other)} {
		if _, err := s.Manifest(bad); !fault.Is(err, fault.KindInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	files, _ := filepath.Glob(dir + "/manifests/*")
	if err := os.Rename(files[0], dir+"/manifests/"+strings.TrimPrefix(other, "sha256:")+".json"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Manifest(other); err == nil || !strings.Contains(err.Error(), "its digest is") {
		t.Errorf("a swapped manifest passed: %v", err)
	}
}

func TestCollectKeepsWhatIsNamed(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	keep := func(files map[string]string) tree.Manifest { return take(t, s, folder(t, files), true) }
	current := keep(map[string]string{"a": "shared", "b": "current"})
	listed := keep(map[string]string{"a": "shared", "b": "old"})
	gone := keep(map[string]string{"a": "gone"})
	name := func() ([]string, []string, error) { return []string{listed.Digest()}, []string{current.Digest()}, nil }

	if _, err := s.Collect(func() ([]string, []string, error) {
		return nil, []string{"sha256:" + strings.Repeat("0", 64)}, nil
	}); err == nil || len(blobs(t, dir)) != 4 {
		t.Fatalf("collected with a manifest missing: %v", err)
	}
	removed, err := s.Collect(name)
	if err != nil || removed != 3 { // "old", "gone", and the manifest of the latter
		t.Fatal(removed, err)
	}
	if got := len(blobs(t, dir)); got != 2 {
		t.Errorf("%d blobs", got)
	}
	for m, want := range map[string]bool{current.Digest(): true, listed.Digest(): true, gone.Digest(): false} {
		if _, err := s.Manifest(m); (err == nil) != want {
			t.Errorf("%s: %v", m, err)
		}
	}
	if removed, err := s.Collect(name); err != nil || removed != 0 {
		t.Error(removed, err)
	}
}
