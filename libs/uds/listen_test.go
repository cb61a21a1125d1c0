package uds

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func config(t testing.TB) Config {
	return Config{Dir: filepath.Join(t.TempDir(), "packs"), Name: DirName("my_pack"), GID: -1}
}

func mustListen(t testing.TB, cfg Config) *Listener {
	t.Helper()
	l, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestDirName(t *testing.T) {
	// printf %s my_pack | sha256sum
	if got, want := DirName("my_pack"), "dc2ae4734c3f52f2cbef717918e43b16"; got != want {
		t.Errorf("DirName is %q, want %q", got, want)
	}
}

func TestModes(t *testing.T) {
	for _, umask := range []int{0, 0o027, 0o077} {
		for _, tt := range []struct{ mode, socket, dir fs.FileMode }{
			{0, 0o660, 0o750}, {0o660, 0o660, 0o750}, {0o666, 0o666, 0o751}, {0o600, 0o600, 0o750},
		} {
			old := syscall.Umask(umask)
			cfg := config(t)
			cfg.Mode, cfg.GID = tt.mode, os.Getgid()
			l := mustListen(t, cfg)
			syscall.Umask(old)
			socket, err := os.Lstat(l.Path())
			if err != nil {
				t.Fatal(err)
			}
			if socket.Mode() != fs.ModeSocket|tt.socket {
				t.Errorf("umask %o, mode %o: the socket has %v", umask, tt.mode, socket.Mode())
			}
			dir, _ := os.Lstat(filepath.Dir(l.Path()))
			if dir.Mode().Perm() != tt.dir {
				t.Errorf("umask %o, mode %o: the directory has %v", umask, tt.mode, dir.Mode())
			}
		}
	}
}

func TestGroup(t *testing.T) {
	cfg := config(t)
	if os.Getuid() == 0 {
		cfg.GID = 1099
	} else {
		cfg.GID = os.Getgid()
	}
	l := mustListen(t, cfg)
	for _, path := range []string{l.Path(), filepath.Dir(l.Path())} {
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if gid := info.Sys().(*syscall.Stat_t).Gid; gid != uint32(cfg.GID) {
			t.Errorf("%s has group %d, want %d", path, gid, cfg.GID)
		}
	}
}

// The base folder may be deeper than the 107 bytes that a socket address holds.
func TestLongPath(t *testing.T) {
	cfg := config(t)
	cfg.Dir = filepath.Join(cfg.Dir, strings.Repeat("long", 40))
	l := mustListen(t, cfg)
	if _, err := os.Lstat(l.Path()); err != nil {
		t.Errorf("got %v, want no error", err)
	}
}

func TestListenRefuses(t *testing.T) {
	victim := func(t *testing.T) string {
		path := filepath.Join(t.TempDir(), "victim")
		if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	tests := []struct {
		name    string
		prepare func(t *testing.T, cfg *Config, victim string)
	}{
		{"a link at the socket's path", func(t *testing.T, cfg *Config, victim string) {
			os.MkdirAll(filepath.Join(cfg.Dir, cfg.Name), 0o750)
			os.Symlink(victim, filepath.Join(cfg.Dir, cfg.Name, SocketName))
		}},
		{"a dangling link at the socket's path", func(t *testing.T, cfg *Config, victim string) {
			os.MkdirAll(filepath.Join(cfg.Dir, cfg.Name), 0o750)
			os.Symlink("/nowhere/at/all", filepath.Join(cfg.Dir, cfg.Name, SocketName))
		}},
		{"a file at the socket's path", func(t *testing.T, cfg *Config, victim string) {
			os.MkdirAll(filepath.Join(cfg.Dir, cfg.Name), 0o750)
			os.Link(victim, filepath.Join(cfg.Dir, cfg.Name, SocketName))
		}},
		{"a link in place of the directory", func(t *testing.T, cfg *Config, victim string) {
			os.MkdirAll(cfg.Dir, 0o750)
			os.Symlink(filepath.Dir(victim), filepath.Join(cfg.Dir, cfg.Name))
		}},
		{"a link in place of the lock", func(t *testing.T, cfg *Config, victim string) {
			os.MkdirAll(cfg.Dir, 0o750)
			os.Symlink(victim, filepath.Join(cfg.Dir, cfg.Name+".lock"))
		}},
		{"a name that is a path", func(t *testing.T, cfg *Config, victim string) { cfg.Name = "../x" }},
		{"no name", func(t *testing.T, cfg *Config, victim string) { cfg.Name = "" }},
		{"dot dot", func(t *testing.T, cfg *Config, victim string) { cfg.Name = ".." }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg, victim := config(t), victim(t)
			tt.prepare(t, &cfg, victim)
			if l, err := Listen(cfg); err == nil {
				l.Close()
				t.Fatal("it was made")
			} else if errors.Is(err, ErrLocked) {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(victim); err != nil || string(got) != "precious" {
				t.Errorf("the link's target now holds %q, %v, want %q", got, err, "precious")
			}
			if names, _ := os.ReadDir(filepath.Dir(victim)); len(names) != 1 {
				t.Errorf("the link's folder now holds %v", names)
			}
		})
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	cfg := config(t)
	first := mustListen(t, cfg)
	path := first.Path()
	// What kill -9 leaves: the socket, the lock file without its lock, and perhaps a half-made socket.
	first.UnixListener.Close()
	first.lock.close()
	stale, err := net.Listen("unix", filepath.Join(filepath.Dir(path), tempName))
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	stale.Close()
	if _, err := net.Dial("unix", path); err == nil {
		t.Fatal("the stale socket answers")
	}
	mustListen(t, cfg)
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestOneReplicaAtATime(t *testing.T) {
	cfg := config(t)
	first := mustListen(t, cfg)
	if _, err := Listen(cfg); !errors.Is(err, ErrLocked) {
		t.Fatalf("a second listener got %v, want ErrLocked", err)
	}
	if _, err := os.Lstat(first.Path()); err != nil {
		t.Fatal("the loser took the socket away:", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal("closing twice:", err)
	}
	if _, err := os.Lstat(first.Path()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the closed socket is still there: %v", err)
	}
	if _, err := os.Lstat(filepath.Dir(first.Path())); err != nil {
		t.Errorf("the directory that containers have mounted is gone: %v", err)
	}
	mustListen(t, cfg)
}

// Somebody who waits on the lock file that a Remove takes away must not hold a lock on nothing.
func TestLockFileRemoved(t *testing.T) {
	cfg := config(t)
	first := mustListen(t, cfg)
	waiting, err := newLock(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.close()
	if err := waiting.try(); !errors.Is(err, ErrLocked) {
		t.Fatal(err)
	}
	if err := first.Remove(); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(cfg.Dir); len(left) != 0 {
		t.Errorf("left behind: %v, want nothing", left)
	}
	if err := waiting.try(); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(cfg); !errors.Is(err, ErrLocked) {
		t.Errorf("a second holder got %v, want ErrLocked", err)
	}
}
