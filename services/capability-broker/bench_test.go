package main

import (
	"slices"
	"testing"
	"time"
)

// ask repeats a request over one connection and reports the median latency.
func benchmarkAsk(b *testing.B, w *world, request map[string]any) {
	conn := w.dial("p")
	if got := conn.ask(request); got["success"] != true {
		b.Fatalf("warm-up: %v", got)
	}
	took := make([]time.Duration, 0, b.N)
	for b.Loop() {
		began := time.Now()
		if got := conn.ask(request); got["success"] != true {
			b.Fatal(got)
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

// p50 under 300 µs, with an audit entry on the disk for each call.
func BenchmarkSecretsGet(b *testing.B) {
	w := newWorld(b)
	w.env["RUMI_SECRET_GET_RATE_LIMIT"] = "0"
	w.start()
	w.secrets["KEY"] = "value"
	w.write("p", handlerPack(nil))
	w.approve("p")
	w.must("POST", "/api/capability/grants/grant", map[string]any{"principal_id": "p", "permission_id": "secrets.get",
		"config": map[string]any{"allowed_keys": []string{"KEY"}}})
	benchmarkAsk(b, w, map[string]any{"permission_id": "secrets.get", "args": map[string]any{"key": "KEY"}})
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
				b.Error(got)
				return
			}
		}
	})
}
