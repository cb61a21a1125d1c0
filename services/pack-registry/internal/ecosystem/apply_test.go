package ecosystem

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
)

func TestApply(t *testing.T) {
	h := newHome(t, t.TempDir())
	h.write(t, "user_data/import/p-main/ecosystem.json", descriptor("p", "github:a/p"))
	h.write(t, "user_data/import/p-main/run.sh", "1")
	check(t, os.Chmod(h.path("user_data/import/p-main/run.sh"), 0o755))
	applied, err := h.eco.Apply(t.Context(), h.stage(t, "p-main"))
	check(t, err)
	if !reflect.DeepEqual(applied, Applied{PackIDs: []string{"p"}, Backups: map[string]string{}}) {
		t.Errorf("applied %+v, want p without a backup", applied)
	}
	if info, err := os.Stat(h.path("ecosystem/p/run.sh")); err != nil || info.Mode()&0o100 == 0 {
		t.Errorf("run.sh is %v, %v; want it executable", info, err)
	}
	first := h.files(t, "ecosystem/p")

	// Again with other files, several times within a second: each version has a backup of its own.
	backups := map[string]bool{}
	for range 5 {
		h.write(t, "user_data/import/p-main/new.py", "2")
		applied, err = h.eco.Apply(t.Context(), h.stage(t, "p-main"))
		check(t, err)
		backup := applied.Backups["p"]
		if !strings.HasPrefix(backup, "user_data/pack_backups/p/") || backups[backup] {
			t.Errorf("backup %q; want a new one in user_data/pack_backups/p/", backup)
		}
		if len(backups) == 0 {
			if got := h.files(t, backup); !reflect.DeepEqual(got, first) {
				t.Errorf("the backup holds %v, want %v", got, first)
			}
			if info, err := os.Stat(h.path(backup + "/run.sh")); err != nil || info.Mode().Perm() != 0o755 { // as it was
				t.Errorf("the backup of run.sh is %v, %v; want 0755", info.Mode(), err)
			}
		}
		backups[backup] = true
	}
	if got := h.names(t, "ecosystem"); got != "p" {
		t.Errorf("ecosystem holds %s; want p", got)
	}
	if got := h.names(t, "ecosystem/p"); got != "ecosystem.json new.py run.sh" {
		t.Errorf("the pack holds %s; want \"ecosystem.json new.py run.sh\"", got)
	}
	if got := h.names(t, "user_data/pack_staging"); got != ".lock" {
		t.Errorf("staging holds %s; want .lock", got)
	}
}

func TestApplyUsesAStagingUp(t *testing.T) {
	h := newHome(t, t.TempDir())
	h.write(t, "user_data/import/p/ecosystem.json", descriptor("p", "i"))
	id := h.stage(t, "p")
	var wait sync.WaitGroup
	var mu sync.Mutex
	outcomes := map[string]int{}
	for range 8 {
		wait.Go(func() {
			_, err := h.eco.Apply(t.Context(), id)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				outcomes["applied"]++
			} else {
				outcomes[fault.Of(err).Message]++
			}
		})
	}
	wait.Wait()
	if want := map[string]int{"applied": 1, "Staging not found: " + id: 7}; !reflect.DeepEqual(outcomes, want) {
		t.Errorf("got %v; want %+v", outcomes, want)
	}
}

func TestApplyOverAPackInTheLegacyFolder(t *testing.T) {
	h := newHome(t, t.TempDir())
	h.write(t, "ecosystem/packs/p/ecosystem.json", descriptor("p", "i"))
	h.write(t, "ecosystem/packs/p/old", "")
	h.write(t, "user_data/import/p/ecosystem.json", descriptor("p", "i"))
	applied, err := h.eco.Apply(t.Context(), h.stage(t, "p"))
	check(t, err)
	if got := h.names(t, "ecosystem/packs"); got != "" {
		t.Errorf("the old place holds %s; want nothing", got)
	}
	if got := h.names(t, applied.Backups["p"]); got != "ecosystem.json old" {
		t.Errorf("the backup holds %s; want \"ecosystem.json old\"", got)
	}
}

func TestApplyRefuses(t *testing.T) {
	const identity = "pack_identity mismatch: existing pack_identity='%s', new pack_identity='%s' (pack_id='p'). To replace, manually remove the existing pack first."
	one := func(folder, id, identity string) func(*testing.T, *home) {
		return func(t *testing.T, h *home) {
			h.write(t, "user_data/import/"+folder+"/ecosystem.json", descriptor(id, identity))
		}
	}
	installed := func(folder, content string) func(*testing.T, *home) {
		return func(t *testing.T, h *home) { h.write(t, "ecosystem/"+folder+"/ecosystem.json", content) }
	}
	for name, c := range map[string]struct {
		installed, staged func(*testing.T, *home)
		folder            string
		want              []Refusal
	}{
		"other identity":          {installed("p", descriptor("p", "a")), one("p", "p", "b"), "p", []Refusal{{"p", mismatchText(identity, "a", "b")}}},
		"no identity":             {installed("p", descriptor("p", "a")), one("p", "p", ""), "p", []Refusal{{"p", mismatchText(identity, "a", "")}}},
		"no identity on any side": {installed("p", descriptor("p", "")), one("p", "p", ""), "p", []Refusal{{"p", mismatchText(identity, "", "")}}},
		"identity in other case":  {installed("p", descriptor("p", "a")), one("p", "p", "A"), "p", []Refusal{{"p", mismatchText(identity, "a", "A")}}},
		"broken one installed":    {installed("p", "{"), one("p", "p", "a"), "p", []Refusal{{"p", mismatchText(identity, "", "a")}}},
		"old place":               {installed("packs/p", descriptor("p", "a")), one("p", "p", "b"), "p", []Refusal{{"p", mismatchText(identity, "a", "b")}}},
		"installed says another":  {installed("p", descriptor("q", "a")), one("p", "p", "a"), "p", []Refusal{{"p", "pack_id mismatch: existing='q', new='p'"}}},
		"folder of another":       {installed("f", descriptor("f", "a")), one("f", "p", "a"), "f", []Refusal{{"p", "pack_id mismatch: existing='f', new='p'"}}},
		"no pack in the way": {func(t *testing.T, h *home) { h.write(t, "ecosystem/p/notes", "mine") }, one("p", "p", "a"), "p",
			[]Refusal{{"p", "ecosystem/p is in the way: it is no pack. Move it away and repeat the call."}}},
		"one of several": {installed("b", descriptor("b", "x")), func(t *testing.T, h *home) {
			one("m/packs/a", "a", "a")(t, h)
			one("m/packs/b", "b", "y")(t, h)
			one("m/packs/c", "d", "c")(t, h)
		}, "m", []Refusal{
			{"b", strings.ReplaceAll(mismatchText(identity, "x", "y"), "'p'", "'b'")},
			{"c", "pack_id mismatch: existing='c', new='d'"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHome(t, t.TempDir())
			c.installed(t, h)
			c.staged(t, h)
			before := h.files(t, "ecosystem")
			id := h.stage(t, c.folder)
			for range 2 { // a refused staging is not used up
				_, err := h.eco.Apply(t.Context(), id)
				refused, ok := errors.AsType[*RefusedError](err)
				if !ok || !reflect.DeepEqual(refused.Refusals, c.want) {
					t.Errorf("got %v, %+v; want %+v", err, refused, c.want)
				}
			}
			if got := h.files(t, "ecosystem"); !reflect.DeepEqual(got, before) {
				t.Errorf("ecosystem holds %v, want %v", got, before)
			}
			if got := h.names(t, "user_data/pack_backups"); got != "" {
				t.Errorf("backups hold %s; want nothing", got)
			}
		})
	}
}

func TestRemove(t *testing.T) {
	h := newHome(t, t.TempDir())
	h.write(t, "ecosystem/p/ecosystem.json", descriptor("p", "new"))
	h.write(t, "ecosystem/packs/p/ecosystem.json", descriptor("p", "old"))
	check(t, os.Symlink("/etc/passwd", h.path("ecosystem/p/link")))
	removed, err := h.eco.Remove(t.Context(), "p")
	check(t, err)
	if got := h.names(t, "ecosystem"); got != "packs" || h.names(t, "ecosystem/packs") != "" {
		t.Errorf("ecosystem holds %s; want an empty packs alone", got)
	}
	if content, err := os.ReadFile(h.path(removed.Backup + "/ecosystem.json")); err != nil || !strings.Contains(string(content), "new") {
		t.Errorf("the backup is %s, %v; want it with new", content, err)
	}
	if target, err := os.Readlink(h.path(removed.Backup + "/link")); err != nil || target != "/etc/passwd" {
		t.Errorf("the link is %q, %v; want /etc/passwd", target, err)
	}
	if again, err := h.eco.Remove(t.Context(), "p"); err != nil || !reflect.DeepEqual(again, Removed{}) {
		t.Errorf("a second removal gives %+v, %v; want nothing removed", again, err)
	}
	if backups, err := filepath.Glob(h.path("user_data/pack_backups/p/*")); err != nil || len(backups) != 2 {
		t.Errorf("backups are %v, %v; want 2", backups, err)
	}
}

func TestScan(t *testing.T) {
	h := newHome(t, t.TempDir())
	h.write(t, "ecosystem/b/ecosystem.json", descriptor("b", "i"))
	h.write(t, "ecosystem/a/backend/ecosystem.json", descriptor("a", ""))
	h.write(t, "ecosystem/broken/ecosystem.json", "{")
	h.write(t, "ecosystem/packs/old/ecosystem.json", descriptor("old", "i"))
	h.write(t, "ecosystem/.rumi-old-x/ecosystem.json", descriptor("x", ""))
	if warnings := h.eco.RemoveLeftovers(t.Context()); len(warnings) != 0 {
		t.Errorf("tidy: %v; want none", warnings)
	}
	found := h.eco.Scan()
	if !reflect.DeepEqual(found.PackIDs, []string{"a", "b", "old"}) || len(found.Broken) != 1 || found.Broken[0].PackID != "broken" || len(found.Warnings) != 5 || found.Warnings[0] != "a: "+pack.NoIdentity {
		t.Errorf("the scan finds %+v, want a, b and old, one broken, and five warnings", found)
	}
	for i, id := range map[int]string{1: "a", 2: "b", 4: "old"} {
		if want := id + ": no entrypoint: a container of it will idle"; found.Warnings[i] != want {
			t.Errorf("warning %d: got %s, want %s", i, found.Warnings[i], want)
		}
	}
	if got := h.names(t, "ecosystem"); strings.Contains(got, ".rumi") {
		t.Errorf("ecosystem holds %s; want not strings.Contains(got, \".rumi\")", got)
	}
}

func mismatchText(format, existing, declared string) string {
	return strings.Replace(strings.Replace(format, "%s", existing, 1), "%s", declared, 1)
}
