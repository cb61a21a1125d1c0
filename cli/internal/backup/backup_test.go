package backup

import (
	"context"
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/rumi-ai/rumi/cli/internal/setup"
)

func base64of(data []byte) string { return base64.StdEncoding.EncodeToString(data) }

// target is where another machine restores to: another operator, another user of the services.
func (h *home) target() Target {
	dir := filepath.Join(h.temp, "elsewhere-"+time.Now().Format("150405.000000000"))
	must(h.t, os.Mkdir(dir, 0o755), os.Chown(dir, 7001, 7002))
	return Target{Home: dir, UID: otherID, GID: otherID, Now: time.Now()}
}

// What comes back on another machine is what there was: contents, modes, and whose it is there.
func TestBackUpAndRestore(t *testing.T) {
	h := newHome(t)
	h.fill()
	file, report := h.create(h.options())
	if !report.OK || len(report.Databases) != 5 || report.Databases[0].Version != 1 || report.Databases[0].Tables["records"] != 2 {
		t.Fatalf("the report is %+v, want it ok, with five databases and two records", report)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v; want mode 0600", info.Mode(), err)
	}
	target := h.target()
	restored, err := Restore(t.Context(), h.source(file), target)
	must(t, err)
	if !restored.OK || restored.SetAside != "" {
		t.Errorf("restored %+v, want it ok, and nothing set aside", restored)
	}
	h.compare(target)
	if n := rows(t, target.Home, "approval", `SELECT COUNT(*) FROM records`); n != 2 {
		t.Errorf("%d records after the restore, want 2", n)
	}
	cfg := h.config(otherID)
	cfg.Home, cfg.EgressSockets, cfg.CapabilitySockets = target.Home, h.temp+"/other/egress", h.temp+"/other/capability"
	must(t, setup.Run(cfg, h.log)) // init finds nothing to make anew
	before, after := h.path(keyPath), filepath.Join(target.Home, keyPath)
	if a, b := read(t, before), read(t, after); a != b {
		t.Error("init on the other machine made another key of the secrets")
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	return string(data)
}

// compare compares a restored home with h.
func (h *home) compare(target Target) {
	h.t.Helper()
	want, got := listing(h.t, h.dir), listing(h.t, target.Home)
	for name, was := range want {
		a, ok := areaOf(name)
		lost := !ok || a.how == leftOut || transient(name) || strings.HasSuffix(name, "/fifo")
		is, there := got[name]
		if lost == there && name != "." {
			h.t.Errorf("%s: there after the restore: %v, want %v", name, there, !lost)
		}
		for from, to := range map[string]string{" 4001:": " 7001:", ":4002": ":7002", " 1099:": " 2099:", ":1099": ":2099"} {
			was = strings.Replace(was, from, to, 1)
		}
		if there && name != "." && is != was && !strings.HasPrefix(name, "user_data/audit/system") {
			h.t.Errorf("%s is %s after the restore, want %s", name, is, was)
		}
	}
	if text := read(h.t, filepath.Join(target.Home, "user_data/audit/system_2026-01-01.jsonl")); text != "{\"a\":1}\n{\"b\":2}\n" {
		h.t.Errorf("the audit log is %q, want its two whole lines", text)
	}
}

// Packs that ran are due to be started after a restore, and no others: their containers are gone, and nobody has removed those on purpose.
func TestPacksThatRanStartAgain(t *testing.T) {
	h := newHome(t)
	h.fill()
	for id, record := range map[string]string{
		"ran":     `{"pack_id":"ran","wanted":true,"running":true,"engine_id":"e","later":{"x":1}}`,
		"stopped": `{"pack_id":"stopped","wanted":false,"running":false}`,
		"ended":   `{"pack_id":"ended","wanted":true,"running":false,"reason":"exited"}`,
		"damaged": `{`,
	} {
		h.exec("capability-broker", `INSERT INTO capability_containers VALUES ('n', ?, ?)`, id, record)
	}
	file, _ := h.create(h.options())
	target := h.target()
	restored, err := Restore(t.Context(), h.source(file), target)
	must(t, err)
	if restored.Woken != 1 {
		t.Errorf("%d packs are to be started, want the one that ran", restored.Woken)
	}
	due := `record LIKE '%"restart_at":"2000-01-01T00:00:00Z"%' AND record LIKE '%"running":false%' AND record LIKE '%"later":{"x":1}%'`
	if n := rows(t, target.Home, "capability-broker", `SELECT COUNT(*) FROM capability_containers WHERE pack_id = 'ran' AND `+due); n != 1 {
		t.Errorf("%d records of the pack that ran are due with all their members, want 1", n)
	}
	if n := rows(t, target.Home, "capability-broker", `SELECT COUNT(*) FROM capability_containers WHERE record LIKE '%restart_at%'`); n != 1 {
		t.Errorf("%d records are due, want 1", n)
	}
}

// Every folder that init makes is taken, or named as left out with a reason.
func TestEveryFolderOfTheHomeIsDeclared(t *testing.T) {
	h := newHome(t)
	must(t, filepath.WalkDir(h.path("user_data"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		name, err := filepath.Rel(h.dir, path)
		if a, ok := areaOf(name); name != "user_data" && (!ok || a.path == "user_data") {
			t.Errorf("init makes %s, and area.go doesn't say how it is backed up", name)
		}
		return err
	}))
	for _, a := range areas {
		if (a.how == leftOut) == (a.why == "") {
			t.Errorf("%s: left out: %v, reason %q; want a reason exactly for what is left out", a.path, a.how == leftOut, a.why)
		}
	}
}

func TestRefusals(t *testing.T) {
	h := newHome(t)
	h.fill()
	file, _ := h.create(h.options())
	stranger, err := age.GenerateX25519Identity()
	must(t, err)
	other := h.source(file)
	other.Identities = []age.Identity{stranger}
	_, twice := Create(t.Context(), file, false, h.options())
	_, within := Create(t.Context(), h.path("user_data/shared/x.age"), false, h.options())
	nobody := h.options()
	nobody.Recipients = nil
	_, unencrypted := Create(t.Context(), file+"2", false, nobody)
	_, wrongKey := Verify(t.Context(), other)
	_, running := Restore(t.Context(), h.source(file), Target{Home: h.dir, Force: true, Now: time.Now()})
	h.stop()
	_, used := Restore(t.Context(), h.source(file), Target{Home: h.dir, Now: time.Now()})
	for _, c := range []struct {
		name, want string
		err        error
	}{
		{"a file that exists", "--force", twice},
		{"a folder that is backed up", "outside of ecosystem/ and user_data/", within},
		{"for nobody", "--recipient", unencrypted},
		{"another key", "does not open it", wrongKey},
		{"a home whose suite runs", "docker compose down", running},
		{"a home in use", "--force", used},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", c.name, c.err, c.want)
		}
	}
}

// With force the present home is set aside, whole.
func TestRestoreOverAHome(t *testing.T) {
	h := newHome(t)
	h.fill()
	file, _ := h.create(h.options())
	h.write("user_data/shared/lent/later", "later")
	h.stop()
	restored, err := Restore(t.Context(), h.source(file), Target{Home: h.dir, UID: serviceID, GID: serviceID, Force: true, Now: time.Now()})
	must(t, err)
	if text := read(t, filepath.Join(restored.SetAside, "user_data/shared/lent/later")); text != "later" {
		t.Errorf("what was there is %q, want it set aside", text)
	}
	if _, err := os.Stat(h.path("user_data/shared/lent/later")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file from after the backup: %v, want it gone", err)
	}
	if read(t, h.path(".env.restored")) != "RUMI_PORT=9\n" || len(restored.Beside) != 1 {
		t.Errorf("beside: %v, want .env.restored", restored.Beside)
	}
}

// Each harm to one thing is named, and nothing else is.
func TestVerificationNamesWhatDoesNotFit(t *testing.T) {
	for name, c := range map[string]struct {
		harm  func(h *home)
		check string
		path  string
	}{
		"a blob is missing": {func(h *home) {
			names, err := filepath.Glob(h.path("user_data/approved/bundles/*"))
			must(h.t, err, os.Remove(names[0]))
		}, checkApproved, ""},
		"the manifest of an approved pack is missing": {func(h *home) {
			h.exec("approval", `UPDATE records SET digest = 'sha256:00', status = 'blocked' WHERE pack_id = 'alpha'`)
		}, checkApproved, "alpha"},
		"a pack was changed":     {func(h *home) { h.write("ecosystem/alpha/main.py", "evil") }, checkPack, "alpha"},
		"a handler was changed":  {func(h *home) { h.write("user_data/capabilities/handlers/alpha/sum/handler.py", "evil") }, checkHandler, "alpha/sum"},
		"a handler is missing":   {func(h *home) { must(h.t, os.RemoveAll(h.path(handlersDir, "alpha"))) }, checkHandler, "alpha/sum"},
		"an environment is gone": {func(h *home) { must(h.t, os.RemoveAll(h.path(environmentsDir))) }, checkEnvironment, ""},
		"a grant to nobody":      {func(h *home) { h.exec("egress-proxy", `INSERT INTO network_grants VALUES ('nobody')`) }, checkGrant, "nobody"},
		"a secret is damaged":    {func(h *home) { h.write("user_data/secrets/TOKEN.json", `{"key":"TOKEN","sealed":"AAAA"}`) }, checkSecret, "TOKEN"},
		"an import has no files": {func(h *home) { h.exec("pack-registry", `INSERT INTO staging VALUES ('abc')`) }, checkStaging, "abc"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHome(t)
			h.fill()
			c.harm(h)
			file, report := h.create(h.options())
			again, err := Verify(t.Context(), h.source(file))
			must(t, err)
			for _, r := range []Report{report, again} {
				if len(r.Problems) != 1 || r.Problems[0].Check != c.check || c.path != "" && r.Problems[0].Path != c.path || r.Damaged() {
					t.Errorf("problems are %+v, want one of %s about %s", r.Problems, c.check, c.path)
				}
				if r.OK != r.Problems[0].Warning {
					t.Errorf("ok is %v with %+v", r.OK, r.Problems)
				}
			}
			if text := again.Problems[0].String(); strings.Contains(text, "hunter2") {
				t.Errorf("a message has a secret in it: %s", text)
			}
		})
	}
}

// Whatever is done to the file is found out before anything is changed.
func TestDamagedFiles(t *testing.T) {
	h := newHome(t)
	h.fill()
	file, _ := h.create(h.options())
	data := []byte(read(t, file))
	for name, harm := range map[string]func() []byte{
		"cut off":         func() []byte { return data[:len(data)-100] },
		"cut in half":     func() []byte { return data[:len(data)/2] },
		"one bit":         func() []byte { d := append([]byte(nil), data...); d[len(d)/2] ^= 1; return d },
		"the last bit":    func() []byte { d := append([]byte(nil), data...); d[len(d)-1] ^= 1; return d },
		"something after": func() []byte { return append(append([]byte(nil), data...), "more"...) },
		"empty":           func() []byte { return nil },
	} {
		bad := filepath.Join(h.temp, "bad.age")
		must(t, os.WriteFile(bad, harm(), 0o600))
		report, err := Verify(t.Context(), h.source(bad))
		if err == nil && (report.OK || !report.Damaged()) {
			t.Errorf("%s: the report is %+v, want damage", name, report.Problems)
		}
		target := h.target()
		if _, err := Restore(context.Background(), h.source(bad), target); err == nil {
			t.Errorf("%s: it was restored", name)
		}
		if left, err := os.ReadDir(target.Home); err != nil || len(left) != 0 {
			t.Errorf("%s: the target has %v, %v; want nothing", name, left, err)
		}
	}
}
