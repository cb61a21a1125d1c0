package atomicfile_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/rumi-ai/rumi/libs/atomicfile"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("got %v, want no error", err)
	}
}

// folder is an empty folder, by path and as a root.
func folder(t *testing.T) (string, *os.Root) {
	t.Helper()
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	check(t, err)
	t.Cleanup(func() { root.Close() })
	return dir, root
}

// wantOnly fails unless the folder holds these names, and nothing temporary.
func wantOnly(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	check(t, err)
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if !slices.Equal(got, want) {
		t.Errorf("folder holds %q, want %q", got, want)
	}
}

func wantContent(t *testing.T, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	check(t, err)
	if string(got) != want {
		t.Errorf("%s holds %q, want %q", path, got, want)
	}
}

func TestWriteReplacesWithExactMode(t *testing.T) {
	dir, root := folder(t)
	defer syscall.Umask(syscall.Umask(0o077))
	check(t, root.Mkdir("sub", 0o700))
	for _, content := range []string{"first", "second, which is longer", "3rd"} {
		check(t, atomicfile.Write(root, "sub/a", []byte(content), 0o664))
		wantContent(t, filepath.Join(dir, "sub/a"), content)
	}
	info, err := root.Stat("sub/a")
	check(t, err)
	if info.Mode() != 0o664 {
		t.Errorf("mode %v under umask 077, want 0664", info.Mode())
	}
	wantOnly(t, filepath.Join(dir, "sub"), "a")
}

func TestNoReplace(t *testing.T) {
	dir, root := folder(t)
	check(t, atomicfile.Write(root, "a", []byte("old"), 0o600, atomicfile.NoReplace()))
	if err := atomicfile.Write(root, "a", []byte("new"), 0o600, atomicfile.NoReplace()); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Write over a file = %v, want fs.ErrExist", err)
	}
	wantContent(t, filepath.Join(dir, "a"), "old")
	wantOnly(t, dir, "a")
}

// An attacker who may write to the folder, or a crash, may have left anything under the temporary name.
func TestNothingIsWrittenThroughTheTemporaryName(t *testing.T) {
	for name, leave := range map[string]func(path, victim string) error{
		"link":   func(path, victim string) error { return os.Symlink(victim, path) },
		"file":   func(path, victim string) error { return os.Link(victim, path) },
		"FIFO":   func(path, _ string) error { return syscall.Mkfifo(path, 0o600) },
		"folder": func(path, _ string) error { return os.Mkdir(path, 0o700) },
	} {
		t.Run(name, func(t *testing.T) {
			dir, root := folder(t)
			victim := filepath.Join(t.TempDir(), "victim")
			check(t, os.WriteFile(victim, []byte("untouched"), 0o600))
			check(t, leave(filepath.Join(dir, ".a.new"), victim))
			check(t, atomicfile.Write(root, "a", []byte("new"), 0o600, atomicfile.TempName(".a.new")))
			wantContent(t, victim, "untouched")
			wantContent(t, filepath.Join(dir, "a"), "new")
			wantOnly(t, dir, "a")
		})
	}
}

func TestNothingIsLeftOfWhatFails(t *testing.T) {
	dir, root := folder(t)
	check(t, os.MkdirAll(filepath.Join(dir, "a/full"), 0o700))
	if err := atomicfile.Write(root, "a", []byte("new"), 0o600); err == nil {
		t.Error("Write over a folder = nil, want an error")
	}
	wantOnly(t, dir, "a")

	f, err := atomicfile.Create(root, "b", 0o600)
	check(t, err)
	_, err = f.Write([]byte("half"))
	check(t, err)
	if _, err := root.Stat("b"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the name before Commit: %v, want fs.ErrNotExist", err)
	}
	f.Discard()
	f.Discard()
	wantOnly(t, dir, "a")
}

func TestWritePath(t *testing.T) {
	dir, _ := folder(t)
	path := filepath.Join(dir, "a")
	check(t, atomicfile.WritePath(path, []byte("new"), 0o640, atomicfile.Owner(os.Getuid(), -1)))
	wantContent(t, path, "new")
	if err := atomicfile.WritePath(filepath.Join(dir, "missing/a"), nil, 0o640); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("WritePath to a missing folder = %v, want fs.ErrNotExist", err)
	}
	wantOnly(t, dir, "a")
}
