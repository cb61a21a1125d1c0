package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/service/servicetest"
)

// startBoth is pack-registry and approval, each in a process of its own, in a home with 200 packs of 50 files.
func startBoth(b *testing.B, approval string) *bench {
	b.Helper()
	s := servicetest.New(b, "pack-registry", "approval")
	for _, dir := range []string{"pending", "approved"} {
		must(b, os.MkdirAll(filepath.Join(s.UserData(), dir), 0o750))
	}
	address := s.Release("approval")
	run(b, exec.Command(approval), append(s.Environ("approval"), "APPROVAL_TEST_ADDRESS="+address, "RUMI_ECOSYSTEM="+s.Ecosystem(), "RUMI_LOG_LEVEL=error"))
	awaitListener(b, address)
	w := startBench(b, s)
	fill(w)
	return w
}

func (w *bench) scan() {
	if found := w.call("POST", "/api/packs/scan", "application/json", nil); found["scanned"] != 200.0 {
		w.b.Fatalf("scanned %v; want found[\"scanned\"] == 200.0", found["scanned"])
	}
}

// beside prints what a figure is to be compared with: the goal of design.md and what it gives for the original, which was
// measured there and not in this run.
func beside(b *testing.B, goal, original float64) {
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms")
	b.ReportMetric(goal, "ms-goal")
	b.ReportMetric(original, "ms-original-published")
}

// BenchmarkScanBothServices is design.md's number as a whole: POST /api/packs/scan of 200 packs of 50 files, answered by
// pack-registry and approval over mutual TLS. "first" is of packs that nobody has seen, each time in a new home; "again" of packs in
// which nothing changed, "again after one changed" of packs one of which has another file in each turn.
func BenchmarkScanBothServices(b *testing.B) {
	approval := filepath.Join(b.TempDir(), "approval.test")
	// Its test binary runs approval at an address, as this one runs pack-registry (see process).
	if out, err := exec.Command("go", "test", "-c", "-o", approval, "github.com/rumi-ai/rumi/services/approval").CombinedOutput(); err != nil {
		b.Fatalf("build approval: %v\n%s", err, out)
	}
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			w := startBoth(b, approval)
			response, err := w.client.Get("https://pack-registry/api/packs/staging") // the connection is there
			must(b, err)
			response.Body.Close()
			b.StartTimer()
			w.scan()
		}
		beside(b, 100, 656)
	})
	w := startBoth(b, approval)
	w.scan()
	again := func(name string) {
		time.Sleep(100 * time.Millisecond) // what was just written is read once more
		w.scan()
		b.Run("again, "+name, func(b *testing.B) {
			for b.Loop() {
				w.scan()
			}
			beside(b, 5, 17)
		})
	}
	again("pending")
	gateway := &bench{w.Suite, b, w.Client("gateway", "approval"), 0}
	for p := range 200 {
		gateway.call("POST", fmt.Sprintf("/api/packs/p%03d/approve", p), "application/json", nil)
	}
	again("approved")
	b.Run("again after one changed", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			b.StopTimer()
			must(b, os.WriteFile(filepath.Join(w.Ecosystem(), fmt.Sprintf("p%03d", i%200), "backend/new.py"), []byte{byte(i)}, 0o644))
			b.StartTimer()
			w.scan()
		}
	})
}
