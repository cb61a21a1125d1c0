package candidate_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/candidate"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/store"
)

func (o *owner) notice(t *testing.T, keys ...string) {
	t.Helper()
	if err := o.BackgroundScan(t.Context(), found(keys...), nil); err != nil {
		t.Fatal(err)
	}
}

func (o *owner) states(t *testing.T) map[string]candidate.State {
	t.Helper()
	items, err := o.List(t.Context(), "")
	must(t, err)
	states := map[string]candidate.State{}
	for _, i := range items {
		states[i.Key] = i.State
	}
	return states
}

// Bytes that a pack no longer has wait for nobody and are in no count. When they come back, so do their rejections.
func TestSuperseded(t *testing.T) {
	suite(t, func(t *testing.T, o *owner, _ func() *store.DB) {
		o.scan(t, "p:pending", "p:failed", "p:rejected", "p:blocked", "p:installed", "q:pending")
		_, err := o.approve(operator(t), "p:failed", fails)
		if err == nil {
			t.Fatal("the installation did not fail")
		}
		_, err = o.approve(operator(t), "p:installed", works)
		must(t, err)
		_, err = o.Reject(operator(t), "p:rejected", "no")
		must(t, err)
		for range candidate.BlockedAfter {
			_, err = o.Reject(operator(t), "p:blocked", "no")
			must(t, err)
		}
		o.scan(t, "q:pending")
		want := map[string]candidate.State{
			"p:pending": candidate.Superseded, "p:failed": candidate.Superseded, "p:rejected": candidate.Superseded,
			"p:blocked": candidate.Blocked, "p:installed": candidate.Installed, "q:pending": candidate.Pending,
		}
		if got := o.states(t); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got %v, want %v", got, want)
		}
		if got, err := o.Counts(t.Context()); err != nil || got != (candidate.Counts{Pending: 1, Installed: 1, Blocked: 1}) {
			t.Errorf("counts are %+v, %v; want one pending, installed and blocked", got, err)
		}
		if got := o.scan(t, "p:rejected", "p:pending", "q:pending"); got.SkippedCooldown != 1 || got.PendingCreated != 1 || got.SkippedPending != 1 {
			t.Errorf("when they come back: %+v; want the rejected one to cool down, the other pending", got)
		}
		if got := o.get(t, "p:rejected"); got.State != candidate.Rejected || got.RejectCount != 1 {
			t.Errorf("the rejected one is %+v, want its rejection to count", got.Status)
		}
	})
}

// Nobody can say what a pack has that could not be read: its candidates stay as they are.
func TestPacksWithProblemsKeepTheirCandidates(t *testing.T) {
	suite(t, func(t *testing.T, o *owner, _ func() *store.DB) {
		o.scan(t, "p:1", "q:1")
		_, err := o.Scan(t.Context(), nil, []candidate.ScanError{{PackID: "p", Error: "permission denied"}})
		must(t, err)
		if got := o.states(t); got["p:1"] != candidate.Pending || got["q:1"] != candidate.Superseded {
			t.Errorf("got %v, want p's to wait and q's superseded", got)
		}
	})
}

// The candidate of a pack that another one was installed after is not in use.
func TestOnlyTheLastInstalledIsInUse(t *testing.T) {
	suite(t, func(t *testing.T, o *owner, _ func() *store.DB) {
		o.scan(t, "p:1", "p:2")
		for _, key := range []string{"p:1", "p:2"} {
			o.now = o.now.Add(time.Second)
			_, err := o.approve(operator(t), key, works)
			must(t, err)
		}
		o.scan(t, "p:2")
		if got := o.states(t); got["p:1"] != candidate.Superseded || got["p:2"] != candidate.Installed {
			t.Errorf("got %v, want the first superseded", got)
		}
		o.scan(t, "p:1") // the pack went back
		if got := o.states(t); got["p:1"] != candidate.Pending || got["p:2"] != candidate.Installed {
			t.Errorf("got %v, want the first to wait for a decision, the second in use until there is one", got)
		}
	})
}

// What is noticed without a scan waits at once, is told as new by the next scan, and changes no decision.
func TestBackgroundScan(t *testing.T) {
	suite(t, func(t *testing.T, o *owner, _ func() *store.DB) {
		o.notice(t, "p:1", "p:2")
		if got, err := o.Counts(t.Context()); err != nil || got.Pending != 2 || o.pings != 1 {
			t.Fatalf("noticed: %+v, %v, told %d times; want two pending, told once", got, err, o.pings)
		}
		o.notice(t, "p:1", "p:2")
		if o.pings != 1 {
			t.Errorf("told %d times of nothing new; want 0", o.pings-1)
		}
		if got := o.scan(t, "p:1", "p:2"); got.PendingCreated != 2 || got.SkippedPending != 0 {
			t.Errorf("the scan after it: %+v, want both as new", got)
		}
		if got := o.scan(t, "p:1", "p:2"); got.PendingCreated != 0 || got.SkippedPending != 2 {
			t.Errorf("the one after that: %+v, want none as new", got)
		}
		if _, err := o.approve(operator(t), "p:1", fails); err == nil {
			t.Fatal("the installation did not fail")
		}
		_, err := o.Reject(operator(t), "p:2", "no")
		must(t, err)
		o.now = o.now.Add(2 * candidate.Cooldown)
		o.notice(t, "p:1", "p:2")
		if got := o.states(t); got["p:1"] != candidate.Failed || got["p:2"] != candidate.Rejected {
			t.Errorf("noticed again: %v, want failed and rejected", got)
		}
		o.notice(t, "p:3")
		o.notice(t)
		if got := o.states(t); got["p:1"] != candidate.Failed || got["p:2"] != candidate.Rejected || got["p:3"] != candidate.Superseded {
			t.Errorf("gone: %v, want the pending one superseded, the others as they were", got)
		}
		o.scan(t)
		if got := o.states(t); got["p:1"] != candidate.Superseded || got["p:2"] != candidate.Superseded {
			t.Errorf("after a scan: %v, want all superseded", got)
		}
	})
}

// Each edit of a file makes a candidate. The latest of those that nobody decided about are kept.
func TestSupersededAreBounded(t *testing.T) {
	suite(t, func(t *testing.T, o *owner, _ func() *store.DB) {
		o.scan(t, "p:rejected")
		_, err := o.Reject(operator(t), "p:rejected", "no")
		must(t, err)
		const edits = 30
		for n := range edits {
			o.now = o.now.Add(time.Second)
			o.notice(t, fmt.Sprintf("p:%02d", n))
		}
		o.scan(t, "p:29")
		superseded, err := o.OfPack(t.Context(), "p", candidate.Superseded)
		must(t, err)
		states := o.states(t)
		if len(superseded) != 21 || states["p:rejected"] != candidate.Superseded || states["p:29"] != candidate.Pending || states["p:28"] != candidate.Superseded || states["p:00"] != "" {
			t.Errorf("%d are superseded: %v; want the 20 latest and the rejected one", len(superseded), states)
		}
	})
}

// An approval can be taken back. That counts as a rejection.
func TestWithdraw(t *testing.T) {
	suite(t, func(t *testing.T, o *owner, _ func() *store.DB) {
		o.scan(t, "p:1")
		if _, err := o.Withdraw(operator(t), "p:1", "mistake"); err == nil {
			t.Error("what isn't installed was withdrawn")
		}
		_, err := o.approve(operator(t), "p:1", works)
		must(t, err)
		got, err := o.Withdraw(operator(t), "p:1", "mistake")
		if err != nil || got.State != candidate.Rejected || got.RejectCount != 1 || got.Reason != "mistake" {
			t.Errorf("got %+v, %v; want it rejected once", got, err)
		}
	})
}

// A row that can't be read is that candidate's trouble.
func TestUnreadablePayload(t *testing.T) {
	suite(t, func(t *testing.T, o *owner, open func() *store.DB) {
		o.scan(t, "p:1", "p:2")
		must(t, open().Tx(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(`UPDATE candidates SET payload = ? WHERE candidate_key = ?`, "{", "p:1")
			return err
		}))
		items, err := o.List(t.Context(), "")
		if err != nil || len(items) != 2 || items[0].LastError == "" || items[1].LastError != "" {
			t.Fatalf("got %+v, %v; want both, the first with an error", items, err)
		}
		o.scan(t, "p:1", "p:2")
		if got := o.get(t, "p:1"); got.Payload.Slug != "seen" || got.LastError != "" {
			t.Errorf("after a scan %+v, want what was seen", got)
		}
	})
}

// fails is an installation that fails.
func fails(context.Context, *item) error {
	return candidate.InstallFailed(fault.Conflict("no room"))
}
