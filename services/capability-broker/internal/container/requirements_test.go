package container

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLockWarning(t *testing.T) {
	key := func(path, content string) string {
		sum := sha256.Sum256([]byte(content))
		return "p:" + path + ":" + hex.EncodeToString(sum[:])
	}
	const lock, backend = "requirements.lock", "backend/requirements.lock"
	for name, c := range map[string]struct {
		files     map[string]string
		installed string
		want      string // how the warning begins, "" for none
	}{
		"no lock":                 {nil, "", ""},
		"not installed":           {map[string]string{lock: "a==1"}, "", "requirements.lock isn't installed: approve " + key(lock, "a==1") + " first"},
		"installed":               {map[string]string{lock: "a==1"}, key(lock, "a==1"), ""},
		"another is installed":    {map[string]string{lock: "a==2"}, key(lock, "a==1"), "the installed packages are of another requirements.lock: approve " + key(lock, "a==2")},
		"in the backend":          {map[string]string{backend: "a==1"}, "", "requirements.lock isn't installed: approve " + key(backend, "a==1")},
		"one of two is installed": {map[string]string{lock: "a==1", backend: "b==1"}, key(backend, "b==1"), ""},
		"no lock any more":        {nil, key(lock, "a==1"), ""},
	} {
		dir := t.TempDir()
		for path, content := range c.files {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, path), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got := lockWarning(dir, "p", c.installed)
		if (c.want == "") != (got == "") || !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}
