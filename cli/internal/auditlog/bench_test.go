package auditlog

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/audit"
)

// sealHome names the folder that TestMain seals in place of running tests, until its standard input ends.
const (
	sealHome = "RUMI_TEST_SEAL_HOME"
	sealFast = "RUMI_TEST_SEAL_FAST" // makes it seal all the time
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
	cfg := Config{Audit: filepath.Join(dir, "audit"), Log: filepath.Join(dir, "audit_log"), KeyFile: filepath.Join(dir, "signing_key"), Interval: DefaultInterval}
	if os.Getenv(sealFast) != "" {
		cfg.Interval = time.Millisecond
	}
	if err := Run(ctx, cfg, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// BenchmarkCost measures what a sealer, in a process of its own as in production, costs those who write the audit log: entries a second with
// and without it, in turns, and the ratio of the medians. The goal is at least 0.95. -benchtime doesn't matter.
func BenchmarkCost(b *testing.B) {
	for _, c := range []struct {
		category audit.Category
		writers  int
	}{{audit.Network, 16}, {audit.Security, 1}, {audit.Security, 64}} {
		b.Run(fmt.Sprintf("%s/%d", c.category, c.writers), func(b *testing.B) {
			const rounds = 5
			var with, without []float64
			for range rounds {
				without = append(without, entriesPerSecond(b, c.category, c.writers, false))
				with = append(with, entriesPerSecond(b, c.category, c.writers, true))
			}
			slices.Sort(with)
			slices.Sort(without)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(with[rounds/2], "sealed_entries/s")
			b.ReportMetric(without[rounds/2], "entries/s")
			b.ReportMetric(with[rounds/2]/without[rounds/2], "ratio")
		})
	}
}

// entriesPerSecond is how many entries several writers write in a second.
func entriesPerSecond(b *testing.B, category audit.Category, writers int, sealed bool) float64 {
	dir := b.TempDir()
	private, _, err := NewKey("bench")
	must(b, err)
	must(b, os.WriteFile(filepath.Join(dir, "signing_key"), []byte(private), 0o600))
	must(b, os.Mkdir(filepath.Join(dir, "audit_log"), 0o750))
	var written atomic.Int64
	log, err := audit.Open(filepath.Join(dir, "audit"), "bench", slog.New(slog.DiscardHandler))
	must(b, err)
	defer log.Close()
	if sealed {
		stop := startSealer(b, dir)
		var before, after syscall.Rusage
		syscall.Getrusage(0, &before)
		defer func() {
			syscall.Getrusage(0, &after)
			st := stop()
			n := written.Load()
			w := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
			b.Logf("%d lines, writer %v cpu/line, sealer %v user %v sys per line", n, w/time.Duration(n), st.UserTime()/time.Duration(n), st.SystemTime()/time.Duration(n))
		}()
	}
	entry := audit.Entry{Category: category, Severity: audit.Warning, Action: "network_denied", OwnerPack: "weather",
		Details: map[string]any{"domain": "example.com", "port": 443, "blocked_reason": "grant_denied"}}
	var all sync.WaitGroup
	began := time.Now()
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
	return float64(written.Load()) / time.Since(began).Seconds()
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
		if _, err := os.Stat(filepath.Join(dir, "audit_log", statusFile)); err == nil {
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
