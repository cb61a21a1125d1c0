package environment_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/testenv"
	"github.com/rumi-ai/rumi/libs/tree"
	"github.com/rumi-ai/rumi/services/pip-installer/internal/environment"
	"github.com/rumi-ai/rumi/services/pip-installer/internal/lock"
)

// storeDir is a folder for a Store. What a Store keeps can't be removed by anybody but root as it is.
func storeDir(t *testing.T) string {
	dir := t.TempDir()
	t.Cleanup(func() {
		must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				err = os.Chmod(path, 0o700)
			}
			return err
		}))
	})
	return dir
}

// built makes what a builder could have left: files by path, "/" at the end for a folder.
func built(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		if strings.HasSuffix(name, "/") {
			must(t, os.MkdirAll(path, 0o755))
			continue
		}
		must(t, os.WriteFile(path, []byte(content), 0o644))
	}
	return dir
}

func metadata(name, version string) string {
	return "Metadata-Version: 2.1\nName: " + name + "\nVersion: " + version + "\nSummary: x\n\nName: other\nVersion: 9\n"
}

// with adds files to those of a wheel of idna 3.10.
func with(more map[string]string) map[string]string {
	files := map[string]string{
		"idna/__init__.py": "x = 1\n", "idna/data/": "", "idna-3.10.dist-info/METADATA": metadata("idna", "3.10"),
		"idna-3.10.dist-info/RECORD": "", "bin/idna": "#!/usr/bin/python3\n",
	}
	for name, content := range more {
		if content == "-" {
			delete(files, name)
		} else {
			files[name] = content
		}
	}
	return files
}

func parse(t *testing.T, text string) []lock.Requirement {
	t.Helper()
	found, err := lock.Parse([]byte(text))
	must(t, err)
	return found
}

func TestVetting(t *testing.T) {
	for _, c := range []struct {
		name, lock string
		files      map[string]string
		refusal    string // "" for none
	}{
		{"a wheel", "idna==3.10", with(nil), ""},
		{"spelt otherwise", "IDNA==3.10.0", with(nil), ""},
		{"local version", "idna==3.10", with(map[string]string{"idna-3.10.dist-info/METADATA": metadata("idna", "3.10"), "LICENSE": ""}), ""},
		{"extension modules, stubs, libraries", "idna==3.10", with(map[string]string{
			"_cffi.cpython-311-x86_64-linux-gnu.so": "", "idna-stubs/__init__.pyi": "", "idna.libs/libz.so.1": "", "__pycache__/six.cpython-311.pyc": "",
		}), ""},
		{"modules of the library deeper down", "idna==3.10", with(map[string]string{"idna/json.py": "", "idna/os/__init__.py": "", "idna/x.pth": ""}), ""},
		{"a file that is no module", "idna==3.10", with(map[string]string{"json.md": "", "os": ""}), ""},

		{".pth", "idna==3.10", with(map[string]string{"x.pth": "import os"}), `"x.pth" would change`},
		{".pth in capitals", "idna==3.10", with(map[string]string{"x.PTH": "import os"}), `"x.PTH" would change`},
		{".pth alone", "idna==3.10", with(map[string]string{".pth": "import os"}), `".pth" would change`},
		{"egg-link", "idna==3.10", with(map[string]string{"x.egg-link": "/"}), `would change`},
		{"egg", "idna==3.10", with(map[string]string{"x.egg/x.py": ""}), `would change`},
		{"egg-info", "idna==3.10", with(map[string]string{"x.egg-info/PKG-INFO": ""}), `would change`},
		{"sitecustomize", "idna==3.10", with(map[string]string{"sitecustomize.py": ""}), `takes the place`},
		{"usercustomize as a folder", "idna==3.10", with(map[string]string{"usercustomize/": ""}), `takes the place`},
		{"sitecustomize as an extension", "idna==3.10", with(map[string]string{"sitecustomize.cpython-311-x86_64-linux-gnu.so": ""}), `takes the place`},
		{"sitecustomize as bytecode", "idna==3.10", with(map[string]string{"sitecustomize.pyc": ""}), `takes the place`},
		{"standard library", "idna==3.10", with(map[string]string{"json/__init__.py": ""}), `"json" takes the place`},
		{"standard library, one file", "idna==3.10", with(map[string]string{"os.py": ""}), `"os.py" takes the place`},
		{"standard library, an extension", "idna==3.10", with(map[string]string{"_ssl.abi3.so": ""}), `takes the place`},
		{"standard library, a namespace", "idna==3.10", with(map[string]string{"email/": ""}), `takes the place`},
		{"Rumi's own modules", "idna==3.10", with(map[string]string{"rumi_syscall.py": ""}), `takes the place`},

		{"not installed", "idna==3.10\ncertifi==1", with(nil), "certifi==1 is not installed"},
		{"not listed", "idna==3.10", with(map[string]string{"evil-1.0.dist-info/METADATA": metadata("evil", "1.0")}), "evil 1.0 is installed but not listed"},
		{"another version", "idna==3.9", with(nil), "idna==3.9 is installed as 3.10"},
		{"another local version", "idna==3.10+cpu", with(nil), "is installed as 3.10"},
		{"contents differ from the name", "idna==3.10", with(map[string]string{"idna-3.10.dist-info/METADATA": metadata("evil", "3.10")}), `says "evil"`},
		{"contents differ from the version", "idna==3.10", with(map[string]string{"idna-3.10.dist-info/METADATA": metadata("idna", "3.11")}), `says "idna" "3.11"`},
		{"no version", "idna==3.10", with(map[string]string{"idna-3.10.dist-info/METADATA": "Name: idna\n\nVersion: 3.10\n"}), `says "idna" ""`},
		{"no metadata", "idna==3.10", with(map[string]string{"idna-3.10.dist-info/METADATA": "-"}), "has no METADATA"},
		{"metadata is a folder", "idna==3.10", with(map[string]string{"idna-3.10.dist-info/METADATA": "-", "idna-3.10.dist-info/METADATA/x": ""}), "has no METADATA"},
		{"huge metadata", "idna==3.10", with(map[string]string{"idna-3.10.dist-info/METADATA": metadata("idna", "3.10") + strings.Repeat("x", 5<<20)}), "is larger than"},
		{"twice", "idna==3.10", with(map[string]string{"Idna-3.10.dist-info/METADATA": metadata("Idna", "3.10")}), "is installed twice"},
		{"nothing", "idna==3.10", nil, "is not installed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			env, err := environment.NewStore(storeDir(t)).Add(t.Context(), built(t, c.files), parse(t, c.lock))
			if c.refusal == "" {
				if err != nil || len(env.Packages) != 1 || env.Packages[0].Name != "idna" || env.Packages[0].Version != "3.10" {
					t.Errorf("the environment is %+v, %v; want idna 3.10 alone", env, err)
				}
				return
			}
			refused, ok := errors.AsType[*environment.RefusedError](err)
			if !ok || !strings.Contains(refused.Reason, c.refusal) {
				t.Errorf("error is %v, want %s", err, c.refusal)
			}
		})
	}
}

func TestSpecialFilesAreRefused(t *testing.T) {
	for name, make := range map[string]func(path string) error{
		"symbolic link": func(path string) error { return os.Symlink("/etc/passwd", path) },
		"FIFO":          func(path string) error { return syscall.Mkfifo(path, 0o644) },
		"special mode": func(path string) error {
			return errors.Join(os.WriteFile(path, nil, 0o755), os.Chmod(path, 0o755|fs.ModeSetuid))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := built(t, with(nil))
			must(t, make(filepath.Join(dir, "idna", "x")))
			_, err := environment.NewStore(storeDir(t)).Add(t.Context(), dir, parse(t, "idna==3.10"))
			if refused, ok := errors.AsType[*environment.RefusedError](err); !ok || !strings.Contains(refused.Reason, name) {
				t.Errorf("error is %v; want a refusal that says %q", err, name)
			}
		})
	}
}

// What is kept is read-only, the same whatever the builder's umask was, and travels as it is.
func TestAddAndSend(t *testing.T) {
	store := environment.NewStore(storeDir(t))
	first := built(t, with(nil))
	env, err := store.Add(t.Context(), first, parse(t, "idna==3.10"))
	must(t, err)
	second := built(t, with(nil))
	must(t, filepath.WalkDir(second, func(path string, d fs.DirEntry, _ error) error {
		mode := fs.FileMode(0o600)
		if d.IsDir() {
			mode = 0o700
		}
		return os.Chmod(path, mode)
	}))
	if again, err := store.Add(t.Context(), second, parse(t, "idna==3.10")); err != nil || again.Digest != env.Digest {
		t.Errorf("the same again is %+v, %v; want digest %v", again, err, env.Digest)
	}
	path, err := store.Path(env.Digest)
	must(t, err)
	must(t, os.RemoveAll(first))
	for name, want := range map[string]fs.FileMode{"": 0o555 | fs.ModeDir, "idna/data": 0o555 | fs.ModeDir, "idna/__init__.py": 0o444} {
		if info, err := os.Stat(filepath.Join(path, name)); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v; want mode %v", name, info.Mode(), err, want)
		}
	}

	var stream bytes.Buffer
	must(t, store.Send(t.Context(), &stream, env.Digest))
	must(t, tree.Receive(&stream, env.Digest, filepath.Join(testenv.TempDir(t), "copy")))

	must(t, os.Chmod(filepath.Join(path, "idna/__init__.py"), 0o644))
	must(t, os.WriteFile(filepath.Join(path, "idna/__init__.py"), []byte("evil"), 0o644))
	if err := store.Send(t.Context(), &stream, env.Digest); !fault.Is(err, fault.KindNotFound) {
		t.Errorf("a changed environment is sent: %v; want not found", err)
	}
}

func TestSweep(t *testing.T) {
	store := environment.NewStore(storeDir(t))
	var digests []string
	for _, content := range []string{"a", "b"} {
		env, err := store.Add(t.Context(), built(t, with(map[string]string{"idna/x.py": content})), parse(t, "idna==3.10"))
		must(t, err)
		digests = append(digests, env.Digest)
	}
	must(t, store.Sweep(func(digest string, age time.Duration) bool {
		if age < 0 || age > time.Minute {
			t.Errorf("age is %v; want it within a minute", age)
		}
		return digest == digests[0]
	}))
	for i, want := range []bool{true, false} {
		path, err := store.Path(digests[i])
		must(t, err)
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("environment %d: %v; want it there: %v", i, err, want)
		}
	}
	if _, err := store.Path("../../x"); !fault.Is(err, fault.KindInvalid) {
		t.Errorf("a path for a bad digest: %v; want that it is invalid", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
