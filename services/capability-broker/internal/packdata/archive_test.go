package packdata

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// archived gives a pack data and archives it.
func archived(t *testing.T, root string, now time.Time) string {
	t.Helper()
	dir := filepath.Join(root, "p")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, "f"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	to, err := Archive(root, "p", now)
	if err != nil {
		t.Fatal(err)
	}
	name, below := strings.CutPrefix(to, "user_data/packs/.uninstalled/p/")
	if _, err := os.Stat(filepath.Join(root, archiveName, "p", name, "f")); err != nil || !below {
		t.Errorf("kept in %s, %v; want it in p's archive", to, err)
	}
	return name
}

func TestArchivesNeverCollide(t *testing.T) {
	root := t.TempDir()
	now := time.Date(2027, 1, 2, 3, 4, 5, 6, time.UTC)
	for range 2 {
		archived(t, root, now)
	}
	if to, err := Archive(root, "p", now); err != nil || to != "" {
		t.Errorf("with nothing to archive: %q, %v; want no archive", to, err)
	}
	if err := os.Mkdir(filepath.Join(root, "p"), 0o755); err != nil {
		t.Fatal(err)
	}
	if to, err := Archive(root, "p", now); err != nil || to != "" {
		t.Errorf("an empty folder: %q, %v; want no archive", to, err)
	}
}

// The newest is what was put aside last, whatever the clock said then.
func TestOldArchivesArePruned(t *testing.T) {
	root := t.TempDir()
	now := time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC)
	if err := os.MkdirAll(filepath.Join(root, archiveName, "p", "20290102T030405.000000000Z"), 0o755); err != nil { // an earlier version's
		t.Fatal(err)
	}
	archived(t, root, now.AddDate(2, 0, 0)) // by a clock that was ahead
	second, third := archived(t, root, now), archived(t, root, now.AddDate(-1, 0, 0))
	if pruned, err := Prune(root, "p", 2); err != nil || len(pruned) != 2 {
		t.Errorf("pruned %v, %v, want two", pruned, err)
	}
	kept, err := list(root, "p")
	if err != nil || len(kept) != 2 || kept[0].name != second || kept[1].name != third {
		t.Errorf("kept %v, %v, want %s and %s", kept, err, second, third)
	}
}
