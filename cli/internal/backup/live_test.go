package backup

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/flock"
)

// While packs are installed, approved and removed, handlers and environments replaced and blobs collected all the time, each backup is whole:
// it verifies, and restores to a home in which everything fits. Between taking the files and the databases the home is certain to change.
func TestBackupsOfALivingHome(t *testing.T) {
	h := newHome(t)
	h.fill()
	must(t, os.WriteFile(h.path(stagingDir, ".lock"), nil, 0o600))
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	changes := 0
	wait.Go(func() {
		for ; ctx.Err() == nil; changes++ {
			h.change(changes)
			time.Sleep(15 * time.Millisecond)
		}
	})
	for n := range 6 {
		o := h.options()
		o.step = func(what string) {
			if what == "files" { // a decision between the files and the databases, in the first round at the latest
				time.Sleep(40 * time.Millisecond)
			}
		}
		file, report := h.create(o)
		if !report.OK {
			t.Errorf("backup %d while the home changes has the problems %v, want none", n, report.Problems)
		}
		target := h.target()
		restored, err := Restore(t.Context(), h.source(file), target)
		must(t, err)
		if !restored.OK {
			t.Errorf("restore of backup %d has the problems %v, want none", n, restored.Problems)
		}
		must(t, os.RemoveAll(target.Home), os.Remove(file))
	}
	cancel()
	wait.Wait()
	if changes < 20 {
		t.Errorf("only %d changes happened meanwhile", changes)
	}
}

// change makes one change of the home as the services make it: an apply under the registry's lock, an approval, a trust, a removal, and the
// collection of what nothing needs.
func (h *home) change(n int) {
	lock := flock.New(h.path(stagingDir, ".lock"))
	must(h.t, lock.Lock(context.Background()))
	defer lock.Close()
	id := fmt.Sprintf("pack%d", n%3)
	switch n % 4 {
	case 0:
		h.pack(id, fmt.Sprintf("print(%d)", n))
		h.exec("approval", `UPDATE records SET status = 'modified' WHERE pack_id = ?`, id)
		lock.Close()
		h.approve(id)
		h.exec("egress-proxy", `INSERT INTO network_grants VALUES (?) ON CONFLICT DO NOTHING`, id)
	case 1:
		lock.Close()
		h.trust("alpha", "sum", fmt.Sprintf("def execute(c, a): return %d", n))
	case 2:
		h.exec("egress-proxy", `DELETE FROM network_grants WHERE pack_id = ?`, id)
		h.exec("approval", `DELETE FROM records WHERE pack_id = ?`, id)
		must(h.t, os.RemoveAll(h.path("ecosystem", id)))
	case 3:
		lock.Close()
		h.collect()
	}
}

// collect removes the bundles of trees that no record names.
func (h *home) collect() {
	names, err := filepath.Glob(h.path("user_data/approved/manifests/*.json"))
	must(h.t, err)
	for _, name := range names {
		digits := strings.TrimSuffix(filepath.Base(name), ".json")
		if rows(h.t, h.dir, "approval", `SELECT COUNT(*) FROM records WHERE digest = 'sha256:`+digits+`'`) == 0 {
			must(h.t, os.Remove(name), os.Remove(h.path("user_data/approved/bundles", digits)))
		}
	}
}
