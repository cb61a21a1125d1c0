package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/pack/packtest"
)

// Whatever lies in the way in the ecosystem folder, approval starts, and decides about the packs that can be read.
func TestItStartsInAnOddHome(t *testing.T) {
	for _, name := range packtest.Names() {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // each waits for its services to stop and start
			w := start(t)
			w.pack("kept")
			w.approve("kept")
			w.pack("gone") // looked for in the old place, too, once its folder is away
			w.approve("gone")
			w.server.Stop()
			w.check(os.RemoveAll(filepath.Join(w.Ecosystem(), "gone")))
			odd := packtest.Fill(t, w.Ecosystem())
			packtest.Obstacles[name](t, filepath.Join(w.Ecosystem(), pack.LegacyDir))
			w.boot()
			w.eventually("kept is open", func() bool { s, _ := w.view.Get("kept"); return s.Open })
			if got := w.status("gone"); got != "modified" {
				t.Errorf("gone is %s, want modified", got)
			}
			w.check(w.client.Refresh(t.Context()))
			for _, id := range odd.Broken {
				if os.Getuid() == 0 && (id == "odd_closed" || id == "odd_foreign") {
					continue // root reads them
				}
				if got := w.status(id); got != "error" {
					t.Errorf("%s is %s, want error", id, got)
				}
			}
			w.pack("late")
			w.approve("late")
		})
	}
	if !slices.Contains(packtest.Names(), "dead mount") {
		t.Error("no dead mount was tried")
	}
}
