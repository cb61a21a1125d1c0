package unconfined

import (
	"context"
	"crypto/rand"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/rumi-ai/rumi/libs/audit"
)

type entries []audit.Entry

func (l *entries) Write(_ context.Context, e audit.Entry) error {
	*l = append(*l, e)
	return nil
}

// left starts a process as a broker's pack does that leaves its group, and its session. What it gives is closed at its end.
func left(t *testing.T, tag string) <-chan struct{} {
	t.Helper()
	cmd := exec.Command("sleep", "3600")
	cmd.Env, cmd.SysProcAttr = []string{"A=b", tagVariable + "=" + tag}, &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
	return ended
}

// What brokers of this host have left that were killed is ended, by the next one and by those that go on; nobody else's is.
func TestOrphansAreEnded(t *testing.T) {
	dir := t.TempDir()
	for _, needed := range []string{modules, filepath.Dir(workerFile)} {
		if err := os.Mkdir(filepath.Join(dir, needed), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, workerFile), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	node := rand.Text()
	others := []<-chan struct{}{left(t, node+"/alive/1"), left(t, "another/dead/1"), left(t, node+"/dead"), left(t, node), left(t, "")}
	orphan := left(t, node+"/dead/1")
	var log entries
	e, err := Open(t.Context(), Config{
		RuntimeDir: dir, Node: node, Replica: "own", Alive: func(replica string) bool { return replica != "dead" }, Audit: &log, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	<-orphan
	if last := log[len(log)-1]; last.Action != "unconfined_orphans_ended" || last.Details["count"] != 1 {
		t.Errorf("the last entry is %+v, want that one orphan was ended", last)
	}
	orphan = left(t, node+"/dead/2")
	others = append(others, left(t, node+"/own/1"))
	if _, err := e.Sweep(t.Context(), "", nil); err != nil {
		t.Fatal(err)
	}
	<-orphan
	for i, other := range others {
		select {
		case <-other:
			t.Errorf("other %d has been ended", i)
		default:
		}
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}
