package watch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/tree"
)

// place is an ecosystem folder with a watcher on it.
type fixture struct {
	*Watcher
	t   testing.TB
	dir string
	log *bytes.Buffer
}

func newFixture(t testing.TB, limit int) *fixture { return newFixtureIn(t, t.TempDir(), limit) }

func newFixtureIn(t testing.TB, dir string, limit int) *fixture {
	p := &fixture{t: t, dir: dir, log: &bytes.Buffer{}}
	w, err := New(Config{
		Root: p.dir, Limit: limit, Log: slog.New(slog.NewTextHandler(p.log, nil)), Metrics: prometheus.NewRegistry(), OnChange: func([]string, bool) {},
	})
	p.check(err)
	t.Cleanup(func() { p.check(w.Close()) })
	p.Watcher = w
	return p
}

func (p *fixture) check(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *fixture) write(name, text string) {
	p.t.Helper()
	path := filepath.Join(p.dir, name)
	p.check(os.MkdirAll(filepath.Dir(path), 0o755))
	p.check(os.WriteFile(path, []byte(text), 0o644))
}

// pack makes a pack with a few files and looks at it.
func (p *fixture) pack(id string, executable bool) {
	p.t.Helper()
	p.write(id+"/ecosystem.json", "{}")
	p.write(id+"/backend/main.py", "x")
	p.write(id+"/backend/other.py", "y")
	p.check(os.Mkdir(filepath.Join(p.dir, id, "empty"), 0o755))
	p.scan(id, id, executable)
}

func (p *fixture) scan(id, dir string, executable bool) {
	p.t.Helper()
	root, err := os.OpenRoot(filepath.Join(p.dir, dir))
	p.check(err)
	defer root.Close()
	p.check(p.Fence(p.t.Context())) // what made the pack is not taken for a change of it
	scan := p.BeginScan(id, executable)
	_, err = tree.FingerprintWith(p.t.Context(), root, scan)
	p.check(err)
	scan.Done()
}

// unchanged asks once, after a fence: nothing in this file waits for anything to be noticed.
func (p *fixture) unchanged(id string) bool {
	p.t.Helper()
	p.check(p.Fence(p.t.Context()))
	return p.Unchanged(id)
}

func TestNothingThatHappenedIsMissed(t *testing.T) {
	outside := t.TempDir() // of the same file system as what t.TempDir gives next
	for name, change := range map[string]func(dir string) error{
		"content":                   func(d string) error { return os.WriteFile(d+"/backend/main.py", []byte("z"), 0o644) },
		"the same content":          func(d string) error { return os.WriteFile(d+"/backend/main.py", []byte("x"), 0o644) },
		"a cut":                     func(d string) error { return os.Truncate(d+"/backend/main.py", 0) },
		"mode":                      func(d string) error { return os.Chmod(d+"/backend/main.py", 0o755) },
		"mode of a folder":          func(d string) error { return os.Chmod(d+"/empty", 0o700) },
		"mode of the pack":          func(d string) error { return os.Chmod(d, 0o700) },
		"times":                     func(d string) error { return unix.Utimes(d+"/backend/main.py", make([]unix.Timeval, 2)) },
		"addition":                  func(d string) error { return os.WriteFile(d+"/empty/new", nil, 0o644) },
		"removal":                   func(d string) error { return os.Remove(d + "/backend/main.py") },
		"removal of a folder":       func(d string) error { return os.Remove(d + "/empty") },
		"name":                      func(d string) error { return os.Rename(d+"/backend/main.py", d+"/backend/mein.py") },
		"a name and back":           func(d string) error { return there(d+"/backend", d+"/back") },
		"out and back":              func(d string) error { return there(d+"/backend", filepath.Join(outside, "backend")) },
		"the pack and back":         func(d string) error { return there(d, d+"_old") },
		"a folder":                  func(d string) error { return os.Mkdir(d+"/backend/new", 0o755) },
		"a link":                    func(d string) error { return os.Symlink("/etc/passwd", d+"/link") },
		"a FIFO":                    func(d string) error { return unix.Mkfifo(d+"/fifo", 0o644) },
		"another name inside":       func(d string) error { return os.Link(d+"/backend/main.py", d+"/name") },
		"in by a name":              func(d string) error { return os.Rename(d+"/backend/main.py", d+"/backend/other.py") },
		"all is gone":               os.RemoveAll,
		"a mapping":                 writeMapped,
		"an open file":              writeOpen,
		"exchanged":                 exchange,
		"hidden by the new place":   nil,
		"under a name from outside": nil,
	} {
		t.Run(name, func(t *testing.T) {
			p := newFixture(t, 0)
			dir := filepath.Join(p.dir, "demo")
			switch name {
			case "hidden by the new place":
				p.check(os.Mkdir(filepath.Join(p.dir, "packs"), 0o755))
				p.write("packs/demo/ecosystem.json", "{}")
				p.scan("demo", "packs/demo", true)
				change = func(d string) error { return os.Mkdir(d, 0o755) }
			case "under a name from outside":
				p.write("demo/ecosystem.json", "{}")
				other := filepath.Join(outside, "other")
				p.check(os.Link(dir+"/ecosystem.json", other))
				p.scan("demo", "demo", true)
				change = func(string) error { return os.WriteFile(other, []byte("[]"), 0o644) }
			default:
				p.pack("demo", true)
			}
			p.pack("neighbour", true)
			for range 2 {
				_, err := os.ReadFile(filepath.Join(p.dir, "neighbour/backend/main.py"))
				p.check(err)
				_, err = os.ReadDir(filepath.Join(p.dir, "neighbour"))
				p.check(err)
				if !p.unchanged("demo") || !p.unchanged("neighbour") {
					t.Fatal("reading is a change")
				}
			}
			p.check(change(dir))
			if p.unchanged("demo") {
				t.Error("missed it")
			}
			if !p.unchanged("neighbour") {
				t.Error("the neighbour is said to have changed")
			}
		})
	}
}

func there(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return os.Rename(to, from)
}

// writeMapped writes what raises no event, until the mapping ends.
func writeMapped(dir string) error {
	f, err := os.OpenFile(dir+"/backend/main.py", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	data, err := unix.Mmap(int(f.Fd()), 0, 1, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	f.Close()
	data[0] = 'z'
	return unix.Munmap(data)
}

// writeOpen writes and leaves the file open.
func writeOpen(dir string) error {
	fd, err := unix.Open(dir+"/backend/main.py", unix.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = unix.Pwrite(fd, []byte("z"), 0)
	return err
}

func exchange(dir string) error {
	return unix.Renameat2(unix.AT_FDCWD, dir+"/backend", unix.AT_FDCWD, dir+"/empty", unix.RENAME_EXCHANGE)
}

// A change before a fence is always known after it, however busy the queue is.
func TestAFenceWaitsForEverythingBefore(t *testing.T) {
	p := newFixture(t, 0)
	var group sync.WaitGroup
	for n := range 4 {
		id := fmt.Sprintf("p%d", n)
		p.pack(id, true)
		group.Go(func() {
			for i := range 200 {
				p.scan(id, id, true)
				p.write(id+"/backend/main.py", fmt.Sprint(i))
				if p.unchanged(id) {
					t.Errorf("%s: change %d was missed, want it seen", id, i)
					return
				}
			}
		})
	}
	group.Wait()
}

func TestAnIncompleteScanIsNotClean(t *testing.T) {
	p := newFixture(t, 0)
	p.pack("demo", true)
	scan := p.BeginScan("demo", true)
	scan.Drop()
	if p.unchanged("demo") || !slices.Equal(p.Unwatched(), []string{"demo"}) {
		t.Error("a look that was dropped covers the pack", p.Unwatched())
	}
	p.scan("demo", "demo", true)
	scan = p.BeginScan("demo", true)
	p.write("demo/backend/main.py", "during")
	p.check(p.Fence(t.Context()))
	scan.Done()
	if p.unchanged("demo") {
		t.Error("what happened during a look was seen by it")
	}
}

// Two packs can have a file in common, and a folder can move from one to another.
func TestOneWatchForTwoPacks(t *testing.T) {
	p := newFixture(t, 0)
	p.pack("a", true)
	p.pack("b", true)
	p.check(os.Link(filepath.Join(p.dir, "a/backend/main.py"), filepath.Join(p.dir, "b/shared.py")))
	p.scan("a", "a", true)
	p.scan("b", "b", true)
	p.write("a/backend/main.py", "z")
	if p.unchanged("a") || p.unchanged("b") {
		t.Error("missed a change of a shared file", p.Unchanged("a"), p.Unchanged("b"))
	}
	p.check(os.Rename(filepath.Join(p.dir, "a/backend"), filepath.Join(p.dir, "b/moved")))
	p.scan("b", "b", true)
	p.scan("a", "a", true)
	p.write("b/moved/other.py", "z")
	if p.unchanged("b") || !p.unchanged("a") {
		t.Error("a moved folder is not where it was", p.Unchanged("a"), p.Unchanged("b"))
	}
	p.scan("b", "b", true)
	p.Forget("a")
	p.write("b/shared.py", "zz")
	if p.unchanged("b") {
		t.Error("forgetting one pack forgot another's file")
	}
}

func TestALostQueueIsEverythingChanged(t *testing.T) {
	p := newFixture(t, 0)
	p.pack("demo", true)
	p.pack("noisy", true)
	limit, err := os.ReadFile("/proc/sys/fs/inotify/max_queued_events")
	p.check(err)
	var events int
	_, err = fmt.Sscan(string(limit), &events)
	p.check(err)
	p.mu.Lock()                 // nothing is taken out of the queue
	for i := range 2 * events { // some are being read already; alternating, since the kernel joins equal ones
		p.check(os.Chmod(filepath.Join(p.dir, "noisy/backend", []string{"main.py", "other.py"}[i%2]), 0o644))
	}
	p.mu.Unlock()
	if p.unchanged("demo") {
		t.Error("an overflow is no change")
	}
	p.scan("demo", "demo", true)
	if !p.unchanged("demo") {
		t.Error("a look after an overflow covers nothing")
	}
	if n := strings.Count(p.log.String(), "the kernel dropped file events"); n == 0 {
		t.Error("the overflow was not said")
	}
}

func TestTheLimitOfWatches(t *testing.T) {
	p := newFixture(t, 1+3*3+2) // the ecosystem folder, three packs of three folders, and a part of a fourth
	p.pack("a", true)
	p.pack("idle", false)
	p.pack("b", true)
	if !p.unchanged("a") || !p.unchanged("idle") || !p.unchanged("b") {
		t.Fatal("there is room for all", p.Unchanged("a"), p.Unchanged("idle"), p.Unchanged("b"))
	}
	p.pack("c", true)
	if !p.unchanged("c") || p.unchanged("idle") || !p.unchanged("a") {
		t.Error("a pack that may not run is watched rather than one that may", p.Unchanged("c"), p.Unchanged("idle"))
	}
	if len(p.Unwatched()) != 0 || p.log.Len() != 0 {
		t.Error("the limit is not reached", p.Unwatched(), p.log)
	}
	for _, id := range []string{"d", "e"} {
		p.pack(id, true)
		p.scan("a", "a", true)
	}
	unwatched := p.Unwatched()
	slices.Sort(unwatched)
	if p.unchanged("d") || p.unchanged("e") || !p.unchanged("a") || !slices.Equal(unwatched, []string{"d", "e"}) {
		t.Error("what is not watched is said to be unchanged", unwatched)
	}
	if n := strings.Count(p.log.String(), "cannot watch every pack"); n != 1 {
		t.Errorf("logged %d times, want once:\n%s", n, p.log)
	}
	for _, id := range []string{"b", "c", "d", "e"} {
		p.Forget(id)
	}
	p.pack("f", true)
	if !p.unchanged("f") || len(p.Unwatched()) != 0 {
		t.Error("what was forgotten still counts")
	}
}

// 10,000 packs take what there is for those that may run, and no more.
func TestTenThousandPacks(t *testing.T) {
	const limit, packs = 6000, 10_000
	dir, err := os.MkdirTemp("/dev/shm", "rumi-packs-") // in memory, as a disk takes its time for so many
	if err != nil {
		dir = t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := newFixtureIn(t, dir, limit)
	for i := range packs {
		p.check(os.Mkdir(filepath.Join(p.dir, fmt.Sprintf("p%05d", i)), 0o755))
	}
	p.check(p.Fence(t.Context()))
	for i := range packs {
		root, err := os.OpenRoot(filepath.Join(p.dir, fmt.Sprintf("p%05d", i)))
		p.check(err)
		scan := p.BeginScan(fmt.Sprintf("p%05d", i), i%2 == 0)
		_, err = tree.FingerprintWith(t.Context(), root, scan)
		p.check(err)
		scan.Done()
		root.Close()
	}
	covered := 0
	p.check(p.Fence(t.Context()))
	for i := range packs {
		if p.Unchanged(fmt.Sprintf("p%05d", i)) {
			covered++
		}
	}
	if len(p.watches) > limit || covered < packs/2 || len(p.Unwatched()) != 0 {
		t.Errorf("%d watches, %d packs covered, %d that may run are not; want at most %d, at least %d, and 0", len(p.watches), covered, len(p.Unwatched()), limit, packs/2)
	}
}

func TestFenceEndsWithItsContextAndWithTheWatcher(t *testing.T) {
	p := newFixture(t, 0)
	p.mu.Lock() // the entry is not taken
	ctx, cancel := context.WithCancel(t.Context())
	readErr := make(chan error, 1)
	go func() { readErr <- p.Fence(ctx) }()
	cancel()
	p.mu.Unlock()
	<-readErr // in time or too late; it must not hang
	other, err := New(Config{Root: p.dir, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	p.check(err)
	other.BeginScan("demo", true).Done()
	p.check(other.Close())
	if err := other.Fence(t.Context()); err == nil || other.Unchanged("demo") {
		t.Error("a closed watcher answers", err)
	}
}

func TestMountsBelowTheRootAreNoticed(t *testing.T) {
	table := "" +
		"22 1 8:1 / / rw shared:1 - ext4 /dev/vda rw\n" +
		"30 22 8:1 /x /home/a\\040b/ecosystem rw - ext4 /dev/vda rw\n" +
		"31 22 0:5 / /home/a\\040b/ecosystem2 rw - tmpfs x rw\n"
	before := mountLines([]byte(table), "/home/a b/ecosystem")
	for line, want := range map[string]bool{
		"40 22 0:9 / /home/a\\040b/ecosystem/demo/backend rw - tmpfs x rw\n": true,
		"40 22 0:9 / /home/a\\040b/ecosystem rw - tmpfs x rw\n":              true,
		"40 22 0:9 / /home/a\\040b/ecosystem_old/demo rw - tmpfs x rw\n":     false,
		"40 22 0:9 / /home rw - tmpfs x rw\n":                                false,
		"nonsense\n":                                                         false,
	} {
		if got := mountLines([]byte(table+line), "/home/a b/ecosystem") != before; got != want {
			t.Errorf("%q: noticed %v, want %v", line, got, want)
		}
	}
}

func TestRunReportsOncePerBurst(t *testing.T) {
	dir := t.TempDir()
	told := make(chan []string, 100)
	w, err := New(Config{Root: dir, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(), OnChange: func(ids []string, all bool) { told <- ids }})
	if err != nil {
		t.Fatal(err)
	}
	p := &fixture{Watcher: w, t: t, dir: dir, log: &bytes.Buffer{}}
	t.Cleanup(func() { p.check(w.Close()) })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	p.pack("demo", true)
	for i := range 100 {
		p.write(fmt.Sprintf("demo/backend/f%d", i), "x")
	}
	if got := <-told; !slices.Equal(got, []string{"demo"}) {
		t.Errorf("the packs told are %v, want demo once", got)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Run ended with %v, want %v", err, context.Canceled)
	}
}
