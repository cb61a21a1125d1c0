package ecosystem

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/journal"
)

// The environment of a process that TestCrash starts: what it does, and the how-many-th step it dies at.
const (
	crashHome = "RUMI_CRASH_HOME"
	crashWhat = "RUMI_CRASH_WHAT"
	crashStep = "RUMI_CRASH_STEP"
)

// TestCrashing is not a test by itself: it is what a process does that TestCrash kills.
func TestCrashing(t *testing.T) {
	dir := os.Getenv(crashHome)
	if dir == "" {
		return
	}
	h := newHome(t, dir)
	var left int
	_, err := fmt.Sscan(os.Getenv(crashStep), &left)
	check(t, err)
	h.eco.step = func(string) {
		if left--; left < 0 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	switch what, of, _ := strings.Cut(os.Getenv(crashWhat), " "); what {
	case "apply":
		_, err = h.eco.Apply(context.Background(), of)
	case "prune":
		h.eco.keep = 1
		_, err = h.eco.Apply(context.Background(), of)
	case "rollback":
		_, err = h.eco.Rollback(context.Background(), pack.ID("p"), of)
	case "remove":
		_, err = h.eco.Remove(context.Background(), pack.ID("p"))
	}
	check(t, err)
}

// run starts a process that is killed at a step; killed is false when it has ended before.
func run(t *testing.T, h *home, what string, step int) (killed bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestCrashing$")
	cmd.Env = append(os.Environ(), crashHome+"="+h.dir, crashWhat+"="+what, fmt.Sprintf("%s=%d", crashStep, step))
	output, err := cmd.CombinedOutput()
	if err == nil {
		return false
	}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() {
		t.Fatalf("the child ended with %v, want by a signal:\n%s", err, output)
	}
	return true
}

// A process that is killed at any step of an apply of two packs, one new and one replaced, leaves all of it or nothing of it, and
// a restart ends what it has begun.
func TestCrashDuringApply(t *testing.T) {
	for step := 0; ; step++ {
		h := newHome(t, t.TempDir())
		h.write(t, "ecosystem/p/ecosystem.json", descriptor("p", "i"))
		h.write(t, "ecosystem/p/version", "old")
		h.write(t, "user_data/import/m/packs/p/ecosystem.json", descriptor("p", "i"))
		h.write(t, "user_data/import/m/packs/p/version", "new")
		h.write(t, "user_data/import/m/packs/q/ecosystem.json", descriptor("q", "i"))
		before := h.files(t, "ecosystem")
		after := []string{"p/ecosystem.json=" + descriptor("p", "i"), "p/version=new", "q/ecosystem.json=" + descriptor("q", "i")}
		id := h.stage(t, "m")
		killed := run(t, h, "apply "+id, step)

		// Without any recovery each pack is whole.
		if got := h.files(t, "ecosystem/p"); len(got) != 2 || got[1] != "version=old" && got[1] != "version=new" {
			t.Fatalf("step %d: the pack is %v", step, got)
		}
		h = newHome(t, h.dir)
		h.eco.Recover(t.Context())
		got := h.files(t, "ecosystem")
		_, payload, err := h.stages.FindPayload(t.Context(), id)
		if err == nil {
			payload.Close()
		}
		switch undone := err == nil; {
		case undone && !reflect.DeepEqual(got, before):
			t.Fatalf("step %d: undone, but ecosystem holds %v", step, got)
		case !undone && !reflect.DeepEqual(got, after):
			t.Fatalf("step %d: finished, but ecosystem holds %v", step, got)
		case undone:
			if backups := h.files(t, "user_data/pack_backups"); len(backups) != 0 {
				t.Fatalf("step %d: undone, but there are backups %v; want none", step, backups)
			}
			_, err := h.eco.Apply(t.Context(), id) // it can be tried again
			check(t, err)
		default:
			if backups := h.files(t, "user_data/pack_backups"); len(backups) != 2 || !strings.HasSuffix(backups[1], "/version=old") {
				t.Fatalf("step %d: the backup is %v; want the old version alone", step, backups)
			}
		}
		if names := h.names(t, "ecosystem"); names != "p q" {
			t.Fatalf("step %d: ecosystem holds %s; want \"p q\"", step, names)
		}
		if operations, err := h.store.Operations(t.Context()); err != nil || len(operations) != 0 {
			t.Fatalf("step %d: left %v, %v; want none", step, operations, err)
		}
		h.eco.Recover(t.Context()) // and again changes nothing
		if !killed {
			if step < 9 {
				t.Errorf("only %d steps; want step >= 9", step)
			}
			return
		}
	}
}

// The same for a rollback, of an installed pack and of an uninstalled one.
func TestCrashDuringRollback(t *testing.T) {
	for name, installed := range map[string]bool{"installed": true, "uninstalled": false} {
		t.Run(name, func(t *testing.T) {
			for step := 0; crashRollback(t, installed, step); step++ {
			}
		})
	}
}

// crashRollback kills a rollback at a step; killed is false when it has ended before.
func crashRollback(t *testing.T, installed bool, step int) (killed bool) {
	h := newHome(t, t.TempDir())
	h.write(t, "ecosystem/p/ecosystem.json", descriptor("p", "i"))
	h.write(t, "ecosystem/p/version", "old")
	old := h.files(t, "ecosystem")
	removed, err := h.eco.Remove(t.Context(), "p")
	check(t, err)
	backup := path.Base(removed.Backup)
	if installed {
		h.write(t, "ecosystem/p/ecosystem.json", descriptor("p", "i"))
		h.write(t, "ecosystem/p/version", "new")
	}
	before := h.files(t, "ecosystem")
	killed = run(t, h, "rollback "+backup, step)

	if got := h.files(t, "ecosystem/p"); len(got) != 2 && (installed || len(got) != 0) {
		t.Fatalf("step %d: the pack is %v", step, got)
	}
	h = newHome(t, h.dir)
	h.eco.Recover(t.Context())
	all, err := h.eco.Backups(t.Context(), "p")
	check(t, err)
	switch got := h.files(t, "ecosystem"); {
	case reflect.DeepEqual(got, old) && installed && (len(all) != 2 || all[0].Reason != ForRollback):
		t.Fatalf("step %d: finished, but the backups are %+v", step, all)
	case reflect.DeepEqual(got, old):
	case !killed || !reflect.DeepEqual(got, before):
		t.Fatalf("step %d: ecosystem holds %v, want what was there before or after the rollback", step, got)
	case len(all) != 1:
		t.Fatalf("step %d: undone, but the backups are %+v", step, all)
	}
	if names := h.names(t, "user_data/pack_backups/p"); strings.Contains(names, makingPrefix) {
		t.Fatalf("step %d: backups hold %s; want not strings.Contains(names, makingPrefix)", step, names)
	}
	if operations, err := h.store.Operations(t.Context()); err != nil || len(operations) != 0 {
		t.Fatalf("step %d: left %v, %v; want none", step, operations, err)
	}
	_, err = h.eco.Rollback(t.Context(), "p", backup) // what was rolled back from is still there
	check(t, err)
	if got := h.files(t, "ecosystem"); !reflect.DeepEqual(got, old) {
		t.Fatalf("step %d: ecosystem holds %v; want %+v", step, got, old)
	}
	if !killed && step < 7 {
		t.Errorf("only %d steps, want 7 at least", step)
	}
	return killed
}

// Where another replica goes on while one that was killed is not restarted, its next scan or change ends what that has begun; the
// folders that a committed apply has prepared are not taken for leftovers.
func TestOthersEndWhatWasInterrupted(t *testing.T) {
	for name, act := range map[string]func(*testing.T, *home) error{
		"tidy":    func(t *testing.T, h *home) error { h.eco.RemoveLeftovers(t.Context()); return nil },
		"remove":  func(t *testing.T, h *home) error { _, err := h.eco.Remove(t.Context(), "x"); return err },
		"recover": func(t *testing.T, h *home) error { h.eco.Recover(t.Context()); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			for step := 0; ; step++ {
				h := newHome(t, t.TempDir())
				h.write(t, "user_data/import/m/packs/p/ecosystem.json", descriptor("p", "i"))
				h.write(t, "user_data/import/m/packs/q/ecosystem.json", descriptor("q", "i"))
				id := h.stage(t, "m")
				killed := run(t, h, "apply "+id, step)
				check(t, act(t, h))
				_, payload, err := h.stages.FindPayload(t.Context(), id)
				want := "p q"
				if err == nil {
					payload.Close()
					want = ""
				}
				if got := h.names(t, "ecosystem"); got != want {
					t.Fatalf("step %d: ecosystem holds %q, want %q", step, got, want)
				}
				if !killed {
					return
				}
			}
		})
	}
}

func TestCrashDuringRemove(t *testing.T) {
	for step := 0; ; step++ {
		h := newHome(t, t.TempDir())
		h.write(t, "ecosystem/p/ecosystem.json", descriptor("p", "i"))
		h.write(t, "ecosystem/p/version", "old")
		before := h.files(t, "ecosystem/p")
		killed := run(t, h, "remove", step)
		if got := h.files(t, "ecosystem/p"); len(got) != 0 && !reflect.DeepEqual(got, before) {
			t.Fatalf("step %d: the pack is %v", step, got)
		}
		h = newHome(t, h.dir)
		h.eco.Recover(t.Context())
		if names := h.names(t, "user_data/pack_backups/p"); strings.Contains(names, makingPrefix) {
			t.Fatalf("step %d: backups hold %s; want not strings.Contains(names, makingPrefix)", step, names)
		}
		_, err := h.eco.Remove(t.Context(), "p")
		check(t, err)
		if names := h.names(t, "ecosystem"); names != "" {
			t.Fatalf("step %d: ecosystem holds %s; want nothing", step, names)
		}
		if backups := h.files(t, "user_data/pack_backups"); len(backups) < 2 {
			t.Fatalf("step %d: the backup is %v; want at least 2", step, backups)
		}
		if !killed {
			return
		}
	}
}

// What somebody else has put in a pack's place between a crash and the restart stays.
func TestRecoverLeavesWhatIsNew(t *testing.T) {
	h := newHome(t, t.TempDir())
	h.write(t, "ecosystem/p/ecosystem.json", descriptor("p", "i"))
	h.write(t, "user_data/import/p/ecosystem.json", descriptor("p", "i"))
	id := h.stage(t, "p")
	for step := 0; ; step++ { // until it is placed and what was there is still beside it
		if !run(t, h, "apply "+id, step) {
			t.Fatal("it was never placed")
		}
		if h.names(t, "ecosystem") != "p" && strings.HasPrefix(h.names(t, "ecosystem"), newPrefix) {
			operations, err := h.store.Operations(t.Context())
			check(t, err)
			if len(operations) == 1 && operations[0].State == journal.Committed {
				inode, _, err := identify(h.eco.root, "p")
				check(t, err)
				if inode == operations[0].Packs[0].Inode {
					break
				}
			}
		}
		h.eco.Recover(t.Context())
		if _, payload, err := h.stages.FindPayload(t.Context(), id); err != nil {
			id = h.stage(t, "p")
		} else {
			payload.Close()
		}
	}
	check(t, os.RemoveAll(h.path("ecosystem/p")))
	h.write(t, "ecosystem/p/ecosystem.json", descriptor("p", "mine"))
	h.eco.Recover(t.Context())
	if got := h.files(t, "ecosystem"); !reflect.DeepEqual(got, []string{"p/ecosystem.json=" + descriptor("p", "mine")}) {
		t.Errorf("ecosystem holds %v, want the operator's own p", got)
	}
}
