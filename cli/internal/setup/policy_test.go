package setup

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/policy"
)

func TestPolicyIsCopiedForTheServices(t *testing.T) {
	cfg := newHome(t)
	run(t, cfg)
	settings := filepath.Join(cfg.Home, "user_data/settings")
	path, copied := filepath.Join(settings, "policy.json"), filepath.Join(settings, "policy/policy.json")
	problem := copied + ".problem"
	content := func(name string) string { text, _ := os.ReadFile(name); return string(text) }
	if want := string(policy.None().Document()); content(path) != want || content(copied) != want {
		t.Fatalf("init: got %q and its copy %q, want %q", content(path), content(copied), want)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Uid != operatorUID || st.Gid != operatorGID || st.Mode&0o7777 != 0o640 {
		t.Errorf("the operator's file: got %d:%d %o, %v, want %d:%d 640", st.Uid, st.Gid, st.Mode&0o7777, err, operatorUID, operatorGID)
	}
	if err := unix.Stat(copied, &st); err != nil || st.Uid != serviceID || st.Gid != serviceID || st.Mode&0o7777 != 0o640 {
		t.Errorf("the copy: got %d:%d %o, %v, want %d:%d 640", st.Uid, st.Gid, st.Mode&0o7777, err, serviceID, serviceID)
	}
	stop := reconcile(t, cfg)
	const first = `{"version": 1, "pip": {"sdists": false}}`
	for _, c := range []struct{ what, command, copied, problem string }{
		{"written", "echo '" + first + "' > user_data/settings/policy.json", first, ""},
		{"a comma too many", `echo '{"version": 1,}' > user_data/settings/policy.json`, first, "line 1, column 14: a comma before }; the policy from before stays in force"},
		{"mended", "echo '" + first + " ' > user_data/settings/policy.json", first, ""},
		{"an unknown rule", `echo '{"version": 1, "injection": {}}' > user_data/settings/policy.json`, first, `"injection" is no rule of this version`},
	} {
		if out, err := as(operatorUID, operatorGID, cfg.Home, c.command); err != nil {
			t.Fatalf("%s: %v\n%s", c.what, err, out)
		}
		until(t, c.what, func() bool {
			return strings.TrimSpace(content(copied)) == c.copied && (c.problem == "") == (content(problem) == "") && strings.Contains(content(problem), c.problem)
		})
	}
	for what, command := range map[string]string{"a link": "ln -s /etc/hostname user_data/settings/policy.json", "a folder": "mkdir user_data/settings/policy.json", "removed": "true"} {
		if out, err := as(0, 0, cfg.Home, "rm -rf user_data/settings/policy.json; "+command); err != nil {
			t.Fatalf("%s: %v\n%s", what, err, out)
		}
		wanted := map[string]string{"removed": "was removed; the policy from before stays in force. To lift it write", "a folder": "no regular file"}[what]
		until(t, what, func() bool {
			return strings.TrimSpace(content(copied)) == first && strings.Contains(content(problem), "the policy from before stays in force") && strings.Contains(content(problem), wanted)
		})
		if strings.Contains(content(problem), cfg.Home) {
			t.Errorf("%s: got %q, want no path of this container", what, content(problem))
		}
	}
	stop()
	if log := run(t, cfg); !strings.Contains(log, "the policy can't be used") || strings.TrimSpace(content(copied)) != first {
		t.Errorf("init after a removal: got the copy %q and log %s, want the old copy", content(copied), log)
	}
	for _, old := range []string{copied, path} { // the last of the above may have left a link, which would be written through
		if err := os.RemoveAll(old); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, []byte("{"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := Run(cfg, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "user_data/settings/policy.json can't be used: line 1") {
		t.Errorf("init with a bad policy and no copy: got %v, want an error that names the file", err)
	}
}
