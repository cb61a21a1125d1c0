package container

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/sandbox"
	"github.com/rumi-ai/rumi/libs/testenv"
)

// as runs a shell command as another user, who sees dir where it is.
func as(t *testing.T, uid, gid int, dir, command string) error {
	t.Helper()
	testenv.NeedsImage(t, "rumi-pack:local", "make images")
	out, err := exec.Command("docker", "run", "--rm", "--network", "none", "--user", fmt.Sprintf("%d:%d", uid, gid),
		"--volume", dir+":"+dir, "--entrypoint", "/bin/sh", "rumi-pack:local", "-c", command).CombinedOutput()
	t.Logf("%d:%d %s: %s%v", uid, gid, command, out, err)
	return err
}

// The pack writes, the operator's group reads, others do neither, and this process may take everything away.
func TestDataFolder(t *testing.T) {
	root, err := os.MkdirTemp("", "data")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(root, 0o751); err != nil {
		t.Fatal(err)
	}
	dir, err := prepareData(root, "p")
	if err != nil {
		t.Fatal(err)
	}
	const somebody = 2001
	operators := os.Getgid()
	for _, c := range []struct {
		uid, gid int
		command  string
		may      bool
	}{
		{sandbox.UID, sandbox.GID, "umask 022; mkdir " + dir + "/sub && echo x > " + dir + "/sub/f", true},
		{sandbox.UID, sandbox.GID, "chmod 777 " + dir, false},
		{sandbox.UID, sandbox.GID, "umask 077; echo hidden > " + dir + "/g", true},
		{somebody, operators, "ls " + dir + "/sub && cat " + dir + "/sub/f", true},
		{somebody, operators, "echo y > " + dir + "/sub/f", false},
		{somebody, somebody, "ls " + dir, false},
		{somebody, somebody, "cat " + dir + "/sub/f", false},
	} {
		if err := as(t, c.uid, c.gid, root, c.command); (err == nil) != c.may {
			t.Errorf("%d:%d: %s: %v", c.uid, c.gid, c.command, err)
		}
	}
	if _, err := prepareData(root, "p"); err != nil {
		t.Errorf("a second time: %v", err)
	}
	if err := os.Symlink("/etc", filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := prepareData(root, "link"); err == nil {
		t.Error("a link was taken for a folder")
	}
	if err := os.RemoveAll(root); err != nil {
		t.Errorf("the pack's files can't be removed: %v", err)
	}
}

// keep gives a pack data and has it put aside.
func keep(t *testing.T, root string, now time.Time) string {
	t.Helper()
	dir := filepath.Join(root, "p")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, "f"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	to, err := archive(root, "p", now)
	if err != nil {
		t.Fatal(err)
	}
	name, below := strings.CutPrefix(to, "user_data/packs/.uninstalled/p/")
	if _, err := os.Stat(filepath.Join(root, uninstalledName, "p", name, "f")); err != nil || !below {
		t.Errorf("kept in %s, %v", to, err)
	}
	return name
}

func TestRetiredDataNeverCollides(t *testing.T) {
	root := t.TempDir()
	now := time.Date(2027, 1, 2, 3, 4, 5, 6, time.UTC)
	for range 2 {
		keep(t, root, now)
	}
	if to, err := archive(root, "p", now); err != nil || to != "" {
		t.Errorf("nothing to retire: %q, %v", to, err)
	}
	if err := os.Mkdir(filepath.Join(root, "p"), 0o755); err != nil {
		t.Fatal(err)
	}
	if to, err := archive(root, "p", now); err != nil || to != "" {
		t.Errorf("an empty folder: %q, %v", to, err)
	}
}

// The newest is what was put aside last, whatever the clock said then.
func TestOldRetiredDataIsPruned(t *testing.T) {
	root := t.TempDir()
	now := time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC)
	if err := os.MkdirAll(filepath.Join(root, uninstalledName, "p", "20290102T030405.000000000Z"), 0o755); err != nil { // an earlier version's
		t.Fatal(err)
	}
	keep(t, root, now.AddDate(2, 0, 0)) // by a clock that was ahead
	second, third := keep(t, root, now), keep(t, root, now.AddDate(-1, 0, 0))
	if pruned, err := pruneArchived(root, "p", 2); err != nil || len(pruned) != 2 {
		t.Errorf("pruned %v, %v, want two", pruned, err)
	}
	kept, err := listArchived(root, "p")
	if err != nil || len(kept) != 2 || kept[0].name != second || kept[1].name != third {
		t.Errorf("kept %v, %v, want %s and %s", kept, err, second, third)
	}
}

// A pack gets the newest again, and nothing in the place of what it has or uses.
func TestDataIsRestored(t *testing.T) {
	run(t, func(t *testing.T, r *rig) {
		restore := func(what, want, from string) {
			t.Helper()
			got, err := r.RestoreData(t.Context(), "p")
			if code := fault.Of(err).Code; (want == "") != (err == nil) || want != "" && code != want || got != from {
				t.Errorf("%s: %q, %v, want %q, code %q", what, got, err, from, want)
			}
		}
		restore("nothing", "no_data_kept", "")
		keep(t, r.DataDir, time.Now())
		newest := keep(t, r.DataDir, time.Now())
		r.started(t, "p", "d1")
		restore("while it runs", "pack_running", "")
		if _, err := r.Stop(t.Context(), "p"); err != nil {
			t.Fatal(err)
		}
		restore("empty", "", "user_data/packs/.uninstalled/p/"+newest)
		if _, err := os.Stat(filepath.Join(r.DataDir, "p", "f")); err != nil {
			t.Error(err)
		}
		restore("again", "data_exists", "")
	}, func(c *Config) { c.DataKept = 5 })
}
