package main

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/api/approval"
)

// packs are the values of rumi_packs, without those that are 0.
func packs(want map[string]float64) map[string]float64 {
	all := make(map[string]float64)
	for _, status := range []string{"pending", "approved", "running", "modified", "blocked", "error", "retired"} {
		all[fmt.Sprintf("rumi_packs{status=%q}", status)] = want[status]
	}
	return all
}

func decisions(decision string, ok, waiting, refused float64) map[string]float64 {
	name := func(result string) string {
		return fmt.Sprintf("rumi_approval_decisions_total{decision=%q,result=%q}", decision, result)
	}
	return map[string]float64{name("ok"): ok, name("waiting"): waiting, name("refused"): refused, name("failed"): 0}
}

// TestPacksByStatus: packs are counted as they are at the time of the scrape, through all that can happen to one.
func TestPacksByStatus(t *testing.T) {
	w := start(t)
	w.server.WantValues(t, "at first", packs(nil))
	dir := w.pack("demo")
	w.pack("other")
	w.server.WantValues(t, "two", packs(map[string]float64{"pending": 2}))
	w.approve("demo")
	w.server.WantValues(t, "approved", packs(map[string]float64{"pending": 1, "approved": 1}))
	w.check(approval.NewClient(w.Peer("capability-broker", "approval")).SetRunning(t.Context(), "demo", true))
	w.server.WantValues(t, "running", packs(map[string]float64{"pending": 1, "running": 1}))
	before := w.server.Values(t)["rumi_pack_modifications_total"]
	w.write(filepath.Join(dir, "backend/main.py"), "print('changed')\n")
	w.eventually("demo is modified", func() bool { return w.status("demo") == "modified" })
	w.server.WantValues(t, "modified", packs(map[string]float64{"pending": 1, "modified": 1}))
	w.server.WantValues(t, "modified", map[string]float64{"rumi_pack_modifications_total": before + 1, "rumi_packs_held_closed": 0})
	_, err := w.call("POST", "/api/packs/other/reject", map[string]any{"reason": "no"})
	w.check(err)
	w.server.WantValues(t, "rejected", packs(map[string]float64{"blocked": 1, "modified": 1}))
	w.retire("other", true)
	w.server.WantValues(t, "retired", packs(map[string]float64{"retired": 1, "modified": 1}))
}

// TestDecisionsAreCounted: each decision of a person is counted by what became of it.
func TestDecisionsAreCounted(t *testing.T) {
	w, _ := two(t)
	w.server.WantValues(t, "at first", decisions("approve", 0, 0, 0))
	w.ask("alice", `{}`)
	w.server.WantValues(t, "asked", decisions("approve", 0, 1, 0))
	w.server.WantValues(t, "asked", map[string]float64{"rumi_approval_requests": 1})
	w.as("alice", "init", "POST", approveDemo, `{"digest": "sha256:0000000000000000000000000000000000000000000000000000000000000000"}`)
	w.server.WantValues(t, "another digest", decisions("approve", 0, 1, 1))
	w.ask("alice", `{}`) // the refusal ended the request
	w.as("bob", "carol", "POST", approveDemo, `{}`)
	w.server.WantValues(t, "confirmed", decisions("approve", 1, 2, 1))
	w.server.WantValues(t, "confirmed", map[string]float64{"rumi_approval_requests": 0})
	w.as("alice", "init", "POST", "/api/packs/demo/reject", `{"reason": "no"}`)
	w.as("alice", "init", "POST", "/api/packs/never/reject", `{}`)
	w.server.WantValues(t, "rejected", decisions("reject", 1, 0, 1))
}

// TestScansAndFollowersAreMeasured: each comparison of a folder has a duration, all of them a time, and who follows the gates is counted.
func TestScansAndFollowersAreMeasured(t *testing.T) {
	w := startWith(t, map[string]string{"RUMI_VERIFY_INTERVAL": "1s"})
	w.pack("demo")
	w.approve("demo")
	before := w.server.Values(t)
	began := float64(time.Now().Unix())
	w.eventually("demo is scanned again", func() bool {
		now := w.server.Values(t)
		return now["rumi_pack_scan_duration_seconds_count"] > before["rumi_pack_scan_duration_seconds_count"] && now["rumi_packs_verified_timestamp_seconds"] >= began
	})
	w.server.WantValues(t, "the test follows", map[string]float64{"rumi_gate_followers": 1})
}

// TestPacksMakeNoSeries: whatever packs are called and rejected for, no time series comes of it.
func TestPacksMakeNoSeries(t *testing.T) {
	w := start(t)
	w.pack("demo")
	w.server.WantNoNewSeries(t, func() {
		for i := range 60 {
			id := fmt.Sprintf("made_up_%d", i)
			w.pack(id)
			_, _ = w.call("POST", "/api/packs/"+id+"/approve", nil)
			_, _ = w.call("POST", fmt.Sprintf("/api/packs/never_%d/approve", i), nil)
			_, _ = w.call("POST", "/api/packs/"+id+"/reject", map[string]any{"reason": fmt.Sprint("made up ", i)})
		}
	})
}
