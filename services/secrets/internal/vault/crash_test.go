package vault

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	api "github.com/rumi-ai/rumi/api/secrets"
	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/keyset"
)

// steps are all the places where a change can be cut short.
var steps = []string{"half written", "prepared", "journaled", "audited", "renamed"}

// childHome and childStep make the test binary a writer that dies: with a step, at its third change there; without one,
// whenever the parent kills it.
const (
	childHome = "VAULT_TEST_HOME"
	childStep = "VAULT_TEST_STEP"
)

func TestMain(m *testing.M) {
	if base := os.Getenv(childHome); base != "" {
		if err := writeUntilKilled(base, os.Getenv(childStep)); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// writeUntilKilled sets COUNTER to 1, 2, 3, … and says so after each; every third time it deletes the key first.
func writeUntilKilled(base, dieAt string) error {
	cipher, err := keyset.Load(filepath.Join(base, "secrets_key"))
	if err != nil {
		return err
	}
	log := slog.New(slog.DiscardHandler)
	entries, err := audit.Open(filepath.Join(base, "audit"), "secrets", log)
	if err != nil {
		return err
	}
	v, err := Open(context.Background(), filepath.Join(base, "secrets"), cipher, entries, log, prometheus.NewRegistry())
	if err != nil {
		return err
	}
	changes := 0
	v.onStep = func(step string) {
		if step == steps[0] {
			changes++
		}
		if step == dieAt && changes == 3 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	for i := 1; i < 100_000; i++ {
		if i%3 == 0 {
			if err := v.Delete(context.Background(), "COUNTER"); err != nil {
				return err
			}
			fmt.Println("deleted", i)
		}
		if _, err := v.Set(context.Background(), "COUNTER", api.NewValue(strconv.Itoa(i))); err != nil {
			return err
		}
		fmt.Println("set", i)
	}
	return nil
}

// TestKill: whenever a writer is killed, the next start sees the last acknowledged state or the one that was being
// written, whole; the journal has a line for every acknowledged change; and writing goes on.
func TestKill(t *testing.T) {
	for _, step := range steps {
		t.Run("at "+step, func(t *testing.T) { killAndLook(t, step, 0) })
	}
	for i := range 5 {
		t.Run(fmt.Sprintf("at random %d", i), func(t *testing.T) { killAndLook(t, "", time.Duration(7+13*i)*time.Millisecond) })
	}
}

func killAndLook(t *testing.T, step string, after time.Duration) {
	base := t.TempDir()
	if err := keyset.Create(filepath.Join(base, "secrets_key")); err != nil {
		t.Fatal(err)
	}
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childHome+"="+base, childStep+"="+step)
	child.Stderr = t.Output()
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var acked []string
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if len(acked) == 0 && step == "" {
			time.AfterFunc(after, func() { _ = child.Process.Kill() })
		}
		acked = append(acked, lines.Text())
	}
	err = child.Wait()
	if status := child.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() {
		t.Fatalf("the child was not killed: %v", err)
	}
	if len(acked) == 0 {
		t.Fatal("the child acknowledged nothing")
	}

	h := &home{dir: filepath.Join(base, "secrets"), audit: filepath.Join(base, "audit"), logs: nil}
	if h.cipher, err = keyset.Load(filepath.Join(base, "secrets_key")); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	entries, err := audit.Open(h.audit, "secrets", log)
	if err != nil {
		t.Fatal(err)
	}
	defer entries.Close()
	v, err := Open(t.Context(), h.dir, h.cipher, entries, log, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()

	verb, number, _ := strings.Cut(acked[len(acked)-1], " ")
	last, err := strconv.Atoi(number)
	if err != nil {
		t.Fatal(err)
	}
	// What may be there: the acknowledged state, or the one that comes after it.
	may := map[string]bool{}
	switch {
	case verb == "deleted":
		may["missing"], may[strconv.Itoa(last)] = true, true
	case (last+1)%3 == 0:
		may[strconv.Itoa(last)], may["missing"] = true, true
	default:
		may[strconv.Itoa(last)], may[strconv.Itoa(last+1)] = true, true
	}
	value, err := v.Value(t.Context(), "COUNTER")
	got := value.Reveal()
	if fault.Is(err, fault.KindNotFound) {
		got, err = "missing", nil
	}
	if err != nil || !may[got] {
		t.Fatalf("after %q the value is %q, %v; want one of %v", acked[len(acked)-1], got, err, may)
	}
	if found := len(h.journal(t)); found != len(acked) && found != len(acked)+1 {
		t.Fatalf("the journal has %d lines for %d acknowledged changes", found, len(acked))
	}
	names, err := v.names()
	if err != nil || len(names) != 3 {
		t.Fatalf("the folder holds %v, %v; want the secret, the journal and the lock", names, err)
	}
	set(t, v, "COUNTER", "goes on")
	wantValue(t, v, "COUNTER", "goes on")
}
