package approval

import (
	"context"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/services/approval/internal/record"
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
	gate := func(about string, open bool, status string) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			got := other.gates.of("p")
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
	gate("approved", true, string(record.Approved))
	check(t, one.SetRunning(t.Context(), "p", true))
	gate("running", true, string(record.Running))
	_, err := one.Reject(t.Context(), "p", "no")
	check(t, err)
	gate("rejected", false, string(record.Blocked))
	approve()
	gate("approved again", true, string(record.Approved))

	// The other one finds by itself that what was approved elsewhere has changed.
	write(t, home, "small", "2")
	check(t, other.Verify(t.Context()))
	gate("modified", false, string(record.Modified))

	approve()
	gate("approved as it is", true, string(record.Approved))
	_, err = one.Retire(t.Context(), "p", true)
	check(t, err)
	_, err = one.Remove(t.Context(), "p")
	check(t, err)
	gate("uninstalled", false, parentMissing)
	check(t, one.Refresh(t.Context()))
	gate("installed anew", false, string(record.Pending))
}
