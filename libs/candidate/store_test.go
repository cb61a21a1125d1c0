package candidate_test

import (
	"context"
	"errors"
	"testing"

	"github.com/rumi-ai/rumi/libs/candidate"
	"github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/libs/store/storetest"
)

// What the owner stores with a decision is committed with it or not at all.
func TestStoreIsPartOfTheDecision(t *testing.T) {
	storetest.Run(t, candidate.Migrations(nil), func(t *testing.T, open func() *store.DB) {
		o := newOwner(open())
		var refuse error
		o.candidates = candidate.New(open(), candidate.Config[payload]{
			Record: func(_ context.Context, _ candidate.Change[payload]) error { return o.failing },
			Store: func(tx *store.Tx, c candidate.Change[payload]) error {
				if _, err := tx.Exec(`UPDATE candidates SET reason = ? WHERE candidate_key = ?`, "stored by its owner", c.Item.Key); err != nil {
					return err
				}
				return refuse
			},
		})
		o.scan(t, "a:1")
		for _, failing := range []struct{ store, record error }{{errors.New("full"), nil}, {nil, errors.New("full")}} {
			refuse, o.failing = failing.store, failing.record
			if _, err := o.Reject(operator(t), "a:1", "no"); err == nil {
				t.Fatal("rejected although it could not be stored or recorded")
			}
			if got, err := o.Get(t.Context(), "a:1"); err != nil || got.State != candidate.Pending || got.Reason != "" {
				t.Fatalf("after a failure: %+v, %v; want state pending, no reason", got, err)
			}
		}
		refuse, o.failing = nil, nil
		if _, err := o.Reject(operator(t), "a:1", "no"); err != nil {
			t.Fatal(err)
		}
		if got, err := o.Get(t.Context(), "a:1"); err != nil || got.State != candidate.Rejected || got.Reason != "stored by its owner" {
			t.Fatalf("after a decision: %+v, %v; want state rejected, reason \"stored by its owner\"", got, err)
		}
	})
}
