package approval

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
)

// A process that is killed at any step of the beginning or the end of an uninstall leaves the state before it or the one after; a
// pack that was retired can't be approved, and the next process goes on.
func TestCrashOfAnUninstall(t *testing.T) {
	for verb, steps := range map[string]int{"retire": 3, "remove": 2} {
		t.Run(verb, func(t *testing.T) {
			step := 0
			for ; crashUninstall(t, verb, step); step++ {
			}
			if step != steps {
				t.Errorf("%d steps, want %d", step, steps)
			}
		})
	}
}

// crashUninstall kills a process at a step; killed is false when it has ended before.
func crashUninstall(t *testing.T, verb string, step int) (killed bool) {
	t.Helper()
	home := t.TempDir()
	write(t, home, "ecosystem.json", `{"pack_id": "p", "pack_identity": "github:a/p"}`)
	{
		s := open(t, home)
		_, err := s.Approve(t.Context(), "p", "")
		check(t, err)
		if verb == "remove" {
			_, err = s.Retire(t.Context(), "p", true)
			check(t, err)
			check(t, os.RemoveAll(filepath.Join(home, "ecosystem/p")))
		}
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestCrashing$")
	cmd.Env = append(os.Environ(), crashHome+"="+home, crashVerb+"="+verb, fmt.Sprintf("%s=%d", crashStep, step))
	if output, err := cmd.CombinedOutput(); err != nil {
		if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() {
			t.Fatalf("the child ended with %v, want by a signal or without an error:\n%s", err, output)
		}
		killed = true
	}

	s := open(t, home)
	r, err := s.Records.Get(t.Context(), "p")
	switch {
	case verb == "remove" && fault.Is(err, fault.KindNotFound):
		if !strings.Contains(entries(t, home), `"pack_approval_removed"`) {
			t.Errorf("step %d: removed, and not in the audit log", step)
		}
		return killed
	case err != nil:
		t.Fatal(err)
	case r.Retired:
		if r.Status != pack.StatusError || s.MayRun("p") || !strings.Contains(entries(t, home), `"pack_retired"`) {
			t.Errorf("step %d: the record is %+v, want it retired, in error, audited, and the pack not to run", step, r)
		}
		if _, err := s.Approve(t.Context(), "p", ""); !fault.Is(err, fault.KindConflict) {
			t.Errorf("step %d: approve: %v; want a conflict", step, err)
		}
	case verb == "remove", !killed, r.Status != pack.StatusApproved, !s.MayRun("p"):
		t.Errorf("step %d: the record is %+v, want it approved as before, and the pack to run", step, r)
	}
	if known, err := s.Retire(t.Context(), "p", false); err != nil || !known || s.MayRun("p") {
		t.Errorf("step %d: again: %v, %v; want it known, and the pack not to run", step, known, err)
	}
	if removed, err := s.Remove(t.Context(), "p"); err != nil || !removed {
		t.Errorf("step %d: removed %v, %v; want removed", step, removed, err)
	}
	if _, known := s.gates.records["p"]; known {
		t.Errorf("step %d: its gate is still known; want not known", step)
	}
	return killed
}

// A retired pack's gate is let go of by nothing in memory: neither by a hold nor by its end, and a pack that is installed anew has
// none of it.
func TestHoldOfARetiredPack(t *testing.T) {
	home := t.TempDir()
	write(t, home, "ecosystem.json", `{"pack_id": "p", "pack_identity": "github:a/p"}`)
	s := open(t, home)
	_, err := s.Approve(t.Context(), "p", "")
	check(t, err)
	s.gates.holdClosed(t.Context(), "p", "noticed, not recorded")
	_, err = s.Retire(t.Context(), "p", true)
	check(t, err)
	for doing, act := range map[string]func(){
		"retired":  func() {},
		"held":     func() { s.gates.holdClosed(t.Context(), "p", "noticed late") },
		"released": func() { s.gates.releaseHold(t.Context(), "p") },
		"verified": func() { check(t, s.Verify(t.Context())) },
		"scanned":  func() { check(t, s.Refresh(t.Context())) },
	} {
		act()
		if got := s.gates.state("p"); got.Open || !got.Retired || got.Status != pack.StatusError {
			t.Errorf("%s: gate %+v; want not open, retired, status error", doing, got)
		}
		if _, looked := s.lastVerified["p"]; looked {
			t.Errorf("%s: what lies there was looked at; want not looked", doing)
		}
	}
	s.gates.holdClosed(t.Context(), "p", "noticed late")
	_, err = s.Remove(t.Context(), "p")
	check(t, err)
	check(t, s.Refresh(t.Context()))
	_, err = s.Approve(t.Context(), "p", "")
	check(t, err)
	check(t, s.Verify(t.Context()))
	if got := s.gates.state("p"); !got.Open || got.Retired {
		t.Errorf("installed anew: gate %+v; want open, not retired", got)
	}
}
