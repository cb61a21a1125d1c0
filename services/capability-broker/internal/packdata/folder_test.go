package packdata

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

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
	dir, err := Prepare(root, "p")
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
			t.Errorf("%d:%d: %s: %v; want it allowed: %v", c.uid, c.gid, c.command, err, c.may)
		}
	}
	if _, err := Prepare(root, "p"); err != nil {
		t.Errorf("a second time: %v", err)
	}
	if err := os.Symlink("/etc", filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := Prepare(root, "link"); err == nil {
		t.Error("a link was taken for a folder")
	}
	if err := os.RemoveAll(root); err != nil {
		t.Errorf("the pack's files can't be removed: %v", err)
	}
}
