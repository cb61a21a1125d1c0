package folder_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rumi-ai/rumi/services/pack-registry/internal/folder"
)

func options(change func(*folder.Options)) folder.Options {
	o := folder.Options{
		Modes:  folder.Modes{Folder: 0o755, File: 0o644, Executable: 0o755},
		Limits: folder.Limits{Files: 3, Folders: 2, Bytes: 10},
	}
	if change != nil {
		change(&o)
	}
	return o
}

// world is a folder "from" and a place for its copy.
func world(t *testing.T) (dir string, root *os.Root) {
	t.Helper()
	dir = t.TempDir()
	root, err := os.OpenRoot(dir)
	check(t, errors.Join(err, os.Mkdir(filepath.Join(dir, "from"), 0o755)))
	t.Cleanup(func() { root.Close() })
	return dir, root
}

func TestCopy(t *testing.T) {
	dir, root := world(t)
	check(t, os.MkdirAll(dir+"/from/a/b", 0o700))
	check(t, os.WriteFile(dir+"/from/a/b/x", []byte("12345"), 0o4711))
	check(t, os.WriteFile(dir+"/from/.y", []byte("12345"), 0o600))
	check(t, folder.Copy(t.Context(), root, "from", root, "to", options(nil)))
	for name, mode := range map[string]os.FileMode{"to": os.ModeDir | 0o755, "to/a/b": os.ModeDir | 0o755, "to/a/b/x": 0o755, "to/.y": 0o644} {
		if info, err := os.Lstat(filepath.Join(dir, name)); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v; want mode %v", name, info, err, mode)
		}
	}
	if content, err := os.ReadFile(dir + "/to/a/b/x"); err != nil || string(content) != "12345" {
		t.Errorf("to/a/b/x holds %q, %v; want 12345", content, err)
	}
	if err := folder.Copy(t.Context(), root, "from", root, "to", options(nil)); !errors.Is(err, os.ErrExist) {
		t.Errorf("over what is there: %v; want os.ErrExist", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := folder.Copy(ctx, root, "from", root, "never", options(nil)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v; want context.Canceled", err)
	}
}

func TestCopyRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		make func(from string) error
		want string
	}{
		"files":         {files("1", "2", "3", "4"), "4 files are more than 3"},
		"folders":       {folders("a/b/c"), "3 folders are more than 2"},
		"bytes":         {files("12345678901"), "11 bytes are more than 10"},
		"link":          {func(from string) error { return os.Symlink("/etc/passwd", from+"/l") }, `"l" is a symbolic link`},
		"link to a dir": {func(from string) error { return os.Symlink("/etc", from+"/l") }, `"l" is a symbolic link`},
		"FIFO":          {func(from string) error { return syscall.Mkfifo(from+"/p", 0o644) }, `"p" is neither a file nor a folder`},
		"newline":       {files("a\nb"), `"a\nb" is not a name that can be shown: it has U+000A (control character)`},
		"not UTF-8":     {files("a\xff"), `"a\xff" is not a name that can be shown: it has byte 0xFF (invalid UTF-8)`},
		"case":          {files("a.py", "A.py"), `which differs by case or Unicode form only`},
		"Unicode form":  {files("\u00e9", "e\u0301"), `which differs by case or Unicode form only`},
		"folder's case": {func(from string) error { return errors.Join(os.Mkdir(from+"/b", 0o755), files("B")(from)) }, `which differs by case or Unicode form only`},
		"the folder":    {func(from string) error { return errors.Join(os.Remove(from), os.Symlink("/etc", from)) }, `"." is a symbolic link`},
	} {
		t.Run(name, func(t *testing.T) {
			dir, root := world(t)
			check(t, c.make(dir+"/from"))
			err := folder.Copy(t.Context(), root, "from", root, "to", options(nil))
			if err == nil || !strings.HasSuffix(err.Error(), c.want) {
				t.Errorf("got %v; want an error that ends in %q", err, c.want)
			}
		})
	}
}

func TestCopyLeniently(t *testing.T) {
	dir, root := world(t)
	check(t, errors.Join(os.Symlink("/etc/passwd", dir+"/from/l"), syscall.Mkfifo(dir+"/from/p", 0o644), files("a\nb")(dir+"/from")))
	check(t, folder.Copy(t.Context(), root, "from", root, "to", options(func(o *folder.Options) { o.Lenient = true })))
	if target, err := os.Readlink(dir + "/to/l"); err != nil || target != "/etc/passwd" {
		t.Errorf("the link is %q, %v; want /etc/passwd", target, err)
	}
	if _, err := os.Lstat(dir + "/to/p"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the FIFO: %v; want os.ErrNotExist", err)
	}
	if _, err := os.Lstat(dir + "/to/a\nb"); err != nil {
		t.Error(err)
	}
	check(t, folder.Remove(root, "to"))
	if content, err := os.ReadFile("/etc/passwd"); err != nil || len(content) == 0 {
		t.Error("removing followed a link")
	}
}

// files makes a file for each name, its name being its content.
func files(names ...string) func(string) error {
	return func(from string) error {
		for _, name := range names {
			if err := os.WriteFile(filepath.Join(from, name), []byte(name), 0o644); err != nil {
				return err
			}
		}
		return nil
	}
}

func folders(path string) func(string) error {
	return func(from string) error { return os.MkdirAll(filepath.Join(from, path), 0o755) }
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
