package ecosystem

import (
	"errors"
	"os"
	"path"
	"reflect"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
)

func versioned(id, identity, version string) string {
	return `{"pack_id": "` + id + `", "pack_identity": "` + identity + `", "version": "` + version + `"}`
}

// reasons lists the backups of p, the newest first, as "reason version".
func (h *home) reasons(t *testing.T) (reasons []string) {
	t.Helper()
	all, err := h.eco.Backups(t.Context(), "p")
	check(t, err)
	for _, b := range all {
		reasons = append(reasons, b.Reason+" "+b.Version)
	}
	return reasons
}

func TestRollback(t *testing.T) {
	h := newHome(t, t.TempDir())
	h.write(t, "ecosystem/p/ecosystem.json", versioned("p", "i", "1"))
	h.write(t, "ecosystem/p/run.sh", "1")
	check(t, os.Chmod(h.path("ecosystem/p/run.sh"), 0o755))
	check(t, os.Symlink("run.sh", h.path("ecosystem/p/link")))
	first := h.files(t, "ecosystem/p")
	h.write(t, "user_data/import/p/ecosystem.json", versioned("p", "i", "2"))
	applied, err := h.eco.Apply(t.Context(), h.stage(t, "p"))
	check(t, err)

	all, err := h.eco.Backups(t.Context(), "p")
	check(t, err)
	if len(all) != 1 {
		t.Fatalf("backups are %+v; want 1", all)
	}
	b := all[0]
	if b.Path != applied.Backups["p"] || b.Name != path.Base(b.Path) || b.Reason != ForApply || b.Version != "1" || b.Identity != "i" ||
		b.Bytes != int64(len(versioned("p", "i", "1"))+1) || b.CreatedAt.IsZero() || b.Error != "" {
		t.Errorf("the backup is %+v, want version 1 with its size and its time", b)
	}
	rolled, err := h.eco.Rollback(t.Context(), "p", b.Name)
	check(t, err)
	if got := h.files(t, "ecosystem/p"); !reflect.DeepEqual(got, first) || rolled.Version != "1" || len(rolled.Warnings) != 0 {
		t.Errorf("the pack is %v, %+v; want %v, version 1, no warnings", got, rolled, first)
	}
	if info, err := os.Stat(h.path("ecosystem/p/run.sh")); err != nil || info.Mode()&0o100 == 0 {
		t.Errorf("run.sh is %v, %v; want it executable", info, err)
	}
	if target, err := os.Readlink(h.path("ecosystem/p/link")); err != nil || target != "run.sh" {
		t.Errorf("the link is %q, %v; want run.sh", target, err)
	}
	if got := h.files(t, rolled.Backup); !reflect.DeepEqual(got, []string{"ecosystem.json=" + versioned("p", "i", "2")}) {
		t.Errorf("what was replaced is %v", got)
	}
	if got := h.names(t, "ecosystem"); got != "p" {
		t.Errorf("ecosystem holds %s; want p", got)
	}

	// An uninstalled pack, too; and a backup can be used again.
	_, err = h.eco.Remove(t.Context(), "p")
	check(t, err)
	if rolled, err = h.eco.Rollback(t.Context(), "p", path.Base(rolled.Backup)); err != nil || rolled.Backup != "" || rolled.Version != "2" {
		t.Errorf("after an uninstall: %+v, %v; want no backup, version 2", rolled, err)
	}
	if got, want := h.reasons(t), []string{"uninstall 1", "rollback 2", "apply 1"}; !reflect.DeepEqual(got, want) {
		t.Errorf("backups are %v; want %+v", got, want)
	}
	_, err = h.eco.Rollback(t.Context(), "p", b.Name)
	check(t, err)
}

func TestRollbackOfAPackInTheLegacyFolder(t *testing.T) {
	h := newHome(t, t.TempDir())
	h.write(t, "ecosystem/packs/p/ecosystem.json", versioned("p", "i", "1"))
	h.write(t, "user_data/import/p/ecosystem.json", versioned("p", "i", "2"))
	applied, err := h.eco.Apply(t.Context(), h.stage(t, "p"))
	check(t, err)
	check(t, os.Rename(h.path("ecosystem/p"), h.path("ecosystem/packs/p")))
	rolled, err := h.eco.Rollback(t.Context(), "p", path.Base(applied.Backups["p"]))
	check(t, err)
	if got := h.names(t, "ecosystem/packs"); got != "" || h.names(t, "ecosystem/p") != "ecosystem.json" || h.names(t, rolled.Backup) != "ecosystem.json" {
		t.Errorf("the old place holds %s; want nothing there, and ecosystem.json in the pack and in its backup", got)
	}
}

func TestRollbackRefuses(t *testing.T) {
	const good = "20260102T030405.000000006Z-0123abcd-apply"
	for name, c := range map[string]struct {
		backup string // content of the backup's descriptor; "" for none
		change func(t *testing.T, h *home)
		name   string
		want   string
	}{
		"none":              {"", nil, good, "Backup not found: " + good},
		"empty":             {descriptor("p", "i"), nil, "", "Backup not found: "},
		"path":              {descriptor("p", "i"), nil, "user_data/pack_backups/p/" + good, "Backup not found: user_data/"},
		"climbs":            {descriptor("p", "i"), nil, "../p/" + good, "Backup not found: ../p/"},
		"dot":               {descriptor("p", "i"), nil, ".", "Backup not found: ."},
		"newline":           {descriptor("p", "i"), nil, good + "\n", "Backup not found: "},
		"in it":             {descriptor("p", "i"), nil, good + "/x", "Backup not found: "},
		"begins with it":    {descriptor("p", "i"), nil, good[:len(good)-6], "Backup not found: "},
		"being made":        {descriptor("p", "i"), nil, ".making-" + good, "Backup not found: "},
		"file":              {"", func(t *testing.T, h *home) { h.write(t, "user_data/pack_backups/p/"+good, "") }, good, "Backup not found: "},
		"link":              {"", func(t *testing.T, h *home) { h.link(t, "user_data/pack_backups/p/"+good) }, good, "Backup not found: "},
		"of another pack":   {"", func(t *testing.T, h *home) { h.write(t, "user_data/pack_backups/q/"+good+"/x", "") }, good, "Backup not found: "},
		"broken":            {"{", nil, good, "Backup can't be restored: ecosystem.json line 1, column 2: it ends too early"},
		"declares another":  {descriptor("q", "i"), nil, good, "pack_id mismatch: existing='p', new='q'"},
		"other identity":    {descriptor("p", "j"), nil, good, "pack_identity mismatch: existing pack_identity='i', new pack_identity='j' (pack_id='p')."},
		"no identity":       {descriptor("p", ""), nil, good, "pack_identity mismatch: existing pack_identity='i', new pack_identity=''"},
		"says another id":   {descriptor("p", "i"), func(t *testing.T, h *home) { h.write(t, "ecosystem/p/ecosystem.json", descriptor("q", "")) }, good, "pack_id mismatch: existing='q', new='p'"},
		"no pack is in way": {descriptor("p", "i"), func(t *testing.T, h *home) { check(t, os.Remove(h.path("ecosystem/p/ecosystem.json"))) }, good, "ecosystem/p is in the way"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHome(t, t.TempDir())
			h.write(t, "ecosystem/p/ecosystem.json", descriptor("p", "i"))
			h.write(t, "ecosystem/p/x", "")
			if c.backup != "" {
				h.write(t, "user_data/pack_backups/p/"+good+"/ecosystem.json", c.backup)
			}
			if c.change != nil {
				c.change(t, h)
			}
			installed, backups := h.files(t, "ecosystem"), h.files(t, "user_data/pack_backups")
			_, err := h.eco.Rollback(t.Context(), "p", c.name)
			_, refused := errors.AsType[*RefusedError](err)
			if err == nil || !strings.HasPrefix(message(err), c.want) || refused == fault.Is(err, fault.KindNotFound) {
				t.Errorf("got %v, want %s", err, c.want)
			}
			if got := h.files(t, "ecosystem"); !reflect.DeepEqual(got, installed) {
				t.Errorf("ecosystem holds %v; want %+v", got, installed)
			}
			if got := h.files(t, "user_data/pack_backups"); !reflect.DeepEqual(got, backups) {
				t.Errorf("backups hold %v; want %+v", got, backups)
			}
			if all, err := h.eco.Backups(t.Context(), "p"); err != nil || c.backup == "" && len(all) != 0 {
				t.Errorf("the backups are %+v, %v; want none for this case", all, err)
			}
		})
	}
}

// A pack that is broken so that nobody can say which one it is, is what rollbacks are there for. What lies there is kept.
func TestRollbackOfABrokenPack(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, h *home, at string){
		"no JSON":           func(t *testing.T, h *home, at string) { h.write(t, at, "{") },
		"empty":             func(t *testing.T, h *home, at string) { h.write(t, at, "") },
		"no id":             func(t *testing.T, h *home, at string) { h.write(t, at, `{"pack_identity": "i"}`) },
		"no identity":       func(t *testing.T, h *home, at string) { h.write(t, at, `{"pack_id": "p"}`) },
		"an empty identity": func(t *testing.T, h *home, at string) { h.write(t, at, descriptor("p", "")) },
		"a duplicate key": func(t *testing.T, h *home, at string) {
			h.write(t, at, `{"pack_id": "p", "pack_id": "p", "pack_identity": "i"}`)
		},
		"a wrong type": func(t *testing.T, h *home, at string) { h.write(t, at, `{"pack_id": "p", "pack_identity": 1}`) },
		"too large":    func(t *testing.T, h *home, at string) { h.write(t, at, strings.Repeat(" ", 2<<20)) },
		"a folder":     func(t *testing.T, h *home, at string) { check(t, os.Remove(h.path(at))); h.write(t, at+"/x", "") },
		"a link": func(t *testing.T, h *home, at string) {
			check(t, os.Remove(h.path(at)))
			check(t, os.Symlink("x", h.path(at)))
		},
		"a link to nowhere": func(t *testing.T, h *home, at string) {
			check(t, os.Remove(h.path(at)))
			check(t, os.Symlink("nowhere", h.path(at)))
		},
	} {
		for _, dir := range []string{"ecosystem/p", "ecosystem/packs/p"} {
			t.Run(name+" in "+dir, func(t *testing.T) {
				h := newHome(t, t.TempDir())
				h.write(t, dir+"/ecosystem.json", descriptor("p", "i"))
				h.write(t, dir+"/x", "")
				good := h.files(t, dir)
				removed, err := h.eco.Remove(t.Context(), "p")
				check(t, err)
				h.write(t, dir+"/ecosystem.json", descriptor("p", "i"))
				h.write(t, dir+"/mine", "1")
				spoil(t, h, dir+"/ecosystem.json")
				broken := h.files(t, dir)
				rolled, err := h.eco.Rollback(t.Context(), "p", path.Base(removed.Backup))
				check(t, err)
				if got := h.files(t, "ecosystem/p"); !reflect.DeepEqual(got, good) {
					t.Errorf("the pack is %v, want %v", got, good)
				}
				if got := h.files(t, rolled.Backup); !reflect.DeepEqual(got, broken) {
					t.Errorf("what was there is kept as %v, want %v", got, broken)
				}
				if all, err := h.eco.Backups(t.Context(), "p"); err != nil || len(all) != 2 || all[0].Reason != ForRollback {
					t.Errorf("backups are %+v, %v; want 2, reason %v", all, err, ForRollback)
				}
			})
		}
	}
}

// link makes a link to a folder that would be a backup.
func (h *home) link(t *testing.T, name string) {
	t.Helper()
	h.write(t, "user_data/pack_backups/elsewhere/ecosystem.json", descriptor("p", "i"))
	check(t, os.MkdirAll(path.Dir(h.path(name)), 0o755))
	check(t, os.Symlink("../elsewhere", h.path(name)))
}

func TestBackupsOfABrokenPack(t *testing.T) {
	h := newHome(t, t.TempDir())
	h.write(t, "ecosystem/p/ecosystem.json", "{")
	_, err := h.eco.Remove(t.Context(), "p")
	check(t, err)
	all, err := h.eco.Backups(t.Context(), "p")
	if err != nil || len(all) != 1 || all[0].Error == "" || all[0].Bytes != 1 || all[0].Reason != ForUninstall {
		t.Errorf("got %+v, %v; want one of 1 byte with an error and the reason %v", all, err, ForUninstall)
	}
	if all, err := h.eco.Backups(t.Context(), pack.ID("never")); err != nil || len(all) != 0 {
		t.Errorf("of a pack that never was: %+v, %v; want none", all, err)
	}
}
