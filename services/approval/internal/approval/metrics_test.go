package approval

import (
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/services/approval/internal/record"
)

// TestHeldGatesAreCounted: a pack that is held closed, or whose parent could not be recorded, is shown until that is over.
func TestHeldGatesAreCounted(t *testing.T) {
	g := newGates()
	approved := func(id string) *record.Record {
		r := record.New(id, time.Now())
		r.Status = pack.StatusApproved
		return r
	}
	g.set(t.Context(), approved("a"), approved("a__b"))
	want := func(what string, n int) {
		t.Helper()
		if got := g.countHeld()[""]; got != n {
			t.Errorf("%s: %d are held closed, want %d", what, got, n)
		}
	}
	want("at first", 0)
	g.holdClosed(t.Context(), "a", "the disk is full")
	g.unpin(t.Context(), "a__b", "the disk is full")
	want("two", 2)
	g.releaseHold(t.Context(), "a")
	want("one is released", 1)
	g.remove(t.Context(), "a__b")
	want("the other is removed", 0)
}
