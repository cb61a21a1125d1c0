package uds

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	ourHome   = "0123456789abcdef0123456789abcdef"
	otherHome = "fedcba9876543210fedcba9876543210"
)

func writeMark(t testing.TB, dir, content string) {
	t.Helper()
	path := filepath.Join(dir, MarkName)
	_ = os.Remove(path)
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestOwnerFileNamesTheHome(t *testing.T) {
	dir := t.TempDir()
	o := NewOwner(dir, ourHome)
	defer o.Close()
	if err := o.Check(); err != nil {
		t.Fatalf("an unmarked folder: %v", err)
	}
	if home, err := ReadMark(dir); err != nil || home != ourHome {
		t.Errorf("the mark says %q, %v, want %q", home, err, ourHome)
	}
	if err := NewOwner(dir, otherHome).Check(); !errors.Is(err, ErrForeign) {
		t.Errorf("another home's folder: %v, want ErrForeign", err)
	}
	if _, err := Vacate(dir); !errors.Is(err, ErrLocked) {
		t.Errorf("a folder in use can be vacated: %v", err)
	}
	for _, c := range []struct{ content, want string }{
		{otherHome + "\n", "belongs to another Rumi home"}, {"", "damaged"}, {ourHome, "damaged"},
	} {
		writeMark(t, dir, c.content)
		if err := o.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("a mark that became %q underneath: %v, want %q", c.content, err, c.want)
		}
	}
	// Written into, not replaced.
	writeMark(t, dir, ourHome+"\n")
	if err := o.Check(); err != nil {
		t.Errorf("our mark is back: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, MarkName), []byte(otherHome+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := o.Check(); !errors.Is(err, ErrForeign) {
		t.Errorf("a mark that was written over: %v, want ErrForeign", err)
	}
	link := t.TempDir()
	if err := os.Symlink(filepath.Join(dir, MarkName), filepath.Join(link, MarkName)); err != nil {
		t.Fatal(err)
	}
	if err := NewOwner(link, otherHome).Check(); err == nil {
		t.Error("a link passes for a mark")
	}
}

// Two suites share a folder; both have a pack of the same id.
func TestSetLeavesAnotherHomesFolderAlone(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, DirName("p"), SocketName)
	first := setConfig(dir)
	first.Home = ourHome
	a := NewSet(first)
	a.Ensure("p")
	if !a.Serving("p") || a.Ready() != nil {
		t.Fatalf("the first suite doesn't serve: %v", a.Ready())
	}
	second := setConfig(dir)
	second.Home = otherHome
	b := NewSet(second)
	b.Ensure("p")
	if b.Serving("p") || !errors.Is(b.Ready(), ErrForeign) {
		t.Errorf("the second suite serves %v, ready: %v, want ErrForeign", b.Serving("p"), b.Ready())
	}
	b.Remove("p")
	b.Ensure("p")
	b.Close()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("the second suite took the first one's socket away: %v", err)
	}
	conn.Close()

	// The folder changes hands underneath.
	writeMark(t, dir, otherHome+"\n")
	until(t, "the first suite serves a folder that is another's", func() bool { return !a.Serving("p") })
	if !errors.Is(a.Ready(), ErrForeign) {
		t.Errorf("readiness says %v, want ErrForeign", a.Ready())
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("what lies in another's folder was removed: %v", err)
	}
	a.Remove("p")
	a.Ensure("p")
	writeMark(t, dir, ourHome+"\n")
	until(t, "the socket isn't back once the folder is ours", func() bool { return a.Serving("p") })
	a.Close()
}

// After a reboot the folder is new, bare and root's; somebody mends it.
func TestSetListensAgainInARemadeFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "packs")
	cfg := setConfig(dir)
	cfg.Home = ourHome
	s := NewSet(cfg)
	defer s.Close()
	s.Ensure("p")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	until(t, "a folder that is gone passes for ready", func() bool { return s.Ready() != nil })
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	until(t, "the socket isn't made again", func() bool { return s.Ready() == nil && s.Serving("p") })
	if _, err := net.Dial("unix", filepath.Join(dir, DirName("p"), SocketName)); err != nil {
		t.Errorf("got %v, want no error", err)
	}
}

func until(t testing.TB, what string, done func() bool) {
	t.Helper()
	for began := time.Now(); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			t.Fatal("not within 10s: " + what)
		}
	}
}
