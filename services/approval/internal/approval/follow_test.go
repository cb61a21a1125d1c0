package approval

import (
	"context"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/pack"
)

// What one replica decides opens and closes the gates that another one publishes.
func TestReplicasFollowEachOther(t *testing.T) {
	home := t.TempDir()
	write(t, home, "ecosystem.json", `{"pack_id": "p", "pack_identity": "github:a/p"}`)
	one, other := open(t, home), open(t, home)
	ctx, cancel := context.WithCancel(t.Context())
	followed := make(chan error)
	go func() { followed <- other.Follow(ctx) }()
	t.Cleanup(func() { cancel(); check(t, <-followed) })
	gate := func(about string, open bool, status pack.Status) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			got := other.gates.state("p")
			if got.Open == open && got.Status == status {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%s: gate %+v, want open %v and %s", about, got, open, status)
			}
		}
	}
	approve := func() {
		t.Helper()
		_, err := one.Approve(t.Context(), "p", "")
		check(t, err)
	}
	approve()
	gate("approved", true, pack.StatusApproved)
	check(t, one.SetRunning(t.Context(), "p", true))
	gate("running", true, pack.StatusRunning)
	_, err := one.Reject(t.Context(), "p", "no")
	check(t, err)
	gate("rejected", false, pack.StatusBlocked)
	approve()
	gate("approved again", true, pack.StatusApproved)

	// The other one finds by itself that what was approved elsewhere has changed.
	write(t, home, "small", "2")
	check(t, other.Verify(t.Context()))
	gate("modified", false, pack.StatusModified)

	approve()
	gate("approved as it is", true, pack.StatusApproved)
	_, err = one.Retire(t.Context(), "p", true)
	check(t, err)
	_, err = one.Remove(t.Context(), "p")
	check(t, err)
	gate("uninstalled", false, pack.StatusParentMissing)
	check(t, one.Refresh(t.Context()))
	gate("installed anew", false, pack.StatusPending)
}
