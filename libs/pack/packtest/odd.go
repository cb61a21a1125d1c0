// Package packtest fills the folders of a Rumi home with what lies in the way in real ones, for tests that show that each such
// thing is an error of its own and keeps nothing else from working.
package packtest

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// Obstacle makes something that is not what is expected at path, where nothing may be yet. It skips the test where the machine
// can't have one.
type Obstacle func(t testing.TB, path string)

// Obstacles are the things that may stand where a folder is expected, by name.
var Obstacles = map[string]Obstacle{
	"file":   func(t testing.TB, path string) { Write(t, path, "in the way") },
	"fifo":   func(t testing.TB, path string) { check(t, unix.Mkfifo(path, 0o666)) },
	"socket": socket,
	"link":   func(t testing.TB, path string) { link(t, Folder(t, "elsewhere"), path) },
	"link inside": func(t testing.TB, path string) {
		check(t, os.MkdirAll(path+".to", 0o755))
		link(t, filepath.Base(path)+".to", path)
	},
	"dangling link":  func(t testing.TB, path string) { link(t, "nothing", path) },
	"loop":           func(t testing.TB, path string) { link(t, filepath.Base(path), path) },
	"closed folder":  func(t testing.TB, path string) { closed(t, path, 0) },
	"listed only":    func(t testing.TB, path string) { closed(t, path, 0o444) },
	"foreign folder": foreign,
	"dead mount":     DeadMount,
}

// Names lists the names of Obstacles.
func Names() []string {
	var names []string
	for name := range Obstacles {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// NeedsRights says whether root isn't kept from an obstacle: a test has to run as somebody else (see AsNobody).
func NeedsRights(name string) bool {
	return name == "closed folder" || name == "listed only" || name == "foreign folder"
}

// Odd lists the entries that Fill put into an ecosystem folder.
type Odd struct {
	Broken  []string // ids of packs that can't be used; each is an error of its own, as long as the reader isn't root
	Ignored []string // paths of what is no pack, relative to the folder
}

// Fill puts one of each into an ecosystem folder, beside whatever is there: entries that are no packs, and packs that can't be used.
// Nothing is at OldPlace afterwards but what was; Obstacles go there one at a time.
func Fill(t testing.TB, ecosystem string) Odd {
	t.Helper()
	in := func(name string) string { return filepath.Join(ecosystem, name) }
	identity := func(id string) string {
		return fmt.Sprintf(`{"pack_id": %q, "pack_identity": "github:odd/%s"}`, id, id)
	}
	var odd Odd
	ignored := func(name string) string { odd.Ignored = append(odd.Ignored, name); return in(name) }
	broken := func(id string) string { odd.Broken = append(odd.Broken, id); return in(id) }

	// What is no pack.
	check(t, os.MkdirAll(ignored("odd_empty"), 0o755))
	Write(t, filepath.Join(ignored("odd name"), "ecosystem.json"), identity("odd_name"))
	Write(t, filepath.Join(ignored("odd.name"), "ecosystem.json"), identity("odd_name"))
	Write(t, filepath.Join(ignored("天気"), "ecosystem.json"), identity("odd_name"))
	Write(t, filepath.Join(ignored(strings.Repeat("n", 65)), "ecosystem.json"), identity("odd_name"))
	Write(t, filepath.Join(ignored("odd_nested"), "odd_nested", "ecosystem.json"), identity("odd_nested"))
	Write(t, filepath.Join(ignored("odd_case"), "Ecosystem.json"), identity("odd_case"))
	Write(t, filepath.Join(ignored("odd_backend"), "Backend", "ecosystem.json"), identity("odd_backend"))
	check(t, os.MkdirAll(ignored("ecosystem.json"), 0o755))
	link(t, "odd_nested", ignored("odd_link"))
	link(t, "odd_loop", ignored("odd_loop"))
	link(t, "nothing", ignored("odd_dangling"))
	Write(t, in("odd_file"), "no pack")
	Write(t, in(".odd_hidden/ecosystem.json"), identity("odd_hidden"))
	check(t, unix.Mkfifo(in("odd_fifo"), 0o666))
	socket(t, in("odd_socket"))

	// Packs that can't be used.
	check(t, os.MkdirAll(filepath.Join(broken("odd_folder"), "ecosystem.json"), 0o755))
	Write(t, filepath.Join(broken("odd_json"), "ecosystem.json"), `{"pack_id": "odd_json",}`)
	check(t, os.MkdirAll(broken("odd_pipe"), 0o755))
	check(t, unix.Mkfifo(in("odd_pipe/ecosystem.json"), 0o666))
	check(t, os.MkdirAll(broken("odd_out"), 0o755))
	link(t, "/etc/passwd", in("odd_out/ecosystem.json"))
	Write(t, filepath.Join(broken("odd_huge"), "ecosystem.json"), identity("odd_huge"))
	check(t, os.Truncate(in("odd_huge/ecosystem.json"), 50<<20))
	if os.Getuid() == 0 {
		Write(t, filepath.Join(broken("odd_foreign"), "ecosystem.json"), identity("odd_foreign"))
		check(t, os.Chmod(in("odd_foreign/ecosystem.json"), 0o600))
		check(t, os.Chown(in("odd_foreign/ecosystem.json"), 4242, 4242))
	}
	Write(t, filepath.Join(broken("odd_closed"), "ecosystem.json"), identity("odd_closed"))
	check(t, os.Chmod(in("odd_closed"), 0))
	t.Cleanup(func() { _ = os.Chmod(in("odd_closed"), 0o755) })
	if CanMount() {
		DeadMount(t, broken("odd_mount"))
	}
	slices.Sort(odd.Ignored)
	slices.Sort(odd.Broken)
	return odd
}

// Write makes a file with the folders above it.
func Write(t testing.TB, path, content string) {
	t.Helper()
	check(t, os.MkdirAll(filepath.Dir(path), 0o755))
	check(t, os.WriteFile(path, []byte(content), 0o644))
}

// Folder makes a folder outside of whatever is tested, with a pack called somewhere in it.
func Folder(t testing.TB, name string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	Write(t, filepath.Join(dir, "somewhere", "ecosystem.json"), `{"pack_id": "somewhere", "pack_identity": "github:odd/somewhere"}`)
	return dir
}

func link(t testing.TB, to, path string) {
	t.Helper()
	check(t, os.Symlink(to, path))
}

func closed(t testing.TB, path string, mode os.FileMode) {
	t.Helper()
	Write(t, filepath.Join(path, "somewhere", "ecosystem.json"), `{"pack_id": "somewhere", "pack_identity": "github:odd/somewhere"}`)
	check(t, os.Chmod(path, mode))
	t.Cleanup(func() { _ = os.Chmod(path, 0o755) })
}

// foreign makes a folder that belongs to somebody else and is closed to the others.
func foreign(t testing.TB, path string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can make a folder that belongs to somebody else")
	}
	closed(t, path, 0o700)
	check(t, os.Chown(path, 4242, 4242))
}

func socket(t testing.TB, path string) {
	t.Helper()
	// Listened on under a short name: that of a socket is bounded.
	short, err := os.MkdirTemp("", "s")
	check(t, err)
	defer os.RemoveAll(short)
	listener, err := net.Listen("unix", filepath.Join(short, "s"))
	check(t, err)
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	check(t, listener.Close())
	check(t, os.Rename(filepath.Join(short, "s"), path))
}

// CanMount says whether this process may mount.
func CanMount() bool {
	if os.Getuid() != 0 {
		return false
	}
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	return f.Close() == nil
}

// DeadMount makes a folder on which a file system is mounted whose server has died: every look at it is ENOTCONN, "transport
// endpoint is not connected", for root too. It needs root and /dev/fuse.
func DeadMount(t testing.TB, path string) {
	t.Helper()
	if !CanMount() {
		t.Skip("only root can mount, and only with /dev/fuse")
	}
	check(t, os.MkdirAll(path, 0o755))
	server, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	check(t, err)
	defer server.Close()
	source := fmt.Sprintf("dead-%d-%d", os.Getpid(), mounts.Add(1))
	if err := unix.Mount(source, path, "fuse", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", server.Fd())); err != nil {
		t.Skipf("can't mount here: %v", err)
	}
	t.Cleanup(func() { unmount(t, source) })
}

// mounts counts those that DeadMount made.
var mounts atomic.Int64

// unmount unmounts what was mounted from a source, wherever that is by now: a folder that holds a mount point can be renamed.
func unmount(t testing.TB, source string) {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	check(t, err)
	for line := range strings.Lines(string(table)) {
		// The fifth field is the mount point, the second after the dash the source (proc_pid_mountinfo(5)).
		before, after, _ := strings.Cut(line, " - ")
		if fields, tail := strings.Fields(before), strings.Fields(after); len(fields) > 4 && len(tail) > 1 && tail[1] == source {
			_ = unix.Unmount(strings.ReplaceAll(fields[4], `\040`, " "), unix.MNT_DETACH)
		}
	}
}

// MountPoint makes path a mount point, by mounting it over itself. It needs root.
func MountPoint(t testing.TB, path string) (unmount func()) {
	t.Helper()
	if !CanMount() {
		t.Skip("only root can mount")
	}
	if err := unix.Mount(path, path, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("can't mount here: %v", err)
	}
	var gone bool
	unmount = func() {
		if !gone {
			gone = true
			check(t, unix.Unmount(path, unix.MNT_DETACH))
		}
	}
	t.Cleanup(unmount)
	return unmount
}

// AsNobody runs what a test does without root's rights: file permissions hold for it as for uid 65534. It is for calls that work in
// the goroutine that makes them.
func AsNobody(t testing.TB, do func()) {
	t.Helper()
	if os.Getuid() != 0 {
		do()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Only this thread changes, and it is never used for anything else: it isn't unlocked.
		runtime.LockOSThread()
		_ = unix.Setfsgid(65534)
		_ = unix.Setfsuid(65534) // takes the capabilities that override permissions along
		do()
	}()
	<-done
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
