package auditlog

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/audit"
)

// sealHome names the folder that TestMain seals in place of running tests, until its standard input ends.
const (
	sealHome = "RUMI_TEST_SEAL_HOME"
	sealFast = "RUMI_TEST_SEAL_FAST" // makes it seal all the time
	sealFull = "RUMI_TEST_SEAL_FULL" // how large its files may become, in bytes, as if the disk were full then
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(sealHome); dir != "" {
		sealUntilEnd(dir)
		return
	}
	os.Exit(m.Run())
}

func sealUntilEnd(dir string) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = os.Stdin.Read(make([]byte, 1))
		cancel()
	}()
	LowerPriority(slog.New(slog.DiscardHandler))
	cfg := Config{Audit: filepath.Join(dir, "audit"), Log: filepath.Join(dir, "audit_log"), Status: filepath.Join(dir, "seal_status"), KeyFile: filepath.Join(dir, "signing_key"), Interval: DefaultInterval}
	if os.Getenv(sealFast) != "" {
		cfg.Interval, retryInterval = time.Millisecond, 20*time.Millisecond
	}
	if text := os.Getenv(sealFull); text != "" {
		limit, _ := strconv.ParseUint(text, 10, 64)
		_ = unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: limit, Max: unix.RLIM_INFINITY})
	}
	if err := Run(ctx, cfg, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// BenchmarkCost measures what a sealer, in a process of its own as in production, costs those who write the audit log: entries a second with
// and without it, in turns. ratio is the median of the turns' ratios; the goal is at least 0.95. The processor time an entry is that of the writers and
// that of the sealer. -benchtime doesn't matter.
func BenchmarkCost(b *testing.B) {
	for _, c := range []struct {
		category audit.Category
		writers  int
	}{{audit.Network, 16}, {audit.Security, 1}, {audit.Security, 64}} {
		b.Run(fmt.Sprintf("%s/%d", c.category, c.writers), func(b *testing.B) {
			const turns = 5
			var ratios, rates, writers, sealers []float64
			for turn := range turns {
				alone := func() load { return writeEntries(b, c.category, c.writers, false) }
				sealed := func() load { return writeEntries(b, c.category, c.writers, true) }
				var without, with load
				if turn%2 == 0 {
					without, with = alone(), sealed()
				} else {
					with, without = sealed(), alone()
				}
				ratios, rates = append(ratios, with.rate/without.rate), append(rates, without.rate)
				writers, sealers = append(writers, without.writers), append(sealers, with.sealer)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(rates), "entries/s")
			b.ReportMetric(median(ratios), "ratio")
			b.ReportMetric(median(writers), "writer_ns/entry")
			b.ReportMetric(median(sealers), "sealer_ns/entry")
		})
	}
}

func median(of []float64) float64 {
	slices.Sort(of)
	return of[len(of)/2]
}

// load is what several writers did in a second.
type load struct {
	rate            float64 // entries a second
	writers, sealer float64 // processor time in ns, for each entry
}

func writeEntries(b *testing.B, category audit.Category, writers int, sealed bool) load {
	dir := b.TempDir()
	private, _, err := NewKey("bench")
	must(b, err)
	must(b, os.WriteFile(filepath.Join(dir, "signing_key"), []byte(private), 0o600))
	must(b, os.Mkdir(filepath.Join(dir, "audit_log"), 0o750))
	must(b, os.Mkdir(filepath.Join(dir, "seal_status"), 0o750))
	log, err := audit.Open(filepath.Join(dir, "audit"), "bench", slog.New(slog.DiscardHandler))
	must(b, err)
	defer log.Close()
	stop := func() *os.ProcessState { return nil }
	if sealed {
		stop = startSealer(b, dir)
	}
	entry := audit.Entry{Category: category, Severity: audit.Warning, Action: "network_denied", OwnerPack: "weather",
		Details: map[string]any{"domain": "example.com", "port": 443, "blocked_reason": "grant_denied"}}
	var written atomic.Int64
	var all sync.WaitGroup
	before, began := processorTime(b), time.Now()
	for range writers {
		all.Go(func() {
			for time.Since(began) < time.Second {
				if err := log.Write(b.Context(), entry); err != nil {
					b.Error(err)
					return
				}
				written.Add(1)
			}
		})
	}
	all.Wait()
	entries := float64(written.Load())
	done := load{rate: entries / time.Since(began).Seconds(), writers: float64(processorTime(b)-before) / entries}
	if ended := stop(); ended != nil {
		done.sealer = float64(ended.UserTime()+ended.SystemTime()) / entries
	}
	return done
}

// processorTime is what this process has used.
func processorTime(b *testing.B) time.Duration {
	var used syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &used))
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// BenchmarkBacklog measures how fast a sealer catches up and how fast all is verified, in lines a second.
func BenchmarkBacklog(b *testing.B) {
	const lines = 200_000
	h := newHomeIn(b, b.TempDir())
	h.write(testFile, 0, lines)
	var sealing, verifying time.Duration
	for b.Loop() {
		must(b, os.RemoveAll(h.seals))
		must(b, os.Mkdir(h.seals, 0o750))
		h.start()
		began := time.Now()
		h.seal()
		sealing += time.Since(began)
		h.stop()
		began = time.Now()
		if report := h.verify(nil); !report.OK || report.Lines != lines {
			b.Fatalf("%d lines, found %q; want %d and nothing", report.Lines, short(report.Findings), lines)
		}
		verifying += time.Since(began)
	}
	b.ReportMetric(float64(b.N*lines)/sealing.Seconds(), "sealed/s")
	b.ReportMetric(float64(b.N*lines)/verifying.Seconds(), "verified/s")
}

// startSealer starts a sealer, waits until it seals, and returns what stops it.
func startSealer(b testing.TB, dir string) (stop func() *os.ProcessState) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), sealHome+"="+dir)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	must(b, err)
	must(b, cmd.Start())
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(dir, "seal_status", "status.json")); err == nil {
			break
		} else if time.Now().After(deadline) {
			b.Fatal("the sealer has not begun after 10 s")
		}
	}
	return func() *os.ProcessState {
		must(b, stdin.Close())
		must(b, cmd.Wait())
		return cmd.ProcessState
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
