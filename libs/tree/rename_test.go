package tree

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// fileSystems runs a test on one that knows the flags of renameat2 and as on one that doesn't.
func fileSystems(t *testing.T, do func(t *testing.T, dir string, fd int)) {
	for name, errno := range map[string]error{"knows flags": nil, "EINVAL": unix.EINVAL, "ENOSYS": unix.ENOSYS} {
		t.Run(name, func(t *testing.T) {
			if errno != nil {
				renameat2 = func(int, string, int, string, uint) error { return errno }
				t.Cleanup(func() { renameat2 = unix.Renameat2 })
			}
			dir := t.TempDir()
			f, err := os.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { f.Close() })
			do(t, dir, int(f.Fd()))
		})
	}
}

func TestRenameNew(t *testing.T) {
	fileSystems(t, func(t *testing.T, dir string, fd int) {
		put(t, dir, "a")
		for what, make := range map[string]func(string) error{
			"full":  func(p string) error { put(t, dir, filepath.Base(p)); return nil },
			"empty": func(p string) error { return os.Mkdir(p, 0o755) },
			"file":  func(p string) error { return os.WriteFile(p, nil, 0o644) },
			"link":  func(p string) error { return os.Symlink("nothing", p) },
		} {
			if err := make(filepath.Join(dir, what)); err != nil {
				t.Fatal(err)
			}
			if err := RenameNew(fd, "a", what); !errors.Is(err, fs.ErrExist) {
				t.Errorf("over something (%s): %v, want fs.ErrExist", what, err)
			}
		}
		if err := RenameNew(fd, "a", "b"); err != nil || held(dir, "b") != "a" || held(dir, "a") != "" {
			t.Errorf("got %v, b holds %q; want it to hold a's", err, held(dir, "b"))
		}
		if err := RenameNew(fd, "missing", "c"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("of nothing: %v, want fs.ErrNotExist", err)
		}
	})
}

func TestExchange(t *testing.T) {
	fileSystems(t, func(t *testing.T, dir string, fd int) {
		put(t, dir, "a")
		put(t, dir, "b")
		if err := Exchange(fd, "a", "b", "aside"); err != nil {
			t.Fatal(err)
		}
		if held(dir, "a") != "b" || held(dir, "b") != "a" || held(dir, "aside") != "" {
			t.Errorf("a holds %q, b %q, aside %q; want b, a and nothing", held(dir, "a"), held(dir, "b"), held(dir, "aside"))
		}
		// What fails leaves everything where it was.
		if err := Exchange(fd, "missing", "b", "aside"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("with nothing: %v, want fs.ErrNotExist", err)
		}
		if held(dir, "b") != "a" || held(dir, "aside") != "" {
			t.Errorf("after an error b holds %q, aside %q", held(dir, "b"), held(dir, "aside"))
		}
	})
}

// put makes a folder that holds its own name.
func put(t *testing.T, dir, name string) {
	t.Helper()
	if err := errors.Join(os.Mkdir(filepath.Join(dir, name), 0o755), os.WriteFile(filepath.Join(dir, name, "name"), []byte(name), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func held(dir, name string) string {
	data, _ := os.ReadFile(filepath.Join(dir, name, "name"))
	return string(data)
}
