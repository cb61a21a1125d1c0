package uninstall

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rumi-ai/rumi/api/broker"
	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/fault"
	libstore "github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/ecosystem"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/staging"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/store"
)

// The environment of a process that TestCrash starts: where it works, and the how-many-th step it dies at.
const (
	crashHome = "RUMI_CRASH_HOME"
	crashStep = "RUMI_CRASH_STEP"
)

// owner is another service, as far as an uninstall goes: what it keeps of the pack is a file in the home, so that it outlives this
// process as theirs does. The file of approval says "retired" for a pack that is.
type owner string

func (o owner) read() string {
	content, err := os.ReadFile(string(o))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		panic(err)
	}
	return string(content)
}

func (o owner) write(content string) error { return os.WriteFile(string(o), []byte(content), 0o600) }

func (o owner) Retire(_ context.Context, _ string, installed bool) (bool, error) {
	if o.read() == "" && !installed {
		return false, nil
	}
	return true, o.write("retired")
}

func (o owner) Remove(context.Context, string) (bool, error) {
	err := os.Remove(string(o))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

type brokerOwner struct{ owner }

func (o brokerOwner) Remove(ctx context.Context, id string) (broker.Removal, error) {
	removed, err := o.owner.Remove(ctx, id)
	return broker.Removal{GrantsRemoved: removed}, err
}

// open makes an Uninstaller of a home, as a process does that starts there.
func open(t *testing.T, home string) *Uninstaller {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	path := func(name string) string { return filepath.Join(home, name) }
	check(t, os.MkdirAll(path("ecosystem"), 0o755))
	db, err := libstore.Open(t.Context(), libstore.Config{Dir: path("state"), Service: "pack-registry"}, store.Migrations())
	check(t, err)
	t.Cleanup(func() { db.Close() })
	auditLog, err := audit.Open(path("audit"), "pack-registry", log)
	check(t, err)
	t.Cleanup(func() { auditLog.Close() })
	records := store.New(db)
	stages := staging.Open(path("pack_staging"), staging.ImportFolders{Home: home}, records, auditLog, log, prometheus.NewRegistry())
	t.Cleanup(func() { stages.Close() })
	eco, err := ecosystem.Open(ecosystem.Config{Metrics: prometheus.NewRegistry(), Dir: path("ecosystem"), Backups: path("pack_backups"), Lock: path("lock")}, stages, records, auditLog, log)
	check(t, err)
	t.Cleanup(func() { eco.Close() })
	eco.Recover(t.Context())
	return New(Owners{
		Approval: owner(path("approval")), Broker: brokerOwner{owner(path("broker"))}, Egress: owner(path("egress")), Pip: owner(path("pip")),
	}, eco, auditLog, log)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestCrashing is not a test by itself: it is what a process does that TestCrash kills.
func TestCrashing(t *testing.T) {
	home := os.Getenv(crashHome)
	if home == "" {
		return
	}
	u := open(t, home)
	var left int
	_, err := fmt.Sscan(os.Getenv(crashStep), &left)
	check(t, err)
	u.step = func(string) {
		if left--; left < 0 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	_, err = u.Uninstall(context.Background(), "p")
	check(t, err)
}

// An uninstall that is killed between any two of its steps can be repeated to the end, and until then the pack is retired: at no
// instant there is something of it that approval knows nothing of, for a later pack of that name to find.
func TestCrash(t *testing.T) {
	for name, c := range map[string]struct{ approval, files bool }{
		"known":                 {true, true},
		"not known yet":         {false, true},
		"files removed by hand": {true, false},
	} {
		t.Run(name, func(t *testing.T) {
			step := 0
			for ; crash(t, c.approval, c.files, step); step++ {
			}
			if step != 4 {
				t.Errorf("%d steps; want 4", step)
			}
		})
	}
}

// crash kills a process at a step; killed is false when it has ended before.
func crash(t *testing.T, known, files bool, step int) (killed bool) {
	t.Helper()
	home := t.TempDir()
	others := []owner{owner(filepath.Join(home, "broker")), owner(filepath.Join(home, "egress")), owner(filepath.Join(home, "pip"))}
	for _, o := range others {
		check(t, o.write("granted"))
	}
	approval := owner(filepath.Join(home, "approval"))
	if known {
		check(t, approval.write("approved"))
	}
	pack := filepath.Join(home, "ecosystem/p")
	if files {
		check(t, os.MkdirAll(pack, 0o755))
		check(t, os.WriteFile(filepath.Join(pack, "ecosystem.json"), []byte(`{"pack_id": "p", "pack_identity": "i"}`), 0o644))
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestCrashing$")
	cmd.Env = append(os.Environ(), crashHome+"="+home, fmt.Sprintf("%s=%d", crashStep, step))
	if output, err := cmd.CombinedOutput(); err != nil {
		if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() {
			t.Fatalf("the child ended with %v, want by a signal or without an error:\n%s", err, output)
		}
		killed = true
	}

	left := 0
	for _, o := range others {
		if o.read() != "" {
			left++
		}
	}
	if _, err := os.Stat(pack); err == nil {
		left++
	}
	if state := approval.read(); killed && state != "retired" || !killed && (state != "" || left > 0) {
		t.Errorf("step %d: approval has %q, and %d others have something", step, state, left)
	}
	u := open(t, home)
	result, err := u.Uninstall(t.Context(), "p")
	if killed && (err != nil || !result.Success) {
		t.Errorf("step %d: the repeated uninstall gives %+v, %v; want success", step, result, err)
	}
	if _, err := u.Uninstall(t.Context(), "p"); !fault.Is(err, fault.KindNotFound) {
		t.Errorf("step %d: once more: %v; want not found", step, err)
	}
	for _, o := range append(others, approval) {
		if o.read() != "" {
			t.Errorf("step %d: %s has %q; want nothing", step, o, o.read())
		}
	}
	if !strings.Contains(entries(t, home), `"action":"pack_uninstalled","success":true`) {
		t.Errorf("step %d: not in the audit log:\n%s", step, entries(t, home))
	}
	return killed
}

func entries(t *testing.T, home string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(home, "audit/approval_*.jsonl"))
	check(t, err)
	var all strings.Builder
	for _, name := range files {
		text, err := os.ReadFile(name)
		check(t, err)
		all.Write(text)
	}
	return all.String()
}
