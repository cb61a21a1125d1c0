package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/uds"
)

// ask repeats a request over one connection and reports the median latency.
func benchmarkAsk(b *testing.B, w *world, request map[string]any) {
	conn := w.dial("p")
	if got := conn.ask(request); got["success"] != true {
		b.Fatalf("the first call got %v, want success", got)
	}
	took := make([]time.Duration, 0, b.N)
	for b.Loop() {
		began := time.Now()
		if got := conn.ask(request); got["success"] != true {
			b.Fatalf("the call got %v, want success", got)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}

// The goals are design.md's: p50 under 1 ms.
func BenchmarkWarmHandlerCall(b *testing.B) {
	w := newWorld(b).start()
	w.write("p", handlerPack(map[string]string{"echo": "def execute(context, args):\n    return args"}))
	w.approve("p")
	w.install("p")
	benchmarkAsk(b, w, map[string]any{"permission_id": "test.echo", "args": map[string]any{"x": 1}, "timeout_seconds": 20})
}

// At least 1,000 a second by one worker, with an audit entry on the disk for each call.
func BenchmarkHandlerThroughput(b *testing.B) {
	w := newWorld(b)
	w.env["RUMI_CAPABILITY_WORKERS_PER_HANDLER"] = "1"
	w.start()
	w.write("p", handlerPack(map[string]string{"echo": "def execute(context, args):\n    return args"}))
	w.approve("p")
	w.install("p")
	request := map[string]any{"permission_id": "test.echo", "args": map[string]any{"x": 1}, "timeout_seconds": 20}
	if got := w.dial("p").ask(request); got["success"] != true {
		b.Fatalf("the first call got %v, want success", got)
	}
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		conn := w.dial("p")
		for pb.Next() {
			if got := conn.ask(request); got["success"] != true {
				b.Errorf("the call got %v, want success", got)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
}

// The first call of a handler without a worker takes at most 1.3 times as long as docker run of the same image, which
// makes less of a container: the two take turns.
func BenchmarkColdHandlerCall(b *testing.B) {
	w := newWorld(b).start()
	w.write("p", handlerPack(map[string]string{
		"cold": "import os, threading\ndef execute(context, args):\n    threading.Timer(0.02, os._exit, (0,)).start()\n    return 1",
	}))
	w.approve("p")
	w.install("p")
	gone := func() {
		w.eventually("end of the worker", func() bool { return len(w.handlerContainers()) == 0 })
	}
	conn := w.dial("p")
	ask := func() {
		if got := conn.ask(map[string]any{"permission_id": "test.cold", "timeout_seconds": 20}); got["success"] != true {
			b.Fatalf("the call got %v, want success", got)
		}
	}
	ask()
	gone()
	var cold, run []time.Duration
	for b.Loop() {
		began := time.Now()
		ask()
		cold = append(cold, time.Since(began))
		gone()
		began = time.Now()
		if out, err := exec.Command("docker", "run", "--name="+w.instance, "--network=none", packImage, "run", "--", "python3", "-c", "print(1)").CombinedOutput(); err != nil {
			b.Fatalf("docker run: %v: %s", err, out)
		}
		run = append(run, time.Since(began))
		if out, err := exec.Command("docker", "rm", w.instance).CombinedOutput(); err != nil {
			b.Fatalf("docker rm: %v: %s", err, out)
		}
	}
	slices.Sort(cold)
	slices.Sort(run)
	b.ReportMetric(float64(cold[len(cold)/2].Milliseconds()), "cold-p50-ms")
	b.ReportMetric(float64(run[len(run)/2].Milliseconds()), "docker-run-p50-ms")
	b.ReportMetric(float64(cold[len(cold)/2])/float64(run[len(run)/2]), "ratio")
}

// p50 under 300 µs, with an audit entry on the disk for each call.
func BenchmarkSecretsGet(b *testing.B) {
	w := newWorld(b)
	w.env["RUMI_SECRET_GET_RATE_LIMIT"] = "0"
	w.env["RUMI_CAPABILITY_RATE_LIMIT"] = "1000000000"
	w.start()
	w.secrets["KEY"] = "value"
	w.write("p", handlerPack(nil))
	w.approve("p")
	w.must("POST", "/api/capability/grants/grant", map[string]any{"principal_id": "p", "permission_id": "secrets.get",
		"config": map[string]any{"allowed_keys": []string{"KEY"}}})
	benchmarkAsk(b, w, map[string]any{"permission_id": "secrets.get", "args": map[string]any{"key": "KEY"}})
}

// Packs started one after another, from the request to the answer. 200 of them: -benchtime=200x.
func BenchmarkPackStart(b *testing.B) {
	w := newWorld(b).start()
	w.write("warm", packFiles())
	w.approve("warm")
	w.must("POST", "/api/containers/warm/start", nil)
	before := used(b)
	var took []time.Duration
	for n := 0; b.Loop(); n++ {
		b.StopTimer()
		id := fmt.Sprintf("p%d", n)
		w.write(id, packFiles())
		w.approve(id)
		b.StartTimer()
		began := time.Now()
		w.must("POST", "/api/containers/"+id+"/start", nil)
		took = append(took, time.Since(began))
		b.StopTimer()
		w.must("DELETE", "/api/containers/"+id, nil)
		w.gone(id)
		b.StartTimer()
	}
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Milliseconds()), "p99-ms")
	after := used(b)
	b.ReportMetric(float64(after.descriptors-before.descriptors), "more-fds")
	b.ReportMetric(float64(after.goroutines-before.goroutines), "more-goroutines")
	b.ReportMetric(float64(after.heap-before.heap)/1024, "more-heap-KiB")
}

// usage is what this process, the broker in it, has taken.
type usage struct {
	descriptors, goroutines int
	heap                    int64 // bytes that are in use
}

func used(t testing.TB) usage {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var memory runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&memory)
	return usage{len(open), runtime.NumGoroutine(), int64(memory.HeapAlloc)}
}

// gone has approval forget a pack, and waits for its socket to go.
func (w *world) gone(packID string) {
	w.t.Helper()
	w.mu.Lock()
	w.revision++
	delete(w.states, packID)
	w.mu.Unlock()
	w.gates.Remove(w.t.Context(), packID)
	w.eventually("end of the socket of "+packID, func() bool { _, err := os.Lstat(w.socket(packID)); return err != nil })
}

// Packs that came and went leave nothing behind: no descriptor, no goroutine, no container, no folder of sockets.
func TestPacksLeaveNothing(t *testing.T) {
	w := newWorld(t).start()
	cycle := func(id string) {
		w.write(id, packFiles())
		w.approve(id)
		w.must("POST", "/api/containers/"+id+"/start", nil)
		w.must("DELETE", "/api/containers/"+id, nil)
		w.gone(id)
	}
	var warm sync.WaitGroup
	for n := range 3 { // at once: there are more idle connections between the services afterwards than one pack needs
		warm.Go(func() { cycle(fmt.Sprintf("warm%d", n)) })
	}
	warm.Wait()
	before := used(t)
	for n := range 8 {
		cycle(fmt.Sprintf("p%d", n))
	}
	w.eventually("as many goroutines and descriptors as before", func() bool {
		now := used(t)
		return now.goroutines <= before.goroutines+4 && now.descriptors <= before.descriptors+4 // idle connections come and go
	})
	engine := w.engine()
	defer engine.Close()
	if left, err := engine.List(t.Context(), ""); err != nil || len(left) != 0 {
		t.Errorf("containers are left: %v, %v; want none", left, err)
	}
	if entries, err := os.ReadDir(filepath.Join(w.run, "c")); err != nil || len(entries) != 1 || entries[0].Name() != uds.MarkName {
		t.Errorf("sockets are left: %v, %v; want the mark alone", entries, err)
	}
}

// Each denial has two entries on the disk.
func BenchmarkDenial(b *testing.B) {
	w := newWorld(b).start()
	w.write("p", handlerPack(nil))
	w.approve("p")
	b.RunParallel(func(pb *testing.PB) {
		conn := w.dial("p")
		for pb.Next() {
			if got := conn.ask(map[string]any{"permission_id": "test.none"}); got["error_type"] != "grant_denied" {
				b.Errorf("the call got %v, want grant_denied", got)
				return
			}
		}
	})
}
