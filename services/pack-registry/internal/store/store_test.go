package store_test

import (
	"errors"
	"reflect"
	"testing"
	"time"

	libstore "github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/libs/store/storetest"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/journal"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/staging"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/store"
)

func TestStore(t *testing.T) {
	storetest.Run(t, store.Migrations(), func(t *testing.T, open func() *libstore.DB) {
		ctx := t.Context()
		s := store.New(open())
		now := time.UnixMicro(1_700_000_000_000_001).UTC()

		st := staging.Staging{ID: "00000000000000aa", CreatedAt: now, InputType: "zip", SourcePath: "user_data/import/p.zip", Notes: "日本語", Actor: "operator",
			Multi: true, Packs: []staging.StagedPack{{Dir: "p", Folder: "p-main", Declared: "p", Identity: "github:a/p", Version: "1"}}}
		check(t, s.AddStaging(ctx, st))
		if got, err := s.Staging(ctx, st.ID); err != nil || !reflect.DeepEqual(got, st) {
			t.Errorf("staging is %+v, %v; want %+v", got, err, st)
		}
		if _, err := s.Staging(ctx, "00000000000000bb"); !errors.Is(err, staging.ErrUnknown) {
			t.Errorf("no staging: %v; want staging.ErrUnknown", err)
		}
		if all, err := s.Stagings(ctx, now); err != nil || !reflect.DeepEqual(all, []staging.Staging{st}) {
			t.Errorf("the stagings are %+v, %v; want %+v", all, err, st)
		}
		if all, err := s.Stagings(ctx, now.Add(time.Microsecond)); err != nil || len(all) != 0 {
			t.Errorf("later stagings are %+v, %v; want none", all, err)
		}
		if made, err := s.StagingTimes(ctx); err != nil || len(made) != 1 || !made[st.ID].Equal(now) {
			t.Errorf("times are %v, %v; want that of one, %v", made, err, now)
		}

		op := journal.Operation{ID: "00000000000000cc", StagingID: st.ID, StartedAt: now, Packs: []journal.Pack{{ID: "p", Source: "p", Prepared: ".n", Backup: "p/1"}}}
		check(t, s.SaveOperation(ctx, op))
		op.Packs[0].Inode = 1 << 63 // inodes have 64 bits
		check(t, s.SaveOperation(ctx, op))
		other := store.New(open()) // what another process sees
		if all, err := other.Operations(ctx); err != nil || !reflect.DeepEqual(all, []journal.Operation{op}) {
			t.Errorf("the operations are %+v, %v; want %+v", all, err, op)
		}
		check(t, s.EndOperation(ctx, op))
		if _, err := s.Staging(ctx, st.ID); err != nil {
			t.Errorf("an operation that was undone has used up its staging: %v", err)
		}
		op.State = journal.Committed
		check(t, s.SaveOperation(ctx, op))
		check(t, s.EndOperation(ctx, op))
		if all, err := s.Operations(ctx); err != nil || len(all) != 0 {
			t.Errorf("operations are %+v, %v; want none", all, err)
		}
		if _, err := s.Staging(ctx, st.ID); !errors.Is(err, staging.ErrUnknown) {
			t.Errorf("a used up staging: %v; want staging.ErrUnknown", err)
		}
		check(t, s.RemoveStaging(ctx, st.ID))
	})
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
