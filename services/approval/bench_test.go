package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/rumi-ai/rumi/libs/rpc"
)

// fill writes a pack of 50 files, as design.md's numbers have them.
func (w *world) fill(id string) {
	w.t.Helper()
	dir := filepath.Join(w.Ecosystem(), id)
	w.write(filepath.Join(dir, "ecosystem.json"), fmt.Sprintf(`{"pack_id":%q,"pack_identity":"github:a/%s"}`, id, id))
	for i := range 49 {
		w.write(filepath.Join(dir, "backend", fmt.Sprintf("m%02d.py", i)), fmt.Sprintf("# %s %d\n%s", id, i, make([]byte, 4096)))
	}
}

// The whole call, over HTTP with mutual TLS: copying, hashing, syncing, recording, auditing.
func BenchmarkApprove50Files(b *testing.B) {
	w := start(b)
	w.fill("bench")
	w.check(w.client.Refresh(b.Context(), "bench"))
	change := filepath.Join(w.Ecosystem(), "bench/backend/m00.py")
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		w.check(os.WriteFile(change, fmt.Appendf(nil, "# %d", i), 0o644))
		b.StartTimer()
		if _, err := rpc.Call[struct{ Status string }](b.Context(), w.gateway, "POST", "/api/packs/bench/approve", nil); err != nil {
			b.Fatal(err)
		}
	}
}

// A scan's share of approval, for packs that are pending and for packs that are approved and unchanged.
func BenchmarkRefresh200Packs(b *testing.B) {
	w := start(b)
	for i := range 200 {
		w.fill(fmt.Sprintf("p%03d", i))
	}
	w.check(w.client.Refresh(b.Context()))
	b.Run("pending", func(b *testing.B) {
		for b.Loop() {
			w.check(w.client.Refresh(b.Context()))
		}
	})
	for i := range 200 {
		_, err := w.call("POST", fmt.Sprintf("/api/packs/p%03d/approve", i), nil)
		w.check(err)
	}
	w.check(w.client.Refresh(b.Context())) // reads once what was approved
	b.Run("approved", func(b *testing.B) {
		for b.Loop() {
			w.check(w.client.Refresh(b.Context()))
		}
	})
}
