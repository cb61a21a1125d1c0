package ecosystem

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// update stages and applies a version of p.
func (h *home) update(t *testing.T, version int) {
	t.Helper()
	h.write(t, "user_data/import/p/ecosystem.json", versioned("p", "i", fmt.Sprint(version)))
	_, err := h.eco.Apply(t.Context(), h.stage(t, "p"))
	check(t, err)
}

func TestOldBackupsAreRemoved(t *testing.T) {
	for keep, want := range map[int][]string{
		0: {"apply 5", "apply 4", "apply 3", "apply 2", "apply 1"},
		1: {"apply 5"},
		3: {"apply 5", "apply 4", "apply 3"},
		9: {"apply 5", "apply 4", "apply 3", "apply 2", "apply 1"},
	} {
		t.Run(fmt.Sprint(keep), func(t *testing.T) {
			h := newHome(t, t.TempDir())
			h.eco.keep = keep
			h.write(t, "ecosystem/p/ecosystem.json", versioned("p", "i", "1"))
			h.write(t, "user_data/pack_backups/p/mine/file", "what is no backup stays")
			for version := 2; version <= 6; version++ {
				h.update(t, version)
			}
			if got := h.reasons(t); !reflect.DeepEqual(got, want) {
				t.Errorf("backups are %v, want %v", got, want)
			}
			if got := len(strings.Fields(h.names(t, "user_data/pack_backups/p"))); got != len(want)+1 {
				t.Errorf("left over: %s; want %d", h.names(t, "user_data/pack_backups/p"), len(want)+1)
			}
			logs, err := filepath.Glob(h.path("user_data/audit/system_*.jsonl"))
			check(t, err)
			text, err := os.ReadFile(logs[0])
			check(t, err)
			if got := strings.Count(string(text), `"pack_backups_pruned"`); got != 5-len(want) {
				t.Errorf("audited %d times, want %d", got, 5-len(want))
			}
		})
	}
}

// What was just made stays, and so does what was just put back: who rolls back may want to go either way.
func TestABackupInUseIsNotRemoved(t *testing.T) {
	h := newHome(t, t.TempDir())
	h.write(t, "ecosystem/p/ecosystem.json", versioned("p", "i", "1"))
	h.update(t, 2)
	h.update(t, 3)
	h.eco.keep = 1
	all, err := h.eco.Backups(t.Context(), "p")
	check(t, err)
	_, err = h.eco.Rollback(t.Context(), "p", all[1].Name)
	check(t, err)
	if got, want := h.reasons(t), []string{"rollback 3", "apply 1"}; !reflect.DeepEqual(got, want) {
		t.Errorf("backups are %v, want %v", got, want)
	}
	removed, err := h.eco.Remove(t.Context(), "p")
	check(t, err)
	if got, want := h.reasons(t), []string{"uninstall 1"}; !reflect.DeepEqual(got, want) {
		t.Errorf("backups are %v, want %v", got, want)
	}
	_, err = h.eco.Rollback(t.Context(), "p", path.Base(removed.Backup))
	check(t, err)
}

// A process that is killed while it removes an old backup leaves whole ones only, and a restart removes the rest.
func TestCrashWhilePruning(t *testing.T) {
	for step := 0; ; step++ {
		h := newHome(t, t.TempDir())
		h.write(t, "ecosystem/p/ecosystem.json", versioned("p", "i", "1"))
		h.update(t, 2)
		h.write(t, "user_data/import/p/ecosystem.json", versioned("p", "i", "3"))
		killed := run(t, h, "prune "+h.stage(t, "p"), step)
		h = newHome(t, h.dir)
		h.eco.Recover(t.Context())
		names := h.names(t, "user_data/pack_backups/p")
		if strings.Contains(names, removingPrefix) || strings.Contains(names, makingPrefix) {
			t.Fatalf("step %d: backups hold %s; want nothing half removed or half made", step, names)
		}
		all, err := h.eco.Backups(t.Context(), "p")
		check(t, err)
		if len(all) == 0 || len(all) > 2 {
			t.Fatalf("step %d: %d backups; want 1 or 2", step, len(all))
		}
		for _, b := range all {
			if b.Error != "" {
				t.Fatalf("step %d: a backup is no pack: %+v; want no error", step, b)
			}
		}
		if !killed {
			if len(all) != 1 || all[0].Version != "2" {
				t.Fatalf("the backups are %+v; want 1, version 2", all)
			}
			return
		}
	}
}

// What could not be removed is removed the next time.
func TestAHalfRemovedBackupIsRemovedLater(t *testing.T) {
	h := newHome(t, t.TempDir())
	h.eco.keep = 3
	h.write(t, "ecosystem/p/ecosystem.json", versioned("p", "i", "1"))
	h.write(t, "user_data/pack_backups/p/"+removingPrefix+"old/file", "")
	h.update(t, 2)
	if got := h.names(t, "user_data/pack_backups/p"); strings.Contains(got, removingPrefix) {
		t.Errorf("left over: %s; want not strings.Contains(got, removingPrefix)", got)
	}
}
