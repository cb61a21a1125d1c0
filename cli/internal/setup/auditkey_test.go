package setup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rumi-ai/rumi/cli/internal/auditlog"
)

func TestKeyOfTheAuditLog(t *testing.T) {
	cfg := newHome(t)
	run(t, cfg)
	settings := filepath.Join(cfg.Home, "user_data/settings")
	private, public := filepath.Join(settings, auditlog.KeyDir, auditlog.KeyFile), filepath.Join(settings, auditlog.PublicKeyFile)
	read := func(path string) string {
		t.Helper()
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(data))
	}
	key := read(private)
	if derived, err := auditlog.PublicKey(key); err != nil || derived != read(public) {
		t.Errorf("the public key is %q, want %q, %v", read(public), derived, err)
	}
	if out, err := as(operatorUID, operatorGID, cfg.Home, "cat user_data/settings/audit_log.pub"); err != nil {
		t.Errorf("the operator can't read the public key: %s", out)
	}
	if out, err := as(operatorUID, operatorGID, cfg.Home, "cat user_data/settings/audit_log/signing_key"); err == nil {
		t.Errorf("the operator can read the signing key without being root: %s", out)
	}

	// A lost public key is made again from the private one.
	if err := os.Remove(public); err != nil {
		t.Fatal(err)
	}
	run(t, cfg)
	if derived, _ := auditlog.PublicKey(key); derived != read(public) {
		t.Errorf("the public key was restored as %q, want %q", read(public), derived)
	}

	// A lost private key isn't replaced once it has signed something.
	checkpoint := filepath.Join(cfg.Home, sealsDir, auditlog.CheckpointFile)
	if err := os.WriteFile(checkpoint, nil, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(private); err != nil {
		t.Fatal(err)
	}
	if log := run(t, cfg); !strings.Contains(log, "put it back from a backup") {
		t.Errorf("without the key: got %q, want what to do", log)
	}
	if _, err := os.Lstat(private); err == nil {
		t.Error("a new key was made, want none while there are seals of the old one")
	}
	if err := os.Remove(checkpoint); err != nil {
		t.Fatal(err)
	}
	run(t, cfg)
	if read(private) == key {
		t.Error("the old key is back, want a new one for a new log")
	}
}
