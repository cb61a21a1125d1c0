package events

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/auditfile"
)

// discard is a client that takes everything at once.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) WriteHeader(int)             {}
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) FlushError() error           { return nil }

func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// BenchmarkHundredClients is what a hundred streams take of one processor, while nothing is written, and while 1,000 entries a second are.
func BenchmarkHundredClients(b *testing.B) {
	for _, c := range []struct {
		name  string
		query auditfile.Query
		rate  int // entries a second
	}{{"idle", auditfile.Query{}, 0}, {"all of 1000 a second", auditfile.Query{}, 1000}, {"few of 1000 a second", auditfile.Query{PackID: "none"}, 1000}} {
		b.Run(c.name, func(b *testing.B) {
			dir := b.TempDir()
			entries, err := audit.Open(dir, "x", slog.New(slog.NewTextHandler(io.Discard, nil)))
			if err != nil {
				b.Fatal(err)
			}
			defer entries.Close()
			g := startGateway(b, dir)
			ctx, cancel := context.WithCancel(b.Context())
			var running sync.WaitGroup
			for i := range 100 {
				running.Go(func() {
					r := httptest.NewRequest(http.MethodGet, "/api/events", nil).WithContext(ctx)
					_ = g.Serve(discard{http.Header{}}, r, Request{Query: c.query, Who: string(rune('A' + i/10)), Visible: func(string) bool { return true }})
				})
			}
			time.Sleep(300 * time.Millisecond)
			for b.Loop() { // one second each
				before := processorTime(b)
				for tick := range 10 {
					for range c.rate / 10 {
						if err := entries.Write(ctx, audit.Entry{Category: audit.Network, Action: "x_done", OwnerPack: "a", Details: map[string]any{"host": "a.example", "tick": tick}}); err != nil {
							b.Fatal(err)
						}
					}
					time.Sleep(100 * time.Millisecond)
				}
				b.ReportMetric(float64(processorTime(b)-before)/float64(time.Millisecond), "ms/s")
			}
			cancel()
			running.Wait()
			g.end()
		})
	}
}
