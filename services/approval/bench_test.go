package main

import (
	"fmt"
	"path/filepath"
	"testing"
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

// The whole call, over HTTP with mutual TLS: copying, hashing, syncing, recording, auditing. Each pack is new, and so is
// the content of each of its files.
func BenchmarkApprove50Files(b *testing.B) {
	w := start(b)
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		id := fmt.Sprintf("bench-%d", i)
		w.fill(id)
		w.check(w.client.Refresh(b.Context(), id))
		b.StartTimer()
		if _, err := w.call("POST", "/api/packs/"+id+"/approve", nil); err != nil {
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
