package blob_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/tree"
	"github.com/rumi-ai/rumi/services/approval/internal/blob"
)

func open(t *testing.T, dir string) *blob.Store {
	t.Helper()
	s, err := blob.Open(dir, slog.New(slog.DiscardHandler))
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
func take(t *testing.T, s *blob.Store, root *os.Root, commit bool) tree.Manifest {
	t.Helper()
	in, err := s.NewIntake()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	m, err := tree.Scan(t.Context(), root, in)
	if err != nil {
		t.Fatal(err)
	}
	if commit {
		if err := in.Commit(m); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// blobs are the large blobs of a store, each in a file.
func blobs(t *testing.T, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(dir + "/blobs/*/*")
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// bundles are the files that hold small ones.
func bundles(t *testing.T, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(dir + "/bundles/*")
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// check reads every content of a tree.
func check(t *testing.T, open func(string) (io.ReadCloser, error), m tree.Manifest) {
	t.Helper()
	for _, e := range m.Entries {
		if e.Kind != tree.File {
			continue
		}
		f, err := open(e.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(f)
		if got := sha256.Sum256(content); err != nil || hex.EncodeToString(got[:]) != e.SHA256 {
			t.Errorf("%s: %d bytes that hash to %x, %v; want %s", e.Path, len(content), got, err, e.SHA256)
		}
		f.Close()
	}
}

var large = strings.Repeat("0123456789abcdef", 64<<10)

func TestEachContentIsStoredOnce(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	files := map[string]string{"a": "same", "b": "same", "c": "", "d": large, "e": large, "f": large[:128<<10], "g": large[:128<<10+1]}
	m := take(t, s, folder(t, files), true)
	if got := s.Small(); got != 3 || len(bundles(t, dir)) != 1 || len(blobs(t, dir)) != 2 {
		t.Errorf("%d small blobs in %d bundles, %d large ones; want 3 in 1, and 2", got, len(bundles(t, dir)), len(blobs(t, dir)))
	}
	delete(files, "a")
	files["h"] = "new"
	more := take(t, s, folder(t, files), true)
	if got := s.Small(); got != 4 || len(bundles(t, dir)) != 2 || len(blobs(t, dir)) != 2 {
		t.Errorf("and then %d small blobs in %d bundles, %d large ones; want 4 in 2, and 2", got, len(bundles(t, dir)), len(blobs(t, dir)))
	}
	if left, _ := os.ReadDir(dir + "/incoming"); len(left) != 0 {
		t.Errorf("left behind: %v; want none", left)
	}
	later := open(t, dir)
	for _, want := range []tree.Manifest{m, more} {
		again, err := later.Manifest(want.Digest())
		if err != nil || again.Digest() != want.Digest() {
			t.Fatal(err)
		}
		check(t, later.Open, again)
		check(t, s.Open, again)
	}
}

// What a review took in can be read until its end, and then it is gone.
func TestWhatIsNotCommittedIsDiscarded(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	in, err := s.NewIntake()
	if err != nil {
		t.Fatal(err)
	}
	m, err := tree.Scan(t.Context(), folder(t, map[string]string{"a": "small", "b": large, "c": "another"}), in)
	if err != nil {
		t.Fatal(err)
	}
	check(t, in.Open, m)
	in.Close()
	if left, _ := os.ReadDir(dir + "/incoming"); len(left) != 0 || len(bundles(t, dir)) != 0 {
		t.Errorf("left behind: %v, %v; want nothing and no bundles", left, bundles(t, dir))
	}
	if _, err := s.Open(m.Entries[1].SHA256); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// Replicas find what each other kept, and don't collect what another is about to name.
func TestTwoProcessesShareAStore(t *testing.T) {
	dir := t.TempDir()
	a, b := open(t, dir), open(t, dir)
	m := take(t, a, folder(t, map[string]string{"a": "x", "b": large}), true)
	check(t, b.Open, m)
	in, err := a.NewIntake()
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	var ended atomic.Bool
	group.Go(func() {
		if _, err := b.Collect(func() ([]string, []string, error) {
			if !ended.Load() {
				t.Error("collects during an intake")
			}
			return nil, nil, nil
		}); err != nil {
			t.Error(err)
		}
	})
	again, err := tree.Scan(t.Context(), folder(t, map[string]string{"a": "x", "c": "y"}), in)
	if err != nil {
		t.Fatal(err)
	}
	if err := in.Commit(again); err != nil {
		t.Fatal(err)
	}
	ended.Store(true)
	in.Close()
	group.Wait()
	// Now all of it is gone, and a, which knew where it was, keeps it once more.
	m = take(t, a, folder(t, map[string]string{"a": "x", "b": large}), true)
	check(t, a.Open, m)
	check(t, b.Open, m)
}

func TestWhatACrashLeftIsReplaced(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	root := folder(t, map[string]string{"a": "content", "b": large})
	take(t, s, root, true)
	if err := os.Truncate(blobs(t, dir)[0], 0); err != nil {
		t.Fatal(err)
	}
	current, err := os.ReadFile(bundles(t, dir)[0])
	if err != nil {
		t.Fatal(err)
	}
	for i, torn := range [][]byte{
		nil, current[:10], current[1:], current[:len(current)-1], append([]byte("x"), current...), append(slices.Clone(current), 0),
		bytes.Replace(current, []byte("rumibdl1"), []byte("rumibdl2"), 1), make([]byte, len(current)), bytes.Repeat([]byte{255}, len(current)),
		flip(current, len(current)-1), flip(current, len(current)-45), flip(current, len(current)-50), flip(current, len(current)-85),
	} {
		if err := os.WriteFile(bundles(t, dir)[0], torn, 0o640); err != nil {
			t.Fatal(err)
		}
		if got := open(t, dir).Small(); got != 0 {
			t.Errorf("torn bundle %d: %d blobs; want 0", i, got)
		}
	}
	s = open(t, dir)
	m := take(t, s, root, true)
	check(t, s.Open, m)
	if removed, err := s.Collect(func() ([]string, []string, error) { return nil, []string{m.Digest()}, nil }); err != nil || removed != 0 || len(bundles(t, dir)) != 1 {
		t.Errorf("the torn bundle is still there: %v, %v, %v; want nothing removed and one bundle", removed, err, bundles(t, dir))
	}
	check(t, s.Open, m)
}

// What a process that died was writing is nobody's as soon as no intake is under way, in whatever process.
func TestWhatACrashLeftHalfWrittenIsRemoved(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	half := dir + "/incoming/half"
	leave := func() {
		if err := os.WriteFile(half, []byte("x"), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	there := func() bool {
		_, err := os.Stat(half)
		return err == nil
	}
	in, err := s.NewIntake()
	if err != nil {
		t.Fatal(err)
	}
	leave()
	replica := open(t, dir)
	if !there() {
		t.Error("a replica that starts removes what is being written")
	}
	in.Close()
	if removed, err := replica.Collect(func() ([]string, []string, error) { return nil, nil, nil }); err != nil || removed != 0 || there() {
		t.Errorf("a collection left it: %d, %v; want nothing counted, and it gone", removed, err)
	}
	leave()
	if open(t, dir); there() {
		t.Error("the next start left it")
	}
}

func flip(data []byte, at int) []byte {
	data = slices.Clone(data)
	data[at] ^= 1
	return data
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
			t.Errorf("%q: %v; want that it is invalid", bad, err)
		}
	}
	files, _ := filepath.Glob(dir + "/manifests/*")
	if err := os.Rename(files[0], dir+"/manifests/"+strings.TrimPrefix(other, "sha256:")+".json"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Manifest(other); err == nil || !strings.Contains(err.Error(), "its digest is") {
		t.Errorf("a swapped manifest passed: %v; want an error that says \"its digest is\"", err)
	}
}

func TestCollectKeepsWhatIsNamed(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	commit := func(files map[string]string) tree.Manifest { return take(t, s, folder(t, files), true) }
	current := commit(map[string]string{"a": "shared", "b": "current", "c": large})
	historic := commit(map[string]string{"a": "shared", "b": "old", "c": large + "old"})
	gone := commit(map[string]string{"a": "gone"})
	// What of a bundle is needed stays, though the bundle began with something else.
	mixed := commit(map[string]string{"a": "a part", "b": "another part"})
	later := commit(map[string]string{"b": "another part", "c": "new"})
	name := func() ([]string, []string, error) {
		return []string{historic.Digest()}, []string{current.Digest(), later.Digest()}, nil
	}

	if _, err := s.Collect(func() ([]string, []string, error) {
		return nil, []string{"sha256:" + strings.Repeat("0", 64)}, nil
	}); err == nil || s.Small() != 7 || len(blobs(t, dir)) != 2 {
		t.Fatalf("collected with a manifest missing: %v, %d small blobs, %d large ones; want an error, 7 and 2", err, s.Small(), len(blobs(t, dir)))
	}
	removed, err := s.Collect(name)
	if err != nil || removed != 6 { // "old" twice, "gone", "a part", and the manifests of the latter two
		t.Fatalf("removed %d, %v; want 6", removed, err)
	}
	if s.Small() != 4 || len(blobs(t, dir)) != 1 || len(bundles(t, dir)) != 3 {
		t.Errorf("%d small blobs in %d bundles, %d large ones; want 4 in 3, and 1", s.Small(), len(bundles(t, dir)), len(blobs(t, dir)))
	}
	for m, want := range map[string]bool{current.Digest(): true, historic.Digest(): true, later.Digest(): true, gone.Digest(): false, mixed.Digest(): false} {
		if _, err := s.Manifest(m); (err == nil) != want {
			t.Errorf("%s: %v; want it there: %v", m, err, want)
		}
	}
	for _, store := range []*blob.Store{s, open(t, dir)} {
		check(t, store.Open, current)
		check(t, store.Open, later)
	}
	if removed, err := s.Collect(name); err != nil || removed != 0 {
		t.Errorf("the second collection removed %d, %v; want 0", removed, err)
	}
}

// A bundle whose content is damaged is not written anew as if it were whole.
func TestCollectLeavesWhatIsDamaged(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	take(t, s, folder(t, map[string]string{"a": "needed", "b": "not"}), true)
	current := take(t, s, folder(t, map[string]string{"a": "needed"}), true)
	data, err := os.ReadFile(bundles(t, dir)[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bundles(t, dir)[0], bytes.Replace(data, []byte("needed"), []byte("Needed"), 1), 0o640); err != nil {
		t.Fatal(err)
	}
	_, err = s.Collect(func() ([]string, []string, error) { return nil, []string{current.Digest()}, nil })
	if err == nil || !strings.Contains(err.Error(), "is damaged") || len(bundles(t, dir)) != 1 {
		t.Errorf("the collection gives %v, with the bundles %v; want that it is damaged, and one bundle", err, bundles(t, dir))
	}
}

// Who reads while bundles are written anew always finds what is needed.
func TestReadingWhileCollecting(t *testing.T) {
	s := open(t, t.TempDir())
	files := map[string]string{"a": "needed", "b": "too"}
	for i := range 30 {
		files[fmt.Sprint(i)] = fmt.Sprint(i)
	}
	take(t, s, folder(t, files), true) // one bundle of all
	current := take(t, s, folder(t, map[string]string{"a": "needed", "b": "too"}), true)
	var group sync.WaitGroup
	var done atomic.Bool
	group.Go(func() {
		for !done.Load() {
			check(t, s.Open, current)
		}
	})
	for i := range 30 { // each time the bundle is written anew with one less
		delete(files, fmt.Sprint(i))
		m := take(t, s, folder(t, files), true)
		if removed, err := s.Collect(func() ([]string, []string, error) { return nil, []string{m.Digest(), current.Digest()}, nil }); err != nil || removed == 0 {
			t.Fatalf("collection %d removed %d, %v; want some", i, removed, err)
		}
	}
	done.Store(true)
	group.Wait()
}
