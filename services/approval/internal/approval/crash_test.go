package approval

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/pack"
	libstore "github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/libs/testenv"
	"github.com/rumi-ai/rumi/libs/tree"
	"github.com/rumi-ai/rumi/services/approval/internal/blob"
	"github.com/rumi-ai/rumi/services/approval/internal/store"
	"github.com/rumi-ai/rumi/services/approval/internal/watch"
)

// The environment of a process that TestCrash starts: where it works, what it does, and the how-many-th step it dies at.
const (
	crashHome = "RUMI_CRASH_HOME"
	crashVerb = "RUMI_CRASH_VERB"
	crashStep = "RUMI_CRASH_STEP"
)

// open makes the service of a home, as a process does that starts there.
func open(t *testing.T, home string) *Service {
	t.Helper()
	dir := func(name string) string {
		path := filepath.Join(home, name)
		check(t, os.MkdirAll(path, 0o750))
		return path
	}
	db, err := libstore.Open(t.Context(), libstore.Config{Dir: dir("state"), Service: "approval"}, store.Migrations)
	check(t, err)
	t.Cleanup(func() { db.Close() })
	return openOn(t, home, db)
}

// openOn is open with another database.
func openOn(t *testing.T, home string, db *libstore.DB) *Service {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	dir := func(name string) string {
		path := filepath.Join(home, name)
		check(t, os.MkdirAll(path, 0o750))
		return path
	}
	blobs, err := blob.Open(dir("approved"), log)
	check(t, err)
	t.Cleanup(func() { blobs.Close() })
	auditLog, err := audit.Open(dir("audit"), "approval", log)
	check(t, err)
	t.Cleanup(func() { auditLog.Close() })
	ecosystem, err := os.OpenRoot(dir("ecosystem"))
	check(t, err)
	t.Cleanup(func() { ecosystem.Close() })
	watcher, err := watch.New(watch.Config{Root: dir("ecosystem"), Log: log, Metrics: prometheus.NewRegistry(), OnChange: func([]string, bool) {}})
	check(t, err)
	t.Cleanup(func() { watcher.Close() })
	s, err := Open(t.Context(), Dependencies{
		Metrics:   prometheus.NewRegistry(),
		Ecosystem: ecosystem, Records: store.New(db), Blobs: blobs, Audit: auditLog, Log: log, Watcher: watcher, OnChange: func() {},
	})
	check(t, err)
	return s
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
	s := open(t, home)
	var left int
	_, err := fmt.Sscan(os.Getenv(crashStep), &left)
	check(t, err)
	s.step = func(string) {
		if left--; left < 0 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	s.Blobs.Step = s.step
	switch os.Getenv(crashVerb) {
	case "approve":
		_, err = s.Approve(context.Background(), "p", "")
	case "ask":
		s.Approvals = 2
		_, err = s.Approve(person("alice"), "p", "")
	case "confirm":
		s.Approvals = 2
		_, err = s.Approve(person("bob"), "p", "")
	case "reject":
		_, err = s.Reject(context.Background(), "p", "no")
	case "retire":
		_, err = s.Retire(context.Background(), "p", true)
	case "remove":
		_, err = s.Remove(context.Background(), "p")
	}
	check(t, err)
}

// A process that is killed at any step of a decision leaves the state before it or the one after: what is approved is whole, and no
// decision is without its audit entry. The next process can decide.
func TestCrash(t *testing.T) {
	for verb, steps := range map[string]int{"approve": 8, "reject": 3} {
		for _, before := range []pack.Status{pack.StatusPending, pack.StatusApproved} {
			t.Run(fmt.Sprintf("%s what is %s", verb, before), func(t *testing.T) {
				for step := 0; crash(t, verb, before, step); step++ {
					if step > steps {
						t.Fatalf("more than %d steps; want step <= %v", steps, steps)
					}
				}
			})
		}
	}
}

// crash kills a process at a step; killed is false when it has ended before.
func crash(t *testing.T, verb string, before pack.Status, step int) (killed bool) {
	t.Helper()
	home := t.TempDir()
	write(t, home, "ecosystem.json", `{"pack_id": "p", "pack_identity": "github:a/p"}`)
	write(t, home, "small", "1")
	write(t, home, "large", strings.Repeat("1", 200<<10))
	var first string // the digest of what was approved before
	{
		s := open(t, home)
		if before == pack.StatusApproved {
			r, err := s.Approve(t.Context(), "p", "")
			check(t, err)
			first = r.Digest
			write(t, home, "small", "2")
			write(t, home, "large", strings.Repeat("2", 200<<10))
			check(t, s.Refresh(t.Context()))
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
	check(t, err)
	after := map[string]pack.Status{"approve": pack.StatusApproved, "reject": pack.StatusBlocked}[verb]
	undone := map[pack.Status]pack.Status{pack.StatusPending: pack.StatusPending, pack.StatusApproved: pack.StatusModified}[before]
	switch {
	case r.Status == after:
	case r.Status == undone && killed && r.Digest == first:
	default:
		t.Fatalf("step %d: the pack is %s, %s", step, r.Status, r.Digest)
	}
	if r.Digest != "" {
		wholeTree(t, s, r.Digest)
	}
	history, err := s.Records.History(t.Context(), "p")
	check(t, err)
	audited := entries(t, home)
	for _, e := range history {
		if !strings.Contains(audited, `"pack_`+e.Action+`"`) {
			t.Fatalf("step %d: %s is not in the audit log", step, e.Action)
		}
	}

	check(t, s.Collect(t.Context()))
	if r, err = s.Approve(t.Context(), "p", ""); err != nil || r.Status != pack.StatusApproved {
		t.Fatalf("step %d: the next process can't approve: %v; want status approved", step, err)
	}
	check(t, s.Collect(t.Context()))
	wholeTree(t, s, r.Digest)
	return killed
}

func write(t *testing.T, home, name, text string) {
	t.Helper()
	dir := filepath.Join(home, "ecosystem/p")
	check(t, os.MkdirAll(dir, 0o755))
	check(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
}

// wholeTree receives what would run.
func wholeTree(t *testing.T, s *Service, digest string) {
	t.Helper()
	r, w := io.Pipe()
	go func() { w.CloseWithError(s.SendTree(w, digest)) }()
	check(t, tree.Receive(r, digest, filepath.Join(testenv.TempDir(t), "tree")))
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
