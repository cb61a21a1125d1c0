package container

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/packdata"
)

// archived gives a pack data, archives it and returns the archive's name.
func archived(t *testing.T, root string) string {
	t.Helper()
	dir := filepath.Join(root, "p")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, "f"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	to, err := packdata.Archive(root, "p", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return path.Base(to)
}

// A pack gets the newest again, and nothing in the place of what it has or uses.
func TestDataIsRestored(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		restore := func(what, want, from string) {
			t.Helper()
			got, err := r.RestoreData(t.Context(), "p")
			if code := fault.Of(err).Code; (want == "") != (err == nil) || want != "" && code != want || got != from {
				t.Errorf("%s: %q, %v, want %q, code %q", what, got, err, from, want)
			}
		}
		restore("nothing", "no_data_kept", "")
		archived(t, r.DataDir)
		newest := archived(t, r.DataDir)
		r.started(t, "p", "d1")
		restore("while it runs", "pack_running", "")
		if _, err := r.Stop(t.Context(), "p"); err != nil {
			t.Fatal(err)
		}
		restore("empty", "", "user_data/packs/.uninstalled/p/"+newest)
		if _, err := os.Stat(filepath.Join(r.DataDir, "p", "f")); err != nil {
			t.Error(err)
		}
		restore("again", "data_exists", "")
	}, func(c *Config) { c.DataKept = 5 })
}

// At the limit is allowed, over it isn't; files count beside bytes.
func TestDataLimit(t *testing.T) {
	const files = 100
	dir := t.TempDir()
	for i := range files {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	u, err := packdata.Measure(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	m := &Manager{Config: Config{DataMax: u.Bytes}}
	if reason := m.dataProblem(t.Context(), dir); reason != "" {
		t.Errorf("at the limit: %q, want nothing", reason)
	}
	m.DataMax--
	if reason := m.dataProblem(t.Context(), dir); !strings.Contains(reason, "in 101 files and folders") {
		t.Errorf("over the limit: %q, want it to name 101 files and folders", reason)
	}
}
