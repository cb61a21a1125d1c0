package setup

import (
	"bytes"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/identity"
	"github.com/rumi-ai/rumi/libs/keyset"
	"github.com/rumi-ai/rumi/libs/testenv"
)

const (
	operatorUID, operatorGID = 4001, 4002
	serviceID                = 1099
	socketGID                = 4010
)

// newHome is a fresh clone of an operator who isn't root. The tests need root, as `rumi init` does.
func newHome(t *testing.T) Config {
	t.Helper()
	testenv.NeedsRoot(t, "only it can give files to other users")
	top := t.TempDir()
	if err := os.Chmod(filepath.Dir(top), 0o755); err != nil {
		t.Fatal(err)
	}
	home := filepath.Join(top, "home")
	for _, dir := range []string{home, filepath.Join(home, "ecosystem"), filepath.Join(home, "user_data")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(dir, operatorUID, operatorGID); err != nil {
			t.Fatal(err)
		}
	}
	return Config{
		Home:              home,
		EgressSockets:     filepath.Join(top, "run/egress/packs"),
		CapabilitySockets: filepath.Join(top, "run/capability/principals"),
		UID:               serviceID,
		GID:               serviceID,
		EgressGID:         socketGID,
		CapabilityGID:     socketGID,
		Now:               time.Now(),
	}
}

func run(t *testing.T, cfg Config) (log string) {
	t.Helper()
	var out bytes.Buffer
	if err := Run(cfg, slog.New(slog.NewTextHandler(&out, nil))); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// as runs a shell command as another user with a umask that shuts everybody out.
func as(uid, gid int, dir, command string) (string, error) {
	cmd := exec.Command("/bin/sh", "-c", "umask 077; "+command)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// snapshot describes every file under dir: what it is, whose, and when its bytes and its inode changed last.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var out strings.Builder
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		_, err = fmt.Fprintf(&out, "%s %o %d:%d %v %v\n", path, st.Mode, st.Uid, st.Gid, st.Mtim, st.Ctim)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestOwnersAndModes(t *testing.T) {
	cfg := newHome(t)
	run(t, cfg)
	for _, c := range []struct {
		path     string
		mode     uint32
		uid, gid int
	}{
		{"ecosystem", 0o2775, operatorUID, serviceID},
		{"user_data", 0o2750, serviceID, operatorGID},
		{"user_data/approved", 0o2750, serviceID, operatorGID},
		{"user_data/audit", 0o2750, serviceID, operatorGID},
		{"user_data/audit_log", 0o2750, serviceID, operatorGID},
		{"user_data/settings/audit_log", 0o700, serviceID, serviceID},
		{"user_data/settings/audit_log/signing_key", 0o600, serviceID, serviceID},
		{"user_data/settings/audit_log.pub", 0o640, serviceID, operatorGID},
		{"user_data/capabilities/handlers", 0o2750, serviceID, operatorGID},
		{"user_data/import", 0o2770, operatorUID, operatorGID},
		{"user_data/packs", 0o2750, serviceID, operatorGID},
		{"user_data/shared", 0o2770, operatorUID, operatorGID},
		{"user_data/pending", 0o2750, serviceID, operatorGID},
		{"user_data/pip", 0o2750, serviceID, operatorGID},
		{"user_data/secrets", 0o700, serviceID, operatorGID},
		{"user_data/settings", 0o2750, serviceID, operatorGID},
		{"user_data/settings/api_token", 0o640, serviceID, operatorGID},
		{"user_data/settings/trace", 0o700, serviceID, serviceID},
		{"user_data/settings/trace/key", 0o600, serviceID, serviceID},
		{"user_data/monitoring/grafana", 0o2750, serviceID, operatorGID},
		{"user_data/monitoring/jaeger", 0o2750, serviceID, operatorGID},
		{"user_data/monitoring/prometheus", 0o2750, serviceID, operatorGID},
		{"user_data/settings/grafana", 0o2750, serviceID, operatorGID},
		{"user_data/settings/grafana/admin_password", 0o640, serviceID, operatorGID},
		{"user_data/settings/secrets_key", 0o600, serviceID, serviceID},
		{"user_data/settings/secrets", 0o700, serviceID, serviceID},
		{"user_data/settings/secrets/secrets_key", 0o600, serviceID, serviceID},
		{"user_data/settings/identity/authority", 0o700, serviceID, serviceID},
		{"user_data/settings/identity/authority/key.pem", 0o600, serviceID, serviceID},
		{"user_data/settings/identity/authority/certificates.json", 0o600, serviceID, serviceID},
		{"user_data/settings/identity/gateway", 0o700, serviceID, serviceID},
		{"user_data/settings/identity/gateway/identity.pem", 0o600, serviceID, serviceID},
		{"user_data/state/approval", 0o2750, serviceID, operatorGID},
		{"../run/egress/packs", 0o755, serviceID, socketGID},
		{"../run/capability/principals", 0o755, serviceID, socketGID},
	} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(cfg.Home, c.path), &st); err != nil {
			t.Errorf("inspect %s: got %v, want no error", c.path, err)
			continue
		}
		if st.Mode&0o7777 != c.mode || int(st.Uid) != c.uid || int(st.Gid) != c.gid {
			t.Errorf("%s is %04o %d:%d, want %04o %d:%d", c.path, st.Mode&0o7777, st.Uid, st.Gid, c.mode, c.uid, c.gid)
		}
	}
}

func TestKeysWork(t *testing.T) {
	cfg := newHome(t)
	run(t, cfg)
	settings := filepath.Join(cfg.Home, "user_data/settings")
	token, err := os.ReadFile(filepath.Join(settings, "api_token"))
	if err != nil || len(token) != 64 {
		t.Errorf("the API token has %d characters (%v), want 64 for 256 bits", len(token), err)
	}
	password, err := os.ReadFile(filepath.Join(settings, "grafana/admin_password"))
	if err != nil || len(password) < 22 || strings.ContainsAny(string(password), " \n") {
		t.Errorf("the password of Grafana has %d characters (%v), want 22 at least without white space", len(password), err)
	}
	if _, err := keyset.Load(filepath.Join(settings, "secrets_key")); err != nil {
		t.Errorf("got %v, want no error", err)
	}
	for _, name := range Services {
		id, err := identity.Load(filepath.Join(settings, "identity", name))
		if err != nil || id.Name != name {
			t.Errorf("the identity of %s: %v, %v; want one of this name", name, id, err)
			continue
		}
		if home, err := identity.ReadHome(filepath.Join(settings, "home_id")); err != nil || id.Home != home {
			t.Errorf("home of %s is %q, the home's own %q, %v", name, id.Home, home, err)
		}
	}
}

func TestAgainChangesNothing(t *testing.T) {
	cfg := newHome(t)
	run(t, cfg)
	before := snapshot(t, filepath.Dir(cfg.Home))
	if log := run(t, cfg); log != "" {
		t.Errorf("the second run had something to say:\n%s", log)
	}
	after := snapshot(t, filepath.Dir(cfg.Home))
	for line := range strings.Lines(after) {
		if !strings.Contains(before, line) {
			t.Errorf("the second run changed or made %s", line)
		}
	}
}

// The pack lies there as it was approved: nothing of it changes.
func TestMendsFoldersAndNoApprovedPack(t *testing.T) {
	cfg := newHome(t)
	run(t, cfg)
	pack := filepath.Join(cfg.Home, "ecosystem/pack")
	if err := os.Mkdir(pack, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(pack, 1, 2); err != nil {
		t.Fatal(err)
	}
	approve(t, cfg, pack)
	inside := snapshot(t, pack)
	for _, path := range []string{"ecosystem", "user_data/secrets", "user_data/settings"} {
		if err := os.Chown(filepath.Join(cfg.Home, path), 0, 0); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(cfg.Home, path), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	run(t, cfg)
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(cfg.Home, "user_data/secrets"), &st); err != nil {
		t.Fatal(err)
	}
	if st.Mode&0o7777 != 0o700 || st.Uid != serviceID {
		t.Errorf("user_data/secrets was left as %04o of %d", st.Mode&0o7777, st.Uid)
	}
	if got := snapshot(t, pack); got != inside {
		t.Errorf("a pack was changed from\n%sto\n%s", inside, got)
	}
}

func TestRenewsOldCertificatesOnly(t *testing.T) {
	cfg := newHome(t)
	run(t, cfg)
	settings := filepath.Join(cfg.Home, "user_data/settings")
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(settings, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	kept := []string{"api_token", "secrets_key", "identity/authority/key.pem", "identity/authority/ca.pem"}
	before := map[string]string{}
	for _, name := range append(slices.Clone(kept), "identity/secrets/identity.pem") {
		before[name] = read(name)
	}

	cfg.Now = cfg.Now.Add(identity.MaxLife/2 - 2*time.Hour)
	if log := run(t, cfg); strings.Contains(log, "certificate issued") {
		t.Errorf("want no new certificate before the half of their life, got:\n%s", log)
	}
	cfg.Now = cfg.Now.Add(3 * time.Hour)
	if log := run(t, cfg); strings.Count(log, "certificate issued") != len(Services) {
		t.Errorf("want a new certificate for each service, got:\n%s", log)
	}
	if read("identity/secrets/identity.pem") == before["identity/secrets/identity.pem"] {
		t.Error("the certificate was not renewed")
	}
	for _, name := range kept {
		if read(name) != before[name] {
			t.Errorf("%s was replaced, want it kept", name)
		}
	}
}

// What the operator copies in can be replaced by the services, and the other way round, under any umask.
func TestSharing(t *testing.T) {
	cfg := newHome(t)
	run(t, cfg)
	for _, c := range []struct {
		name            string
		uid, gid        int
		command         string
		thenUID, thenGD int
		then            string
	}{
		{"a service replaces what the operator copied in",
			operatorUID, operatorGID, "mkdir -p ecosystem/a/b && echo 1 >ecosystem/a/b/f",
			serviceID, serviceID, "echo 2 >>ecosystem/a/b/f && rm -r ecosystem/a"},
		{"the operator edits what a service put there",
			serviceID, serviceID, "mkdir -p ecosystem/c/d && echo 1 >ecosystem/c/d/f",
			operatorUID, operatorGID, "echo 2 >>ecosystem/c/d/f && rm -r ecosystem/c"},
		{"a service reads what is to be imported",
			operatorUID, operatorGID, "mkdir user_data/import/e && echo 1 >user_data/import/e/f",
			serviceID, serviceID, "cat user_data/import/e/f"},
		{"the broker makes a folder to share",
			serviceID, serviceID, "mkdir -p user_data/shared/g",
			operatorUID, operatorGID, "echo 1 >user_data/shared/g/f"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if out, err := as(c.uid, c.gid, cfg.Home, c.command); err != nil {
				t.Fatalf("%s: %v\n%s", c.command, err, out)
			}
			if out, err := as(c.thenUID, c.thenGD, cfg.Home, c.then); err != nil {
				t.Fatalf("%s: %v\n%s", c.then, err, out)
			}
		})
	}
}

func TestWhatOthersMayNotReach(t *testing.T) {
	cfg := newHome(t)
	run(t, cfg)
	const stranger = 4999
	for _, c := range []struct {
		uid, gid int
		command  string
	}{
		{operatorUID, operatorGID, "cat user_data/settings/secrets_key"},
		{operatorUID, operatorGID, "ls user_data/secrets"},
		{operatorUID, operatorGID, "cat user_data/settings/identity/authority/key.pem"},
		{stranger, stranger, "cat user_data/settings/api_token"},
		{stranger, stranger, "ls user_data"},
		{stranger, stranger, "touch ecosystem/x"},
		{stranger, stranger, "ls user_data/packs"},
		{handlerUID, handlerUID, "ls user_data/shared"},
	} {
		if out, err := as(c.uid, c.gid, cfg.Home, c.command); err == nil {
			t.Errorf("user %d can run %q, want it refused:\n%s", c.uid, c.command, out)
		}
	}
	if out, err := as(operatorUID, operatorGID, cfg.Home, "cat user_data/settings/api_token"); err != nil {
		t.Errorf("the operator reads the token: %v\n%s", err, out)
	}
}

func TestRefusesLinksInPlaceOfFolders(t *testing.T) {
	cfg := newHome(t)
	target := filepath.Join(cfg.Home, "elsewhere")
	if err := os.Mkdir(target, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../elsewhere", filepath.Join(cfg.Home, "user_data/audit")); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, target)
	if err := Run(cfg, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "audit") {
		t.Errorf("a link in place of user_data/audit: %v, want an error that names it", err)
	}
	if after := snapshot(t, target); after != before {
		t.Errorf("the link was followed: %s became %s", before, after)
	}
}
