package setup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/tree"
)

// digest returns the digest of a folder's manifest, as approval computes it.
func digest(t *testing.T, dir string) string {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	manifest, err := tree.Scan(t.Context(), root, nil)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(manifest.Digest(), "sha256:")
}

// approve records a pack as approval does.
func approve(t *testing.T, cfg Config, dir string) {
	t.Helper()
	manifests := filepath.Join(cfg.Home, "user_data/approved/manifests")
	if err := os.MkdirAll(manifests, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(manifests, digest(t, dir)+".json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func mode(t *testing.T, path string) uint32 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Mode & 0o7777
}

// Copied the usual ways, a pack can be replaced and removed after the next start; others gain nothing.
func TestMendsPacksThatWereCopiedIn(t *testing.T) {
	cfg := newHome(t)
	run(t, cfg)
	if out, err := as(operatorUID, operatorGID, cfg.Home, "umask 022; mkdir -p source/sub && echo 1 >source/sub/f && cp /bin/true source/tool && chmod 700 source/sub && chmod 600 source/sub/f"); err != nil {
		t.Fatal(err, out)
	}
	for name, command := range map[string]string{"cp": "cp -r source ecosystem/cp", "archive": "cp -a source ecosystem/archive", "old": "mkdir -p ecosystem/packs && cp -r source ecosystem/packs/old"} {
		if out, err := as(operatorUID, operatorGID, cfg.Home, "umask 022; "+command); err != nil {
			t.Fatal(name, err, out)
		}
	}
	approved := filepath.Join(cfg.Home, "ecosystem/approved")
	if out, err := as(operatorUID, operatorGID, cfg.Home, "umask 022; cp -r source ecosystem/approved; echo 3 >ecosystem/approved/other; touch outside; chmod 600 outside; ln outside ecosystem/archive/linked"); err != nil {
		t.Fatal(err, out)
	}
	approve(t, cfg, approved)
	before := digest(t, approved)
	run(t, cfg)

	if got := digest(t, approved); got != before {
		t.Error("an approved pack is modified by init")
	}
	if got := mode(t, filepath.Join(cfg.Home, "outside")); got != 0o600 {
		t.Errorf("a file with a name outside of the pack has mode %04o, want 0600", got)
	}
	for path, others := range map[string]uint32{"ecosystem/cp": 5, "ecosystem/cp/sub": 0, "ecosystem/cp/sub/f": 0, "ecosystem/cp/tool": 5} {
		if got := mode(t, filepath.Join(cfg.Home, path)) & 7; got != others {
			t.Errorf("others may %o in %s, want %o", got, path, others)
		}
	}
	if log := run(t, cfg); log != "" {
		t.Errorf("the second run had something to say:\n%s", log)
	}
	for _, name := range []string{"cp", "archive", "packs/old"} {
		if out, err := as(serviceID, serviceID, cfg.Home, "cat ecosystem/"+name+"/sub/f && echo 2 >ecosystem/"+name+"/sub/f && rm -r ecosystem/"+name); err != nil {
			t.Errorf("the services can't read, change and remove %s: %v\n%s", name, err, out)
		}
	}
}

// Files that earlier versions closed to all but the service can be read by the operator, except secrets and keys.
func TestOpensServicesFilesToTheOperator(t *testing.T) {
	cfg := newHome(t)
	run(t, cfg)
	files := map[string]uint32{
		"approved/manifests/a.json": 0o640, "approved/bundles/b": 0o640, "capabilities/locks/p.lock": 0o640, "capabilities/replicas/r.alive": 0o640,
		"pip/x.lock": 0o640, "state/approval/approval.db": 0o640, "pending/summary.json": 0o640,
		"secrets/TOKEN.json": 0o600, "settings/identity/gateway/key.pem": 0o600, "capabilities/trees/t/f": 0o600, "packs/p/data": 0o600,
	}
	for name := range files {
		if out, err := as(serviceID, operatorGID, filepath.Join(cfg.Home, "user_data"), "mkdir -p "+filepath.Dir(name)+"; echo 1 >>"+name+"; chmod 600 "+name); err != nil {
			t.Fatal(name, err, out)
		}
	}
	run(t, cfg)
	for name, want := range files {
		path := filepath.Join(cfg.Home, "user_data", name)
		if got := mode(t, path); got != want {
			t.Errorf("%s has mode %04o, want %04o", name, got, want)
		}
		if out, err := as(operatorUID, operatorGID, cfg.Home, "cat "+path); (err == nil) != (want == 0o640) {
			t.Errorf("the operator reads %s: %v %s; want it possible: %v", name, err, out, want == 0o640)
		}
	}
}
