package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/cli/internal/auditlog"
)

// asCommand makes the test's program behave as `rumi`.
const asCommand = "RUMI_TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// rumi runs the command and returns its exit status, what it printed, and its complaints.
func rumi(t *testing.T, stdin string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), asCommand+"=1")
	cmd.Stdin = strings.NewReader(stdin)
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	var exit *exec.ExitError
	if err := cmd.Run(); errors.As(err, &exit) {
		status = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	return status, out.String(), complaints.String()
}

// sealedHome is a home with 20 sealed lines.
func sealedHome(t *testing.T) (home, file string) {
	t.Helper()
	home = t.TempDir()
	for _, dir := range []string{"user_data/audit", "user_data/audit_log", "user_data/seal_status", "user_data/settings/audit_log"} {
		if err := os.MkdirAll(filepath.Join(home, dir), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	private, public, err := auditlog.NewKey(strings.Repeat("0a", 16))
	if err != nil {
		t.Fatal(err)
	}
	file = "security_" + time.Now().UTC().Format(time.DateOnly) + ".jsonl"
	var lines strings.Builder
	for n := range 20 {
		fmt.Fprintf(&lines, `{"ts":%q,"request_id":"R%d"}`+"\n", time.Now().UTC().Format("2006-01-02T15:04:05.000000Z"), n/2)
	}
	for name, text := range map[string]string{
		"user_data/settings/audit_log/signing_key": private + "\n", "user_data/settings/audit_log.pub": public + "\n", "user_data/audit/" + file: lines.String(),
	} {
		if err := os.WriteFile(filepath.Join(home, name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	seal(t, home)
	return home, file
}

// seal runs a sealer until it has sealed what is there.
func seal(t *testing.T, home string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // it makes one pass all the same
	cfg := auditlog.Config{Audit: filepath.Join(home, "user_data/audit"), Log: filepath.Join(home, "user_data/audit_log"), Status: filepath.Join(home, "user_data/seal_status"),
		KeyFile: filepath.Join(home, "user_data/settings/audit_log/signing_key"), Interval: time.Second}
	if err := auditlog.Run(ctx, cfg, slog.New(slog.NewTextHandler(t.Output(), nil))); err != nil {
		t.Fatal(err)
	}
}

func TestVerifySaysByItsStatusWhetherAllIsWell(t *testing.T) {
	home, file := sealedHome(t)
	if status, out, complaint := rumi(t, "", "audit", "verify", "--home", home); status != 0 || !strings.Contains(out, "is as it was sealed: 20 lines of 1 files") {
		t.Errorf("unchanged: status %d, %s%s; want 0 and 20 lines", status, out, complaint)
	}
	_, kept, _ := rumi(t, "", "audit", "checkpoint", "--home", home)
	if status, out, complaint := rumi(t, kept, "audit", "verify", "--home", home, "--checkpoint", "-"); status != 0 {
		t.Errorf("with a checkpoint from standard input: status %d, %s%s; want 0", status, out, complaint)
	}
	path := filepath.Join(home, "user_data/audit", file)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.Replace(text, []byte("R2"), []byte("R3"), 1), 0o640); err != nil {
		t.Fatal(err)
	}
	want := "changed: " + file + ", line 5: the line has another content than when it was sealed\n"
	if status, out, _ := rumi(t, "", "audit", "verify", "--home", home); status != 1 || !strings.HasPrefix(out, want) {
		t.Errorf("changed: status %d, %s; want 1 and %s", status, out, want)
	}
	if status, out, _ := rumi(t, "", "audit", "verify", "--home", home, "--json"); status != 1 || !strings.Contains(out, `"kind": "changed"`) {
		t.Errorf("changed, as JSON: status %d, %s; want 1 and the kind", status, out)
	}
	for name, args := range map[string][]string{
		"no home":        {"--home", t.TempDir()},
		"no checkpoint":  {"--home", home, "--checkpoint", filepath.Join(home, "missing")},
		"no date":        {"--home", home, "--removed-before", "yesterday"},
		"a wrong public": {"--home", home, "--key", path},
	} {
		if status, out, complaint := rumi(t, "", append([]string{"audit", "verify"}, args...)...); status != 2 || !strings.Contains(complaint, "can't be verified") {
			t.Errorf("%s: status %d, %s%s; want 2 and why", name, status, out, complaint)
		}
	}
}

func TestProofsLeaveTheMachine(t *testing.T) {
	home, file := sealedHome(t)
	_, kept, _ := rumi(t, "", "audit", "checkpoint", "--home", home)
	key := filepath.Join(t.TempDir(), "key")
	public, err := os.ReadFile(filepath.Join(home, "user_data/settings/audit_log.pub"))
	if err == nil {
		err = os.WriteFile(key, public, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	_, one, _ := rumi(t, "", "audit", "prove", "--home", home, file+":7")
	_, two, _ := rumi(t, "", "audit", "prove", "--home", home, "--request-id", "R9")
	_, extends, _ := rumi(t, kept, "audit", "prove", "--home", home, "--extends", "-")
	if err := os.RemoveAll(home); err != nil {
		t.Fatal(err)
	}
	status, out, complaint := rumi(t, one+two+extends, "audit", "verify-proof", "--key", key)
	if status != 0 || strings.Count(out, "proven: ") != 4 || !strings.Contains(out, "line 7 of "+file) || strings.Count(out, `"request_id":"R9"`) != 2 {
		t.Errorf("status %d, %s%s; want four proofs", status, out, complaint)
	}
	if status, out, complaint := rumi(t, strings.Replace(one, "R3", "R4", 1), "audit", "verify-proof", "--key", key); status != 1 {
		t.Errorf("a forged one: status %d, %s%s; want 1", status, out, complaint)
	}
}

// `RUMI_X=` in .env is the same as no RUMI_X.
func TestEmptySettingsAreNone(t *testing.T) {
	home, _ := sealedHome(t)
	t.Setenv("RUMI_AUDIT_CHECKPOINT_INTERVAL", "")
	if status, out, complaint := rumi(t, "", "audit", "seal", "--home", home, "--interval", "1ms"); status == 0 || !strings.Contains(complaint, "--interval=1ms is too short") {
		t.Errorf("status %d, %s%s; want only a complaint about the interval", status, out, complaint)
	}
}
