package auditlog

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/audit"
)

const testFile = "security_2026-01-31.jsonl"

// home is a folder with an audit log, its seals and keys.
type home struct {
	t                         testing.TB
	audit, seals, status, key string
	public                    string
	out                       *bytes.Buffer
	sealer                    *Sealer
	now                       time.Time
	compressDays, keepDays    int
}

func newHome(t *testing.T) *home {
	t.Helper()
	return newHomeIn(t, t.TempDir())
}

func newHomeIn(t testing.TB, dir string) *home {
	t.Helper()
	h := &home{t: t, audit: filepath.Join(dir, "audit"), seals: filepath.Join(dir, "audit_log"), status: filepath.Join(dir, "seal_status"), key: filepath.Join(dir, "signing_key"),
		out: &bytes.Buffer{}, now: time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)}
	private, public, err := NewKey(strings.Repeat("0a", 16))
	h.check(err)
	h.public = public
	h.check(os.WriteFile(h.key, []byte(private+"\n"), 0o600))
	h.check(os.Mkdir(h.audit, 0o750))
	h.check(os.Mkdir(h.seals, 0o750))
	h.check(os.Mkdir(h.status, 0o750))
	return h
}

func (h *home) check(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *home) config() Config {
	return Config{Audit: h.audit, Log: h.seals, Status: h.status, KeyFile: h.key, Interval: 10 * time.Millisecond,
		CompressDays: h.compressDays, KeepDays: h.keepDays, Quiet: DefaultQuiet}
}

// start opens the sealer; the test drives its passes.
func (h *home) start() {
	h.t.Helper()
	s, err := openSealer(h.config(), &status{dir: h.status}, slog.New(slog.NewTextHandler(io.MultiWriter(h.out, h.t.Output()), nil)))
	h.check(err)
	h.sealer = s
}

func (h *home) stop() {
	h.sealer.close()
	h.sealer = nil
}

// seal makes passes until there is nothing more to do.
func (h *home) seal() {
	h.t.Helper()
	for range 4 { // a file that loses its name is drained in one pass, and the next one is opened after it
		for more := true; more; {
			var err error
			more, err = h.sealer.pass(h.now)
			h.check(err)
			h.now = h.now.Add(time.Second)
		}
	}
}

// entry is line n of a file, as a service would write it.
func entry(n int) string {
	return fmt.Sprintf(`{"ts":"2026-01-31T12:00:%02d.%06dZ","category":"security","action":"something_happened","request_id":"R%d"}`, n/1000%60, n, n)
}

// write appends lines from to to-1.
func (h *home) write(file string, from, to int) {
	h.t.Helper()
	f, err := os.OpenFile(filepath.Join(h.audit, file), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	h.check(err)
	defer f.Close()
	var lines strings.Builder
	for n := from; n < to; n++ {
		lines.WriteString(entry(n) + "\n")
	}
	_, err = f.WriteString(lines.String())
	h.check(err)
}

func (h *home) records() []Record {
	h.t.Helper()
	f, err := os.Open(filepath.Join(h.seals, recordsFile))
	h.check(err)
	defer f.Close()
	var all []Record
	h.check(eachRecord(f, func(_ []byte, r Record, problem error) error {
		all = append(all, r)
		return problem
	}))
	return all
}

func TestSealsWhatIsWritten(t *testing.T) {
	h := newHome(t)
	h.start()
	defer h.stop()
	h.write(testFile, 0, 3)
	h.write("network_2026-01-31.jsonl", 0, 200_000)
	h.seal()
	h.write(testFile, 3, 4)
	h.seal()
	sealed := map[string]uint64{}
	for _, r := range h.records() {
		for _, s := range r.Sealed {
			sealed[s.File] += s.Lines
		}
	}
	if fmt.Sprint(sealed) != "map[network_2026-01-31.jsonl:200000 security_2026-01-31.jsonl:4]" {
		t.Errorf("sealed %v lines, want 200000 and 4", sealed)
	}
	if strings.Contains(h.out.String(), "ERROR") {
		t.Errorf("want nothing found, got:\n%s", h.out)
	}
}

func TestRunSealsUntilItIsStoppedAndOnceMore(t *testing.T) {
	h := newHome(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- Run(ctx, h.config(), slog.New(slog.NewTextHandler(t.Output(), nil))) }()
	h.write(testFile, 0, 10)
	for len(h.recordsSoFar()) == 0 {
		time.Sleep(5 * time.Millisecond)
	}
	h.write(testFile, 10, 20)
	cancel()
	h.check(<-done)
	h.start()
	defer h.stop()
	if got := h.sealer.seals.parts[part{testFile, 1}].lines; got != 20 {
		t.Errorf("%d lines are sealed after the stop, want 20", got)
	}
}

func (h *home) recordsSoFar() []Record {
	if _, err := os.Stat(filepath.Join(h.seals, recordsFile)); err != nil {
		return nil
	}
	return h.records()
}

// Files of days that are over aren't kept open, and a change of one is noticed all the same.
func TestFilesOfOldDays(t *testing.T) {
	h := newHome(t)
	h.start()
	defer h.stop()
	name := func(day int) string { return fmt.Sprintf("network_2026-01-%02d.jsonl", day) }
	for day := 1; day <= 31; day++ {
		h.write(name(day), day*100, day*100+20)
	}
	h.seal()
	open := 0
	for _, f := range h.sealer.files {
		if f.file != nil {
			open++
		}
	}
	if open != 2 {
		t.Errorf("%d files are open, want those of today and yesterday", open)
	}
	h.now = h.now.Add(2 * recheckInterval)
	h.flip(h.path(name(7)), 3*len(entry(700)))
	for range 3 {
		h.seal()
		h.now = h.now.Add(2 * recheckInterval)
	}
	if report := h.verify(nil); short(report.Findings) != "changed "+name(7)+" 3" || h.sealer.status.changes != 1 {
		t.Errorf("found %q, and the sealer %d; want line 3 of %s, once", short(report.Findings), h.sealer.status.changes, name(7))
	}
}

// The day ends: new files come, and what is late for the old ones is sealed, too.
func TestMidnight(t *testing.T) {
	h := newHome(t)
	h.start()
	defer h.stop()
	h.now = time.Date(2026, 1, 31, 23, 59, 59, 0, time.UTC)
	h.write(testFile, 0, 10)
	h.seal()
	h.now = h.now.Add(2 * time.Second)
	h.write("security_2026-02-01.jsonl", 10, 15)
	h.write(testFile, 15, 17)
	h.seal()
	report := h.verify(func(o *Options) { o.Now = h.now })
	if !report.OK || report.Lines != 17 || len(report.Notes) > 0 {
		t.Errorf("found %q, noted %q, %d lines; want nothing, nothing and 17", short(report.Findings), short(report.Notes), report.Lines)
	}
}

// However much there is to catch up on, it isn't read into memory: neither many lines nor one long one.
func TestMemoryIsBounded(t *testing.T) {
	h := newHome(t)
	h.write(testFile, 0, 150_000)
	h.check(os.WriteFile(h.path("network_2026-01-31.jsonl"), append(bytes.Repeat([]byte("x"), 20<<20), '\n'), 0o640))
	size := len(h.read(h.path(testFile)))
	h.start()
	defer h.stop()
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	h.seal()
	runtime.ReadMemStats(&after)
	if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 4<<20 {
		t.Errorf("sealing %d MB allocated %d kB, want 4 MB at most", (size+20<<20)>>20, allocated>>10)
	}
	runtime.ReadMemStats(&before)
	if report := h.verify(nil); !report.OK || report.Lines != 150_001 {
		t.Errorf("found %q in %d lines, want nothing in 150001", short(report.Findings), report.Lines)
	}
	runtime.ReadMemStats(&after)
	if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 16<<20 {
		t.Errorf("verifying allocated %d kB, want 16 MB at most", allocated>>10)
	}
}

// Whoever may write to the folder can make any number of files in it. They don't keep the sealer from the others.
func TestStrangeFilesAreNotFollowed(t *testing.T) {
	h := newHome(t)
	h.start()
	defer h.stop()
	strange := []string{"network_2026-03-01.jsonl", "network_1999-01-01.jsonl", "mine_2026-01-31.jsonl", "network_2026-01-31.jsonl.1", "..jsonl", "network.jsonl"}
	for i, name := range strange {
		h.write(name, i*10, i*10+3)
	}
	h.check(os.Mkdir(h.path("system_2026-01-31.jsonl"), 0o750))
	h.check(syscall.Mkfifo(h.path("permission_2026-01-31.jsonl"), 0o640))
	h.check(os.Symlink("/dev/zero", h.path("approval_2026-01-31.jsonl")))
	h.write(testFile, 100, 105)
	h.seal()
	if len(h.sealer.files) != 4 || h.sealer.seals.parts[part{testFile, 1}].lines != 5 || len(h.sealer.seals.parts) != 1 {
		t.Errorf("follows %d files and has sealed %+v; want four, and 5 lines of one", len(h.sealer.files), h.sealer.seals.parts)
	}
	if err := Health(h.status, h.now); err == nil || !strings.Contains(err.Error(), "is no regular file") {
		t.Errorf("Health = %v, want that a file is no regular one", err)
	}
}

// A verification beside writers and a sealer finds nothing.
func TestVerifyWhileItIsWritten(t *testing.T) {
	h := newHome(t)
	log, err := audit.Open(h.audit, "test", nil)
	h.check(err)
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	all.Go(func() {
		cfg := h.config()
		cfg.Interval = time.Millisecond
		if err := Run(ctx, cfg, slog.New(slog.NewTextHandler(t.Output(), nil))); err != nil {
			t.Error(err)
		}
	})
	for i := range 3 {
		all.Go(func() {
			for ctx.Err() == nil {
				if err := log.Write(t.Context(), audit.Entry{Category: audit.Network + audit.Category(i), Action: "something_happened"}); err != nil {
					t.Error(err)
				}
				time.Sleep(50 * time.Microsecond)
			}
		})
	}
	for len(h.recordsSoFar()) < 3 {
		time.Sleep(5 * time.Millisecond)
	}
	for range 20 {
		if report := h.verify(func(o *Options) { o.Now = time.Now() }); !report.OK {
			t.Errorf("found %q in a log that nobody has changed, want nothing", short(report.Findings))
		}
	}
}
