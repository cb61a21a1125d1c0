package staging_test

import (
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/staging"
)

// A clock that is set while stagings are there decides nothing about those that this process made, and keeps none of the others for
// ever. That it was set shows as records from a year ago, or from the future.
func TestStagingsWhenTheClockIsSet(t *testing.T) {
	const year = 365 * 24 * time.Hour
	for name, set := range map[string]time.Duration{"an hour ahead": time.Hour, "a year ahead": year, "an hour back": -time.Hour, "a year back": -year} {
		t.Run(name, func(t *testing.T) {
			h := newHome(t)
			h.write(t, "user_data/import/p/ecosystem.json", descriptor("p"))
			st, err := h.area.ImportPath(t.Context(), "user_data/import/p", "")
			check(t, err)
			check(t, h.store.RemoveStaging(t.Context(), st.ID))
			st.CreatedAt = st.CreatedAt.Add(-set)
			check(t, h.store.AddStaging(t.Context(), st))
			another := staging.Staging{ID: "00000000000000ab", CreatedAt: time.Now().Add(-min(set, 0))} // of another process, whose clock it was
			check(t, h.store.AddStaging(t.Context(), another))
			h.write(t, "user_data/pack_staging/"+another.ID+"/payload/x", "")
			there := func(id string, want bool) {
				t.Helper()
				check(t, h.area.Sweep(t.Context()))
				_, payload, err := h.area.FindPayload(t.Context(), id)
				if err == nil {
					payload.Close()
				}
				if err == nil != want || err != nil && !fault.Is(err, fault.KindNotFound) {
					t.Errorf("%s is found: %v, want %v", id, err, want)
				}
				all, err := h.area.List(t.Context())
				check(t, err)
				listed := false
				for _, one := range all {
					listed = listed || one.ID == id
				}
				if listed != want {
					t.Errorf("%s is listed: %v, want %v", id, listed, want)
				}
			}
			there(st.ID, true)
			there(another.ID, true)
			h.area.Elapse(st.ID, staging.Lifetime+time.Hour)
			h.area.Elapse(another.ID, staging.Lifetime+time.Hour)
			there(st.ID, false)
			there(another.ID, false)
			if left := h.staged(t); len(left) != 0 {
				t.Errorf("left %v, want nothing", left)
			}
		})
	}
}
