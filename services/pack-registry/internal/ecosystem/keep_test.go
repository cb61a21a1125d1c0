package ecosystem

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/diskusage"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/pack/packtest"
	"github.com/rumi-ai/rumi/libs/testenv"
	"github.com/rumi-ai/rumi/libs/tree"
)

// The backups that were made last are kept and listed first, whatever the clock said when they were made.
func TestBackupsAreOrderedByTheirMaking(t *testing.T) {
	for name, shift := range map[string]time.Duration{"an hour ahead": time.Hour, "a year ahead": 365 * 24 * time.Hour, "an hour back": -time.Hour, "a year back": -365 * 24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			h := newHome(t, t.TempDir())
			h.eco.keep = 3
			h.write(t, "ecosystem/p/ecosystem.json", versioned("p", "i", "1"))
			for version := 2; version <= 4; version++ {
				h.update(t, version)
			}
			for _, name := range strings.Fields(h.names(t, "user_data/pack_backups/p")) { // as if the clock had been wrong until now
				made, ok := parseBackupName(name)
				if !ok {
					t.Fatalf("%s is no backup; want ok", name)
				}
				other := strings.Replace(name, made.created.Format(timeFormat), made.created.Add(shift).Format(timeFormat), 1)
				check(t, os.Rename(h.path("user_data/pack_backups/p/"+name), h.path("user_data/pack_backups/p/"+other)))
			}
			for version := 5; version <= 7; version++ {
				h.update(t, version)
				var want []string
				for kept := version - 1; kept > version-4; kept-- {
					want = append(want, fmt.Sprint("apply ", kept))
				}
				if got := h.reasons(t); !slices.Equal(got, want) {
					t.Fatalf("backups are %v, want %v", got, want)
				}
			}
		})
	}
}

// Backups of earlier versions of Rumi, which have no number, are older than those that have one, and can be rolled back.
func TestBackupsWithoutANumber(t *testing.T) {
	h := newHome(t, t.TempDir())
	h.eco.keep = 2
	h.write(t, "ecosystem/p/ecosystem.json", versioned("p", "i", "3"))
	const first, second = "20990101T000000.000000000Z-00000000-apply", "20990102T000000.000000000Z-00000000-apply"
	h.write(t, "user_data/pack_backups/p/"+first+"/ecosystem.json", versioned("p", "i", "1"))
	h.write(t, "user_data/pack_backups/p/"+second+"/ecosystem.json", versioned("p", "i", "2"))
	h.update(t, 4)
	if got, want := h.reasons(t), []string{"apply 3", "apply 2"}; !slices.Equal(got, want) {
		t.Errorf("backups are %v, want %v", got, want)
	}
	_, err := h.eco.Rollback(t.Context(), "p", second)
	check(t, err)
	if got := h.version(t, "p"); got != "2" {
		t.Errorf("p has version %s, want 2", got)
	}
}

// A rollback to bytes that were approved has the digest that was approved: modes are part of it.
func TestARollbackHasTheDigestOfItsBackup(t *testing.T) {
	h := newHome(t, testenv.TempDir(t))
	h.write(t, "ecosystem/p/ecosystem.json", versioned("p", "i", "1"))
	for name, mode := range map[string]os.FileMode{"a": 0o644, "b": 0o600, "c": 0o755, "d": 0o444, "deep/e": 0o777, "deep/closed/f": 0o640} {
		h.write(t, "ecosystem/p/"+name, name)
		check(t, os.Chmod(h.path("ecosystem/p/"+name), mode))
	}
	check(t, os.Chmod(h.path("ecosystem/p/deep/closed"), 0o555))
	check(t, os.Chmod(h.path("ecosystem/p/deep"), 0o700))
	check(t, os.Chmod(h.path("ecosystem/p"), 0o755|os.ModeSetgid))
	before := h.digest(t, "p")
	removed, err := h.eco.Remove(t.Context(), "p")
	check(t, err)
	if got := h.names(t, "ecosystem"); got != "" {
		t.Errorf("ecosystem holds %s; want nothing", got)
	}
	for range 2 {
		_, err = h.eco.Rollback(t.Context(), "p", filepath.Base(removed.Backup))
		check(t, err)
		if got := h.digest(t, "p"); got != before {
			t.Errorf("the digest is %s, want %s", got, before)
		}
	}
	if info, err := os.Stat(h.path(removed.Backup)); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the backup has mode %v, %v; want 0755", info.Mode(), err)
	}
}

func (h *home) digest(t *testing.T, id string) string {
	t.Helper()
	root, err := os.OpenRoot(h.path("ecosystem/" + id))
	check(t, err)
	defer root.Close()
	m, err := tree.Scan(t.Context(), root, nil)
	check(t, err)
	return m.Digest()
}

func TestRemoveBackup(t *testing.T) {
	h := newHome(t, t.TempDir())
	h.write(t, "ecosystem/p/ecosystem.json", versioned("p", "i", "1"))
	h.update(t, 2)
	h.update(t, 3)
	_, err := h.eco.Remove(t.Context(), "p") // its backups can be removed all the same
	check(t, err)
	h.write(t, "user_data/pack_backups/p/mine/file", "")
	all, err := h.eco.Backups(t.Context(), "p")
	check(t, err)
	for _, none := range []string{"mine", "", "..", "../p/" + all[0].Name, all[0].Name + "\n", strings.Replace(all[0].Name, "Z-", "Z-0", 1), "20260101T000000.000000000Z-00000000-apply-000001"} {
		if err := h.eco.RemoveBackup(t.Context(), "p", none); !fault.Is(err, fault.KindNotFound) {
			t.Errorf("%q: %v, want not found", none, err)
		}
	}
	for i, b := range all {
		check(t, h.eco.RemoveBackup(t.Context(), "p", b.Name))
		if err := h.eco.RemoveBackup(t.Context(), "p", b.Name); !fault.Is(err, fault.KindNotFound) {
			t.Errorf("again: %v, want not found", err)
		}
		if got := h.audited(t, "pack_backup_removed", b.Name); got != 1 {
			t.Errorf("audited %d times, want once", got)
		}
		if got := len(h.reasons(t)); got != len(all)-1-i {
			t.Errorf("%d backups are left, want %d", got, len(all)-1-i)
		}
	}
	if got := h.files(t, "user_data/pack_backups/p"); !slices.Equal(got, []string{"mine/file="}) {
		t.Errorf("left are %v, want mine", got)
	}
}

// Whatever stands in the place of the folder of backups, or of a pack's, the service works, and who needs a backup is told.
func TestBackupFolderIsNoFolder(t *testing.T) {
	for _, name := range packtest.Names() {
		if packtest.NeedsRights(name) || name == "link" || name == "link inside" { // root may, and backups on another disk are a link
			continue
		}
		for _, dir := range []string{"user_data/pack_backups", "user_data/pack_backups/p"} {
			t.Run(name+" at "+dir, func(t *testing.T) {
				root := t.TempDir()
				check(t, os.MkdirAll(filepath.Dir(filepath.Join(root, dir)), 0o755))
				packtest.Obstacles[name](t, filepath.Join(root, dir))
				h := newHome(t, root)
				h.eco.Recover(t.Context())
				h.write(t, "ecosystem/p/ecosystem.json", versioned("p", "i", "1"))
				h.write(t, "user_data/import/new/ecosystem.json", versioned("new", "i", "1"))
				_, err := h.eco.Apply(t.Context(), h.stage(t, "new")) // needs no backup
				check(t, err)
				h.write(t, "user_data/import/p/ecosystem.json", versioned("p", "i", "2"))
				id := h.stage(t, "p")
				for what, do := range map[string]func() error{
					"apply":   func() error { _, err := h.eco.Apply(t.Context(), id); return err },
					"remove":  func() error { _, err := h.eco.Remove(t.Context(), "p"); return err },
					"backups": func() error { _, err := h.eco.Backups(t.Context(), "p"); return err },
				} {
					if f := fault.Of(do()); f.Kind != fault.KindConflict || !strings.Contains(f.Message, dir) {
						t.Errorf("%s: %v, want a conflict that names %s", what, f, dir)
					}
				}
				if got := h.version(t, "p"); got != "1" {
					t.Errorf("p has version %s, want 1", got)
				}
				if items := h.eco.Usage(t.Context()); !slices.ContainsFunc(items, func(i diskusage.Item) bool { return i.Path == dir }) {
					t.Errorf("what takes room doesn't name %s: %+v", dir, items)
				}
				if dir != "user_data/pack_backups/p" {
					return
				}
				_, err = h.eco.Remove(t.Context(), "new")
				check(t, err)
			})
		}
	}
}

// A folder of backups that is removed or replaced while the service runs is used as it is now.
func TestBackupsThatAreReplaced(t *testing.T) {
	h := newHome(t, t.TempDir())
	h.write(t, "ecosystem/p/ecosystem.json", versioned("p", "i", "1"))
	h.update(t, 2)
	check(t, os.RemoveAll(h.path("user_data/pack_backups")))
	h.update(t, 3)
	if got := h.reasons(t); !slices.Equal(got, []string{"apply 2"}) {
		t.Errorf("backups are %v, want that of version 2", got)
	}
}

// Packs that were copied so that they can't be read, replaced or removed later are told of by a scan, with the command: what keeps them
// from being approved as errors that name the file.
func TestScanReportsMissingRights(t *testing.T) {
	dir := t.TempDir()
	for _, readable := range []string{dir, filepath.Dir(dir)} {
		check(t, os.Chmod(readable, 0o755))
	}
	h := newHome(t, dir)
	for _, id := range []string{"fine", "copied", "deep", "closed", "secret", "names"} {
		h.write(t, "ecosystem/"+id+"/ecosystem.json", fmt.Sprintf(`{"pack_id": %q, "pack_identity": "i", "entrypoint": "backend/main.py"}`, id))
		h.write(t, "ecosystem/"+id+"/backend/main.py", "")
	}
	open := func(mode os.FileMode, names ...string) {
		for _, name := range names {
			check(t, os.Chmod(h.path("ecosystem/"+name), mode))
		}
	}
	open(0o777, "", "fine", "fine/backend", "deep", "closed", "secret", "secret/backend", "names")
	open(0o700, "closed/backend")
	open(0o600, "secret/backend/main.py")
	if os.Getuid() != 0 {
		t.Skip("what a folder's owner made it can change; only root can look as somebody else")
	}
	for _, folder := range []string{"copied", "copied/backend", "deep/backend"} { // the operator's
		check(t, os.Chown(h.path("ecosystem/"+folder), 4242, 0))
	}
	open(0o744, "names/backend")
	check(t, os.Chown(h.path("ecosystem/secret"), 0, os.Getegid())) // the folder's group is no sign of its files'
	check(t, os.Chown(h.path("ecosystem/secret/backend/main.py"), 0, 4242))
	var found ScanResult
	packtest.AsNobody(t, func() { found = h.eco.Scan() })
	warnings := found.Warnings
	broken := map[string]string{
		"closed": "it can't be approved: ecosystem/closed/backend can't be read: ecosystem/closed belongs to somebody else (permission denied). Run in the Rumi home: ",
		"secret": "it can't be approved: ecosystem/secret/backend/main.py can't be read: ecosystem/secret belongs to somebody else (permission denied). Run in the Rumi home: sudo chgrp -R ",
		"names":  "it can't be approved: ecosystem/names/backend can't be read: ecosystem/names belongs to somebody else (permission denied). Run in the Rumi home: ",
	}
	if len(found.Broken) != len(broken) {
		t.Errorf("errors are %+v, want those of %d packs", found.Broken, len(broken))
	}
	for _, one := range found.Broken {
		if want := broken[one.PackID]; want == "" || !strings.HasPrefix(one.Error, want) || !strings.Contains(one.Error, "chmod -R g+rwX ecosystem/"+one.PackID) {
			t.Errorf("%s: got %q, want %q and the command", one.PackID, one.Error, want)
		}
	}
	want := []string{
		"copied: ecosystem/copied can't be changed by Rumi (2 of its folders), so uninstall and apply leave its old files behind",
		"deep: ecosystem/deep/backend can't be changed by Rumi (1 of its folders)",
	}
	if len(warnings) != len(want) {
		t.Errorf("warnings are %q; want %d", warnings, len(want))
	}
	for i, warning := range warnings[:min(len(warnings), len(want))] {
		id, _, _ := strings.Cut(want[i], ":")
		if !strings.HasPrefix(warning, want[i]) || !strings.Contains(warning, "chmod -R g+rwX ecosystem/"+id) {
			t.Errorf("got %q, want %q and the command", warning, want[i])
		}
	}
}

// What a pack has left and can't be removed is told of with one command, as long as it is there.
func TestLeftoversAreReportedUntilRemoved(t *testing.T) {
	h := newHome(t, t.TempDir())
	h.write(t, "ecosystem/p/ecosystem.json", versioned("p", "i", "1"))
	h.write(t, "ecosystem/q/ecosystem.json", versioned("q", "i", "1"))
	for _, id := range []string{"p", "q"} {
		h.write(t, "ecosystem/"+id+"/kept/file", "")
		immutable(t, h.path("ecosystem/"+id+"/kept"))
		removed, err := h.eco.Remove(t.Context(), pack.ID(id))
		check(t, err)
		if len(removed.Warnings) != 1 || !strings.Contains(removed.Warnings[0], "rm -rf -- ecosystem/.rumi-old-") || !strings.Contains(removed.Warnings[0], "(with sudo if that is refused)") {
			t.Errorf("the warnings are %q, want one that says what to remove", removed.Warnings)
		}
	}
	warnings := h.eco.RemoveLeftovers(t.Context())
	if len(warnings) != 1 || strings.Count(warnings[0], "rm -rf -- ecosystem/.rumi-old-") != 2 {
		t.Errorf("a scan warns %q, want one warning about both", warnings)
	}
	if items := h.eco.Usage(t.Context()); len(items) != 4 || items[0].Kind != "leftover" || items[0].PackID == "" || !strings.HasPrefix(items[0].Remove, "rm -rf -- ecosystem/.rumi-old-") {
		t.Errorf("what takes room is %+v, want two leftovers and two backups", items)
	}
	check(t, exec.Command("chattr", "-R", "-i", h.path("ecosystem")).Run())
	if warnings := h.eco.RemoveLeftovers(t.Context()); len(warnings) != 0 || h.names(t, "ecosystem") != "" {
		t.Errorf("once they can be removed: %q, ecosystem holds %s; want no warnings and nothing", warnings, h.names(t, "ecosystem"))
	}
}

// A pack without an identity that was never approved may be replaced by one that has it; nothing else without one.
func TestApplyOverAPackWithoutIdentity(t *testing.T) {
	for name, c := range map[string]struct {
		installed, staged string
		approved, unasked bool
		allowed           bool
	}{
		"the corrected one":             {"", "i", false, false, true},
		"it was approved once":          {"", "i", true, false, false},
		"nobody can say":                {"", "i", false, true, false},
		"the new one has none either":   {"", "", false, false, false},
		"the installed one has another": {"j", "i", false, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHome(t, t.TempDir())
			h.write(t, "ecosystem/p/ecosystem.json", versioned("p", c.installed, "1"))
			h.write(t, "user_data/import/p/ecosystem.json", versioned("p", c.staged, "2"))
			if c.approved {
				h.approved = []string{"p"}
			}
			if c.unasked {
				h.unasked = os.ErrDeadlineExceeded
			}
			_, err := h.eco.Apply(t.Context(), h.stage(t, "p"))
			if (err == nil) != c.allowed {
				t.Errorf("got %v, want it allowed: %v", err, c.allowed)
			}
			if want := map[bool]string{true: "2", false: "1"}[c.allowed]; h.version(t, "p") != want {
				t.Errorf("p has version %s, want %s", h.version(t, "p"), want)
			}
		})
	}
}

// In a home full of odd entries everything that is in order can be listed, installed, replaced, rolled back and removed.
func TestAnOddHome(t *testing.T) {
	for _, name := range packtest.Names() {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			h := newHome(t, dir)
			odd := packtest.Fill(t, h.path("ecosystem"))
			packtest.Obstacles[name](t, h.path("ecosystem/packs"))
			h.write(t, "ecosystem/other/ecosystem.json", versioned("other", "i", "1"))
			h = newHome(t, dir)
			h.eco.Recover(t.Context())
			h.eco.RemoveLeftovers(t.Context())
			found := h.eco.Scan()
			if !slices.Contains(found.PackIDs, "other") {
				t.Errorf("a scan finds %v; want other among them", found.PackIDs)
			}
			for _, id := range odd.Broken {
				if os.Getuid() == 0 && (id == "odd_closed" || id == "odd_foreign") {
					continue // root reads them
				}
				if !slices.ContainsFunc(found.Broken, func(r Refusal) bool { return r.PackID == id && r.Error != "" }) {
					t.Errorf("%s is no error of the scan: %v", id, found.Broken)
				}
			}
			if name == "dead mount" && !slices.ContainsFunc(found.Broken, func(r Refusal) bool {
				return r.PackID == "packs" && strings.Contains(r.Error, "sudo umount --lazy ecosystem/packs")
			}) {
				t.Errorf("the dead mount at packs is no error of the scan: %v", found.Broken)
			}
			for _, entry := range odd.Ignored {
				if !slices.ContainsFunc(found.Warnings, func(w string) bool { return strings.HasPrefix(w, "ecosystem/"+entry+" ") }) {
					t.Errorf("%s is not warned of: %q", entry, found.Warnings)
				}
			}
			if _, err := h.eco.Select(t.Context(), []string{"ecosystem.json"}); err != nil {
				t.Errorf("select: %v", err)
			}
			h.othersWork(t)
			removed, err := h.eco.Remove(t.Context(), "other")
			check(t, err)
			if removed.Backup == "" || h.eco.Has("other") {
				t.Errorf("removed %+v, it is there: %v; want a backup, and it gone", removed, h.eco.Has("other"))
			}
			if h.eco.Has("missing") {
				t.Error("a pack that isn't there is")
			}
			h.eco.Usage(t.Context())
		})
	}
}

// One entry in a pack that can't be looked into is an error of its own among the files that others ask for.
func TestSelectAroundWhatCannotBeRead(t *testing.T) {
	if !packtest.CanMount() {
		t.Skip("only root can mount")
	}
	h := newHome(t, t.TempDir())
	h.write(t, "ecosystem/p/ecosystem.json", versioned("p", "i", "1"))
	h.write(t, "ecosystem/p/share/good/handler.json", "{}")
	packtest.DeadMount(t, h.path("ecosystem/p/share/dead"))
	all, err := h.eco.Select(t.Context(), []string{"share/*/handler.json"})
	check(t, err)
	if len(all) != 1 || all[0].Error != "" || len(all[0].Files) != 2 {
		t.Fatalf("selected %+v, want one pack with two files", all)
	}
	if dead, good := all[0].Files[0], all[0].Files[1]; dead.Path != "share/dead" && dead.Path != "share/dead/handler.json" || dead.Error == "" || good.Error != "" || string(good.Content) != "{}" {
		t.Errorf("selected %+v, want an error of the first file and the content of the second", all[0].Files)
	}
	removed, err := h.eco.Remove(t.Context(), "p") // with a warning about what can't be removed
	check(t, err)
	if len(removed.Warnings) != 1 || !strings.Contains(removed.Warnings[0], "nmount") {
		t.Errorf("warnings are %q; want one of an unmount", removed.Warnings)
	}
}

// Whatever stands in the lock's place, the service starts and says why nothing can be changed; a lock that is removed while the
// A lock that is free is had without waiting for it: a scan, which waits for nobody, must not take its own short wait for another
// change.
func TestAFreeLockNeedsNoWait(t *testing.T) {
	h := newHome(t, t.TempDir())
	for range 100 {
		release, err := h.eco.acquire(t.Context(), 0)
		if err != nil {
			t.Fatalf("acquire of a free lock: got %v, want the lock", err)
		}
		release()
	}
}

// service runs is made anew.
func TestLockFileIsNoFile(t *testing.T) {
	dir := t.TempDir()
	check(t, os.MkdirAll(filepath.Join(dir, "user_data/pack_staging/.lock"), 0o755))
	h := newHome(t, dir)
	h.eco.Recover(t.Context())
	h.write(t, "ecosystem/p/ecosystem.json", versioned("p", "i", "1"))
	if _, err := h.eco.Remove(t.Context(), "p"); !fault.Is(err, fault.KindConflict) || !strings.Contains(err.Error(), "user_data/pack_staging/.lock") {
		t.Errorf("got %v, want a conflict that names the lock", err)
	}
	check(t, os.Remove(h.path("user_data/pack_staging/.lock")))
	h.update(t, 2)
	check(t, os.Remove(h.path("user_data/pack_staging/.lock")))
	h.update(t, 3)
	other := newHome(t, dir) // another process excludes this one
	release, _, err := other.eco.lockAndRecover(t.Context(), lockWait)
	check(t, err)
	defer release()
	if _, err := h.eco.acquire(t.Context(), 50*time.Millisecond); !fault.Is(err, fault.KindUnavailable) {
		t.Errorf("both have the lock: %v; want unavailable", err)
	}
}
