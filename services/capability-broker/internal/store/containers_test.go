package store_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/candidate"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/sandbox"
	dbstore "github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/libs/store/storetest"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/container"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/store"
)

func TestContainers(t *testing.T) {
	storetest.Run(t, candidate.Migrations(store.Migrations()), func(t *testing.T, open func() *dbstore.DB) {
		ctx := t.Context()
		mine, replica, elsewhere := store.NewContainers(open(), "here"), store.NewContainers(open(), "here"), store.NewContainers(open(), "there")
		if r, err := mine.Record(ctx, "p"); err != nil || !reflect.DeepEqual(r, container.Record{PackID: "p"}) {
			t.Fatalf("the record of a pack never seen is %+v, %v; want an empty one", r, err)
		}
		if list, changed, err := replica.Records(ctx); err != nil || !changed || len(list) != 0 {
			t.Fatalf("the first look at an empty table gives %v, %v, %v; want no records, changed", list, changed, err)
		}
		at := time.Date(2027, 1, 2, 3, 4, 5, 123456789, time.UTC)
		want := container.Record{PackID: "p", ContainerID: "c", Digest: "sha256:00", Wanted: true, Running: true, Restart: pack.RestartAlways,
			Limits: pack.Resources{MemoryMB: 512, CPUs: 0.5, PIDs: 64}, Warnings: []string{"memory cut"}, StartedAt: at, FinishedAt: at.Add(time.Hour),
			Exit: &sandbox.Exit{Code: 137, OOMKilled: true}, Reason: "out of memory", Restarts: 3, Failures: 2, RestartAt: at.Add(2 * time.Hour)}
		if err := mine.PutRecord(ctx, container.Record{PackID: "p"}); err != nil {
			t.Fatal(err)
		}
		if err := mine.PutRecord(ctx, want); err != nil {
			t.Fatal(err)
		}
		if r, err := replica.Record(ctx, "p"); err != nil || !reflect.DeepEqual(r, want) {
			t.Errorf("the replica's record is %+v, %v, want %+v", r, err, want)
		}
		if list, changed, err := replica.Records(ctx); err != nil || !changed || len(list) != 1 || !reflect.DeepEqual(list[0], want) {
			t.Errorf("the other replica reads %+v, %v, %v; want %+v, changed", list, changed, err, want)
		}
		if list, _, err := elsewhere.Records(ctx); err != nil || len(list) != 0 {
			t.Errorf("on another host: %+v, %v; want no records", list, err)
		}
		if err := elsewhere.RemoveRecord(ctx, "p"); err != nil {
			t.Fatal(err)
		}
		if r, err := mine.Record(ctx, "p"); err != nil || !r.Wanted {
			t.Errorf("another host removed it: %+v, %v; want it wanted here", r, err)
		}
		if err := mine.RemoveRecord(ctx, "p"); err != nil {
			t.Fatal(err)
		}
		if list, changed, err := replica.Records(ctx); err != nil || !changed || len(list) != 0 {
			t.Errorf("after the removal it reads %v, %v, %v; want no records, changed", list, changed, err)
		}
	})
}

// A record that can't be read is its pack's trouble: the others are there, and it can be removed.
func TestRecordThatCanNotBeRead(t *testing.T) {
	storetest.Run(t, candidate.Migrations(store.Migrations()), func(t *testing.T, open func() *dbstore.DB) {
		ctx, db := t.Context(), open()
		c := store.NewContainers(db, "here")
		if err := c.PutRecord(ctx, container.Record{PackID: "q"}); err != nil {
			t.Fatal(err)
		}
		if err := db.Tx(ctx, func(tx *dbstore.Tx) error {
			_, err := tx.Exec(`INSERT INTO capability_containers (node, pack_id, record) VALUES ('here', 'p', '{"pack_id":')`)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		list, changed, err := c.Records(ctx)
		if fault.Of(err).Code != "record_unreadable" || !changed || len(list) != 1 || list[0].PackID != "q" {
			t.Errorf("read %+v, %v, %v, want q and an error of p", list, changed, err)
		}
		if r, err := c.Record(ctx, "p"); !fault.Is(err, fault.KindConflict) || r.PackID != "p" {
			t.Errorf("p's record is %+v, %v; want a conflict", r, err)
		}
		if err := c.RemoveRecord(ctx, "p"); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Record(ctx, "p"); err != nil {
			t.Errorf("after its removal: %v", err)
		}
	})
}

// Records that came with the home, and not its host's name, are this host's.
func TestClaimOfRecords(t *testing.T) {
	storetest.Run(t, candidate.Migrations(store.Migrations()), func(t *testing.T, open func() *dbstore.DB) {
		ctx, db := t.Context(), open()
		before, now := store.NewContainers(db, "before"), store.NewContainers(db, "now")
		for _, err := range []error{
			before.PutRecord(ctx, container.Record{PackID: "p", Wanted: true}), before.PutRecord(ctx, container.Record{PackID: "q", Wanted: true}),
			now.PutRecord(ctx, container.Record{PackID: "q"}), now.Claim(ctx),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		for id, want := range map[string]bool{"p": true, "q": false} {
			if r, err := now.Record(ctx, id); err != nil || r.Wanted != want {
				t.Errorf("%s: %+v, %v, want wanted %v", id, r, err, want)
			}
		}
	})
}
