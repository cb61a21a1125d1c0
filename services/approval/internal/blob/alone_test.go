package blob_test

import (
	"errors"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/rumi-ai/rumi/services/approval/internal/blob"
)

// litter puts what is no file of a store where files of it are: folders, which nobody can read as files, and a FIFO, which blocks who
// opens it carelessly.
func litter(t *testing.T, dir string) {
	t.Helper()
	for _, err := range []error{
		os.MkdirAll(dir+"/incoming/folder/in it", 0o750),
		os.Mkdir(dir+"/bundles/folder", 0o750),
		syscall.Mkfifo(dir+"/bundles/fifo", 0o640),
		os.MkdirAll(dir+"/manifests/folder.json/in it", 0o750),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// What lies in a store and can't be read keeps nobody from the rest of it: it opens, reads, takes in and collects.
func TestOneThingInTheWayStopsNothing(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	before := take(t, s, folder(t, map[string]string{"a": "x", "b": large}), true)
	take(t, s, folder(t, map[string]string{"a": "not needed", "b": large + "neither"}), true)
	litter(t, dir)
	s = open(t, dir)
	if _, err := os.Stat(dir + "/incoming/folder"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a folder in incoming: %v, want it removed", err)
	}
	check(t, s.Open, before)
	after := take(t, s, folder(t, map[string]string{"a": "y"}), true)
	removed, err := s.Collect(func() ([]string, []string, error) { return nil, []string{before.Digest(), after.Digest()}, nil })
	if err == nil || !strings.Contains(err.Error(), "bundles/folder") {
		t.Errorf("got %v, want an error of bundles/folder", err)
	}
	if removed != 3 || len(blobs(t, dir)) != 1 {
		t.Errorf("removed %d, large blobs %v; want 3 (a manifest, a small blob, a large one), and one", removed, blobs(t, dir))
	}
	check(t, s.Open, before)
	check(t, s.Open, after)
}

// A manifest that can't be read keeps all that it may need, and the error names each such tree.
func TestCollectNamesEveryManifestItCannotRead(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	lost := take(t, s, folder(t, map[string]string{"a": "lost"}), true)
	readable := take(t, s, folder(t, map[string]string{"a": "kept"}), true)
	path := dir + "/manifests/" + strings.TrimPrefix(lost.Digest(), "sha256:") + ".json"
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	missing := "sha256:" + strings.Repeat("0", 64)
	for _, err := range []error{os.Remove(path), os.Mkdir(path, 0o750), os.WriteFile(dir+"/incoming/half", nil, 0o640)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	removed, err := s.Collect(func() ([]string, []string, error) {
		return nil, []string{missing, lost.Digest(), readable.Digest()}, nil
	})
	unread, ok := errors.AsType[*blob.UnreadError](err)
	if !ok || !slices.Equal(unread.Digests, []string{missing, lost.Digest()}) || removed != 0 || s.Small() != 2 {
		t.Errorf("removed %d, %d small blobs, %v; want nothing removed, and both digests named", removed, s.Small(), err)
	}
	if _, err := os.Stat(dir + "/incoming/half"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("half-written: %v, want it removed all the same", err)
	}
	for _, err := range []error{os.Remove(path), os.WriteFile(path, data, 0o640)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	removed, err = s.Collect(func() ([]string, []string, error) { return nil, []string{lost.Digest()}, nil })
	if err != nil || removed != 2 {
		t.Errorf("with the manifest back: %d, %v; want the other tree's two files removed", removed, err)
	}
	check(t, s.Open, lost)
}

// A damaged bundle stays, and so does the copy that another bundle has of what is in it.
func TestADamagedBundleTakesNothingFromAnother(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	take(t, s, folder(t, map[string]string{"a": "needed", "b": "not"}), true)
	first := bundles(t, dir)[0]
	aside := t.TempDir() + "/first"
	if err := os.Rename(first, aside); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	current := take(t, s, folder(t, map[string]string{"a": "needed"}), true)
	data, err := os.ReadFile(aside)
	if err != nil {
		t.Fatal(err)
	}
	// The name of the damaged one comes first.
	if err := os.WriteFile(dir+"/bundles/0", []byte(strings.Replace(string(data), "needed", "Needed", 1)), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Collect(func() ([]string, []string, error) { return nil, []string{current.Digest()}, nil }); err == nil {
		t.Error("no error, want that of the damaged bundle")
	}
	if got := bundles(t, dir); len(got) != 2 {
		t.Errorf("bundles %v, want both", got)
	}
}
