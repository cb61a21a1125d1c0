package ecosystem

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack/packtest"
	libstore "github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/journal"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/store"
)

// several stages an archive with the packs a and z, both at version 2. z is installed at version 1, and so is other.
func several(t *testing.T) (h *home, stagingID string) {
	t.Helper()
	h = newHome(t, t.TempDir())
	for _, id := range []string{"z", "other"} {
		h.write(t, "ecosystem/"+id+"/ecosystem.json", versioned(id, "i", "1"))
	}
	for _, id := range []string{"a", "z"} {
		h.write(t, "user_data/import/m/packs/"+id+"/ecosystem.json", versioned(id, "i", "2"))
	}
	return h, h.stage(t, "m")
}

// nothingApplied makes sure that a failed apply of several is as if it had never been, now and after whatever follows.
func (h *home) nothingApplied(t *testing.T, stagingID string) {
	t.Helper()
	h.eco.RemoveLeftovers(t.Context())
	if got := h.names(t, "ecosystem"); got != "other z" {
		t.Errorf("ecosystem holds %s, want other z", got)
	}
	if got := h.version(t, "z"); got != "1" {
		t.Errorf("z has version %s, want 1", got)
	}
	if got := h.names(t, "user_data/pack_backups/z"); got != "" {
		t.Errorf("the backups of z are %s, want none", got)
	}
	if all, err := h.store.Operations(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("the journal has %+v, %v, want nothing", all, err)
	}
	if _, payload, err := h.stages.FindPayload(t.Context(), stagingID); err != nil {
		t.Errorf("the staging is used up: %v", err)
	} else {
		payload.Close()
	}
	if h.audited(t, "pack_apply_completed", stagingID) != 0 {
		t.Error("the audit log says that it was applied")
	}
}

// othersWork makes sure that every operation on another pack can be done.
func (h *home) othersWork(t *testing.T) {
	t.Helper()
	for _, version := range []string{"2", "3"} {
		h.write(t, "user_data/import/other/ecosystem.json", versioned("other", "i", version))
		_, err := h.eco.Apply(t.Context(), h.stage(t, "other"))
		check(t, err)
	}
	all, err := h.eco.Backups(t.Context(), "other")
	check(t, err)
	_, err = h.eco.Rollback(t.Context(), "other", all[len(all)-1].Name)
	check(t, err)
	if got := h.version(t, "other"); got != "1" {
		t.Errorf("other has version %s after a rollback, want 1", got)
	}
	check(t, h.eco.Discard(t.Context(), h.stage(t, "other")))
}

func (h *home) version(t *testing.T, id string) string {
	t.Helper()
	d, err := describe(h.eco.root, id)
	check(t, err)
	return d.Version
}

// audited counts the entries of an action that hold a text.
func (h *home) audited(t *testing.T, action, text string) (n int) {
	t.Helper()
	logs, err := filepath.Glob(h.path("user_data/audit/*.jsonl"))
	check(t, err)
	for _, log := range logs {
		data, err := os.ReadFile(log)
		check(t, err)
		for line := range bytes.Lines(data) {
			if strings.Contains(string(line), `"action":"`+action+`"`) && strings.Contains(string(line), text) {
				n++
			}
		}
	}
	return n
}

// obstacle keeps the folder of a pack from being renamed until it is removed.
type obstacle struct {
	put  func(t *testing.T, path string) (remove func())
	text string // of the refusal
}

var unmovable = map[string]obstacle{
	"mount point": {func(t *testing.T, path string) func() { return packtest.MountPoint(t, path) }, "ecosystem/z is a mount point"},
	"immutable":   {immutable, "sudo chattr -ia ecosystem/z"},
}

func immutable(t *testing.T, path string) (remove func()) {
	t.Helper()
	set := func(flag string) error { return exec.Command("chattr", flag, path).Run() }
	if os.Getuid() != 0 || set("+i") != nil {
		t.Skip("only root can set attributes, and only on some file systems")
	}
	remove = func() { _ = set("-i") }
	t.Cleanup(remove)
	return remove
}

// A pack whose folder can't be renamed is refused before anything happened, with the command that mends it; everything else goes on.
func TestAPackThatCannotBeReplacedIsRefused(t *testing.T) {
	for name, o := range unmovable {
		t.Run(name, func(t *testing.T) {
			h, id := several(t)
			remove := o.put(t, h.path("ecosystem/z"))
			_, err := h.eco.Apply(t.Context(), id)
			if f := fault.Of(err); f.Kind != fault.KindConflict || !strings.Contains(f.Message, o.text) || strings.Contains(f.Message, "chgrp") {
				t.Errorf("got %v, want a conflict with %q", err, o.text)
			}
			h.nothingApplied(t, id)
			if _, err := h.eco.Remove(t.Context(), "z"); !fault.Is(err, fault.KindConflict) || !strings.Contains(fault.Of(err).Message, o.text) {
				t.Errorf("removing it: %v, want a conflict with %q", err, o.text)
			}
			h.nothingApplied(t, id) // and no backup for each try
			h.othersWork(t)
			h = newHome(t, h.dir) // services start
			h.eco.Recover(t.Context())
			remove()
			check(t, os.RemoveAll(h.path("ecosystem/other")))
			h.write(t, "ecosystem/other/ecosystem.json", versioned("other", "i", "1"))
			h.nothingApplied(t, id) // what was answered as failed isn't done now
			_, err = h.eco.Apply(t.Context(), id)
			check(t, err)
			if got := h.version(t, "z"); got != "2" {
				t.Errorf("z has version %s, want 2", got)
			}
		})
	}
}

// The same where it turns out when the renames are made: those that were made are taken back.
func TestARenameThatFailsTakesAllBack(t *testing.T) {
	for name, o := range unmovable {
		t.Run(name, func(t *testing.T) {
			h, id := several(t)
			remove := func() {}
			h.eco.step = func(step string) {
				if step == "placed" { // a, not z
					h.eco.step = func(string) {}
					remove = o.put(t, h.path("ecosystem/z"))
				}
			}
			_, err := h.eco.Apply(t.Context(), id)
			if f := fault.Of(err); f.Kind != fault.KindConflict || !strings.Contains(f.Message, o.text) {
				t.Errorf("got %v, want a conflict with %q", err, o.text)
			}
			h.nothingApplied(t, id)
			h.othersWork(t)
			remove()
			check(t, os.RemoveAll(h.path("ecosystem/other")))
			h.write(t, "ecosystem/other/ecosystem.json", versioned("other", "i", "1"))
			h.nothingApplied(t, id)
		})
	}
}

// What a process that was killed had committed and can't be finished is undone by the next one, which starts.
func TestRecoverUndoesWhatCannotBeFinished(t *testing.T) {
	for step := 0; ; step++ {
		h, id := several(t)
		if !run(t, h, "apply "+id, step) {
			if step < 9 {
				t.Errorf("only %d steps; want step >= 9", step)
			}
			return
		}
		unmount := packtest.MountPoint(t, h.path("ecosystem/z"))
		h = newHome(t, h.dir)
		h.eco.Recover(t.Context())
		if h.version(t, "z") == "1" {
			h.nothingApplied(t, id)
		} else if got := h.names(t, "ecosystem"); got != "a other z" {
			t.Fatalf("step %d: ecosystem holds %s; want \"a other z\"", step, got)
		}
		h.othersWork(t)
		unmount()
	}
}

// What can't even be taken back bars its own packs, and is taken back as soon as that is possible.
func TestWhatIsStuckBarsItsOwnPacks(t *testing.T) {
	h, id := several(t)
	h.write(t, "user_data/import/free/ecosystem.json", versioned("free", "i", "1"))
	remove := func() {}
	h.eco.step = func(step string) {
		if step == "placed" {
			h.eco.step = func(string) {}
			remove = immutable(t, h.path("ecosystem"))
		}
	}
	if _, err := h.eco.Apply(t.Context(), id); !fault.Is(err, fault.KindConflict) {
		t.Errorf("got %v, want a conflict", err)
	}
	release, blocked, err := h.eco.lockAndRecover(t.Context(), lockWait)
	check(t, err)
	release()
	if len(blocked) != 2 || !strings.Contains(blocked["a"], "chattr") || !fault.Is(blocked.check("z"), fault.KindConflict) || blocked.check("other") != nil {
		t.Errorf("barred are %v, want a and z with the command", blocked)
	}
	if warnings := h.eco.RemoveLeftovers(t.Context()); len(warnings) != 2 || !strings.Contains(warnings[0], "a: an installation of it was interrupted") {
		t.Errorf("scan warns %q; want 2, the first of an installation of a that was interrupted", warnings)
	}
	if _, err := h.eco.Remove(t.Context(), "z"); !fault.Is(err, fault.KindConflict) {
		t.Errorf("removing a barred pack: %v, want a conflict", err)
	}
	h = newHome(t, h.dir)
	h.eco.Recover(t.Context())
	remove()
	h.othersWork(t)
	check(t, os.RemoveAll(h.path("ecosystem/other")))
	h.write(t, "ecosystem/other/ecosystem.json", versioned("other", "i", "1"))
	h.nothingApplied(t, id)
}

// Whoever takes the prepared folder away doesn't make a done installation of it.
func TestAPreparedFolderThatIsGone(t *testing.T) {
	h, id := several(t)
	h.eco.step = func(step string) {
		if step == "committed" {
			h.eco.step = func(string) {}
			prepared, err := filepath.Glob(h.path("ecosystem/" + newPrefix + "*-z"))
			check(t, err)
			check(t, os.RemoveAll(prepared[0]))
		}
	}
	if _, err := h.eco.Apply(t.Context(), id); !fault.Is(err, fault.KindConflict) {
		t.Errorf("got %v, want a conflict", err)
	}
	h.nothingApplied(t, id)
}

// On a file system that can't swap two folders a process may be killed when one is aside. The next one puts it where it belongs.
func TestAFolderThatWasLeftAside(t *testing.T) {
	for _, state := range []string{"before the new one is in place", "when the new one is in place"} {
		for _, possible := range []bool{true, false} {
			h, id := several(t)
			for step := 0; ; step++ { // until everything is committed, and nothing in place
				if !run(t, h, "apply "+id, step) {
					t.Fatal("it was never committed")
				}
				operations, err := h.store.Operations(t.Context())
				check(t, err)
				if len(operations) == 1 && operations[0].State == journal.Committed {
					break
				}
				h.eco.Recover(t.Context())
			}
			operations, err := h.store.Operations(t.Context())
			check(t, err)
			op := operations[0]
			z := op.Packs[slices.IndexFunc(op.Packs, func(p journal.Pack) bool { return p.ID == "z" })]
			check(t, os.Rename(h.path("ecosystem/z"), h.path("ecosystem/"+aside(op, z))))
			if state == "when the new one is in place" {
				check(t, os.Rename(h.path("ecosystem/"+z.Prepared), h.path("ecosystem/z")))
			}
			if !possible {
				check(t, os.RemoveAll(h.path("ecosystem/"+op.Packs[0].Prepared))) // a's
			}
			h = newHome(t, h.dir)
			h.eco.Recover(t.Context())
			if !possible {
				h.nothingApplied(t, id)
				continue
			}
			if got := h.names(t, "ecosystem"); got != "a other z" || h.version(t, "z") != "2" {
				t.Errorf("%s: ecosystem holds %s, z has version %s; want \"a other z\", and 2", state, got, h.version(t, "z"))
			}
		}
	}
}

// What can't be audited is not done: an apply is taken back, and an old backup stays.
func TestWhatCannotBeAuditedIsNotDone(t *testing.T) {
	dir := t.TempDir()
	if !packtest.CanMount() {
		t.Skip("only root can mount")
	}
	check(t, os.MkdirAll(filepath.Join(dir, "user_data/audit"), 0o755))
	check(t, unix.Mount("full", filepath.Join(dir, "user_data/audit"), "tmpfs", 0, "size=64k"))
	t.Cleanup(func() { _ = unix.Unmount(filepath.Join(dir, "user_data/audit"), unix.MNT_DETACH) })
	h := newHome(t, dir)
	h.write(t, "ecosystem/p/ecosystem.json", versioned("p", "i", "1"))
	h.update(t, 2)
	h.update(t, 3)
	h.write(t, "user_data/import/p/ecosystem.json", versioned("p", "i", "4"))
	id := h.stage(t, "p")
	h.eco.keep = 1
	full := filepath.Join(dir, "user_data/audit/full")
	f, err := os.Create(full)
	check(t, err)
	for _, size := range []int{4096, 1} {
		for err == nil {
			_, err = f.Write(make([]byte, size))
		}
		err = nil
	}
	check(t, f.Close())
	for err == nil { // what is left of the log's last page
		err = h.eco.audit.Write(t.Context(), audit.Entry{Category: audit.System, Action: "x"})
	}
	if _, err := h.eco.Apply(t.Context(), id); !fault.Is(err, fault.KindUnavailable) || fault.Of(err).Code != "no_space" {
		t.Errorf("an apply that can't be audited: %v, want 503 no_space", err)
	}
	if got := h.version(t, "p"); got != "3" {
		t.Errorf("p has version %s, want 3", got)
	}
	if got, want := h.reasons(t), []string{"apply 2", "apply 1"}; !slices.Equal(got, want) {
		t.Errorf("backups are %v, want %v", got, want)
	}
	h.eco.prune(t.Context(), "p")
	if got, want := h.reasons(t), []string{"apply 2", "apply 1"}; !slices.Equal(got, want) {
		t.Errorf("after pruning backups are %v, want %v", got, want)
	}
	check(t, os.Remove(full))
	h.eco.prune(t.Context(), "p")
	if got, want := h.reasons(t), []string{"apply 2"}; !slices.Equal(got, want) {
		t.Errorf("when it can be audited backups are %v, want %v", got, want)
	}
}

// An entry of the journal that can't be read hinders nothing else, and what it may be about stays.
func TestAJournalEntryThatCannotBeRead(t *testing.T) {
	h, _ := several(t)
	db, err := libstore.Open(t.Context(), libstore.Config{Dir: h.path("user_data/state"), Service: "pack-registry"}, store.Migrations())
	check(t, err)
	check(t, db.Tx(t.Context(), func(tx *libstore.Tx) error {
		_, err := tx.Exec(`INSERT INTO apply_operation (operation_id, staging_id, started_at, committed, packs) VALUES (?, '', 0, 1, '{')`, "00000000000000aa")
		return err
	}))
	check(t, db.Close())
	h.write(t, "ecosystem/"+newPrefix+"00000000000000aa-x/file", "")
	h.eco.Recover(t.Context())
	h.othersWork(t)
	if got := h.names(t, "ecosystem"); !strings.Contains(got, "00000000000000aa-x") {
		t.Errorf("ecosystem holds %s: what the entry is about is gone; want strings.Contains(got, \"00000000000000aa-x\")", got)
	}
}

// A staging whose record can't be read is listed with that, hides no other, and can be discarded.
func TestAStagingThatCannotBeRead(t *testing.T) {
	h, id := several(t)
	db, err := libstore.Open(t.Context(), libstore.Config{Dir: h.path("user_data/state"), Service: "pack-registry"}, store.Migrations())
	check(t, err)
	check(t, db.Tx(t.Context(), func(tx *libstore.Tx) error {
		_, err := tx.Exec(`UPDATE staging SET packs = '{' WHERE staging_id = ?`, id)
		return err
	}))
	check(t, db.Close())
	h.write(t, "user_data/import/other/ecosystem.json", versioned("other", "i", "2"))
	readable := h.stage(t, "other")
	all, err := h.stages.List(t.Context())
	check(t, err)
	if len(all) != 2 || (all[0].Err == nil) == (all[1].Err == nil) {
		t.Fatalf("listed are %+v, want two, one of them with an error", all)
	}
	check(t, h.eco.Discard(t.Context(), id))
	if all, err = h.stages.List(t.Context()); err != nil || len(all) != 1 || all[0].ID != readable {
		t.Errorf("listed are %+v, %v, want %s", all, err, readable)
	}
}
