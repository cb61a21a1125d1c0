package store_test

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/confirm"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	libstore "github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/libs/store/storetest"
	"github.com/rumi-ai/rumi/services/approval/internal/record"
	"github.com/rumi-ai/rumi/services/approval/internal/store"
)

func nothing() error { return nil }

func TestRecords(t *testing.T) {
	storetest.Run(t, store.Migrations, func(t *testing.T, open func() *libstore.DB) {
		ctx := context.Background()
		records := store.New(open())
		at := time.Date(2026, 11, 22, 1, 2, 3, 4000, time.UTC)
		want := &record.Record{
			PackID: "demo", Status: pack.StatusBlocked, Identity: "github:a/b", Version: "1", Description: "行\nzwei", CreatedAt: at, UpdatedAt: at.Add(time.Hour),
			Requested: record.Requested{Secrets: []string{"K"}, Domains: []string{"x.test"}, Ports: []uint16{443}},
			Digest:    "sha256:00", RejectionReason: "no", LastError: "why", Revision: 7, ParentIdentity: "github:a/parent",
			Request: &confirm.Request{Terms: confirm.Terms{Digest: "sha256:00", Context: "github:a/parent", Options: map[string]string{"k": "v"}, Notes: "行"},
				AskedBy: "alice", Lineage: "init", AskedAt: at, ConfirmedBy: "bob"},
		}
		event := record.Event{Version: "1", Timestamp: at, Action: "rejected", Digest: "d", Actor: "operator", Reason: "no", RequestedBy: "alice"}

		if _, err := records.Get(ctx, "demo"); !fault.Is(err, fault.KindNotFound) || fault.Of(err).Message != "Pack not found" {
			t.Fatal(err)
		}
		put := func(r *record.Record, e *record.Event, confirm func() error) error {
			return records.Change(ctx, r.PackID, func(*record.Record) (*record.Record, *record.Event, error) { return r, e, nil }, confirm)
		}
		if err := put(want, &event, nothing); err != nil {
			t.Fatal(err)
		}
		got, err := store.New(open()).Get(ctx, "demo")
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("the record is %+v, %v, want %+v", got, err, want)
		}

		// What isn't confirmed never was.
		changed := *want
		changed.Status, changed.Revision = pack.StatusApproved, 8
		full := errors.New("disk full")
		if err := put(&changed, &event, func() error { return full }); !errors.Is(err, full) {
			t.Fatal(err)
		}
		if got, _ := records.Get(ctx, "demo"); got.Status != pack.StatusBlocked {
			t.Error("an unconfirmed change stayed")
		}
		if err := put(&changed, nil, nothing); err != nil {
			t.Fatal(err)
		}
		history, err := records.History(ctx, "demo")
		if err != nil || !reflect.DeepEqual(history, []record.Event{event}) {
			t.Errorf("the history is %+v, %v; want %+v", history, err, event)
		}
		if err := put(record.New("alpha", at), nil, nothing); err != nil {
			t.Fatal(err)
		}
		current, historic, err := records.Digests(ctx)
		if err != nil || !slices.Equal(current, []string{"sha256:00"}) || !slices.Equal(historic, []string{"d"}) {
			t.Errorf("the digests are %v and %v, %v; want sha256:00 and d", current, historic, err)
		}
		all, err := records.All(ctx)
		if err != nil || len(all) != 2 || all[0].PackID != "alpha" || all[1].PackID != "demo" {
			t.Errorf("the records are %+v, %v; want alpha and demo", all, err)
		}
		if removed, err := records.Remove(ctx, "demo"); err != nil || removed {
			t.Errorf("removed what is not retired: %v, %v; want not removed", removed, err)
		}
		if history, err := records.History(ctx, "demo"); err != nil || len(history) != 1 {
			t.Errorf("its history is %+v, %v; want one event", history, err)
		}
		if ids, err := records.Retired(ctx); err != nil || len(ids) != 0 {
			t.Errorf("retired are %v, %v; want none", ids, err)
		}
		gone := changed
		gone.Status, gone.Retired, gone.Revision = pack.StatusError, true, 9
		if err := put(&gone, nil, nothing); err != nil {
			t.Fatal(err)
		}
		if got, err := records.Get(ctx, "demo"); err != nil || !got.Retired {
			t.Errorf("the record is %+v, %v; want it retired", got, err)
		}
		if ids, err := records.Retired(ctx); err != nil || !slices.Equal(ids, []string{"demo"}) {
			t.Errorf("the retired are %v, %v; want demo", ids, err)
		}
		for _, want := range []bool{true, false} {
			if removed, err := records.Remove(ctx, "demo"); err != nil || removed != want {
				t.Errorf("removed %v, %v; want %v", removed, err, want)
			}
		}
		if history, _ := records.History(ctx, "demo"); len(history) != 0 {
			t.Error("the history of a removed pack stayed")
		}
	})
}

// Two processes change one record; each change sees the one before.
func TestChangesOfOneRecordFollowEachOther(t *testing.T) {
	storetest.Run(t, store.Migrations, func(t *testing.T, open func() *libstore.DB) {
		const each = 20
		replicas := []*store.Records{store.New(open()), store.New(open())}
		if err := replicas[0].Change(t.Context(), "p", func(*record.Record) (*record.Record, *record.Event, error) {
			return record.New("p", time.Now()), nil, nil
		}, nothing); err != nil {
			t.Fatal(err)
		}
		var group sync.WaitGroup
		for _, records := range replicas {
			group.Go(func() {
				for range each {
					err := records.Change(context.Background(), "p", func(r *record.Record) (*record.Record, *record.Event, error) {
						r.Revision++
						return r, &record.Event{Timestamp: time.Now(), Action: "x"}, nil
					}, nothing)
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		group.Wait()
		r, err := replicas[0].Get(t.Context(), "p")
		if err != nil || r.Revision != 1+2*each {
			t.Errorf("revision %d, %v; want revision %v", r.Revision, err, 1+2*each)
		}
	})
}

// A row that can't be read is its pack's error, and nobody else's.
func TestARowThatCannotBeRead(t *testing.T) {
	for name, spoil := range map[string]string{
		"what it asks for": `UPDATE records SET requested = '{' WHERE pack_id = 'b'`,
		"its state":        `UPDATE records SET status = 'strange' WHERE pack_id = 'b'`,
		"the inner one":    `UPDATE records SET status = 'retired' WHERE pack_id = 'b'`,
	} {
		storetest.Run(t, store.Migrations, func(t *testing.T, open func() *libstore.DB) {
			db := open()
			records := store.New(db)
			at := time.Date(2026, 11, 22, 1, 2, 3, 4000, time.UTC)
			for _, id := range []string{"a", "b", "c"} {
				r := record.New(id, at)
				r.Status = pack.StatusApproved
				if err := records.Change(t.Context(), id, func(*record.Record) (*record.Record, *record.Event, error) { return r, nil, nil }, nothing); err != nil {
					t.Fatal(err)
				}
			}
			if err := db.Tx(t.Context(), func(tx *libstore.Tx) error { _, err := tx.Exec(spoil); return err }); err != nil {
				t.Fatal(err)
			}
			all, err := records.All(t.Context())
			if err != nil || len(all) != 3 || all[0].Status != pack.StatusApproved || all[2].Status != pack.StatusApproved {
				t.Fatalf("%s: %d records, %v, want the others as they are", name, len(all), err)
			}
			if b := all[1]; b.PackID != "b" || b.Status != pack.StatusError || b.Revision != 1 || !b.CreatedAt.Equal(at) || !strings.Contains(b.LastError, "can't be read") {
				t.Errorf("%s: %+v, want its pack in error", name, b)
			}
			err = records.Change(t.Context(), "b", func(r *record.Record) (*record.Record, *record.Event, error) {
				_, err := r.Apply(record.Revalidate, at)
				return r, nil, err
			}, nothing)
			if b, _ := records.Get(t.Context(), "b"); err != nil || b.Status != pack.StatusPending {
				t.Errorf("%s: %+v, %v, want it to wait for a decision once it was looked at", name, b, err)
			}
		})
	}
}
