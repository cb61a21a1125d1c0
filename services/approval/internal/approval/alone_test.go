package approval

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/services/approval/internal/record"
)

// packs writes folders of packs.
func packs(t *testing.T, home string, ids ...string) {
	t.Helper()
	for _, id := range ids {
		dir := filepath.Join(home, "ecosystem", id)
		check(t, os.MkdirAll(dir, 0o755))
		check(t, os.WriteFile(filepath.Join(dir, "ecosystem.json"), fmt.Appendf(nil, `{"pack_id": %q, "pack_identity": "github:a/%s"}`, id, id), 0o644))
	}
}

// database is the store of a home, for a test to break.
func database(t *testing.T, home string) (exec func(statement string)) {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(home, "state/approval.db"))
	check(t, err)
	t.Cleanup(func() { db.Close() })
	return func(statement string) {
		t.Helper()
		_, err := db.Exec(statement)
		check(t, err)
	}
}

// forgetParent makes a record as approvals once were: without the parent's identity.
func forgetParent(r *record.Record, _ time.Time) (*decision, error) {
	r.ParentIdentity = ""
	r.Revision++
	return &decision{}, nil
}

// A pack whose record can't be written keeps no other in its batch from being known, and the next look makes it known.
func TestOnePackThatCannotBeRegisteredHoldsUpNoOther(t *testing.T) {
	home := t.TempDir()
	s := open(t, home)
	exec := database(t, home)
	exec(`CREATE TRIGGER stuck BEFORE INSERT ON records WHEN NEW.pack_id = 'stuck' BEGIN SELECT RAISE(ABORT, 'stuck'); END`)
	ids := []string{"stuck"}
	for i := range 30 {
		ids = append(ids, fmt.Sprintf("p%02d", i), fmt.Sprintf("z%02d", i))
	}
	packs(t, home, ids...)
	if err := s.Refresh(t.Context()); err == nil || !strings.Contains(err.Error(), "stuck") {
		t.Errorf("got %v, want an error that names the pack", err)
	}
	for _, id := range ids {
		r, err := s.Records.Get(t.Context(), id)
		if id == "stuck" {
			if !fault.Is(err, fault.KindNotFound) {
				t.Errorf("stuck: %v, %v; want none", r, err)
			}
			continue
		}
		if err != nil || r.Status != pack.StatusPending {
			t.Fatalf("%s: %v, %v; want it pending", id, r, err)
		}
	}
	exec(`DROP TRIGGER stuck`)
	check(t, s.Refresh(t.Context()))
	if r, err := s.Records.Get(t.Context(), "stuck"); err != nil || r.Status != pack.StatusPending {
		t.Errorf("stuck: %v, %v; want it pending", r, err)
	}
}

// Of packs that were put in place anew each loses its right to run, also where that can't be recorded of another, which is held.
func TestReplacedDealsWithEveryPack(t *testing.T) {
	home := t.TempDir()
	s := open(t, home)
	packs(t, home, "a", "b", "c")
	check(t, s.Refresh(t.Context()))
	for _, id := range []pack.ID{"a", "b", "c"} {
		_, err := s.Approve(t.Context(), id, "")
		check(t, err)
	}
	exec := database(t, home)
	exec(`CREATE TRIGGER stuck BEFORE UPDATE ON records WHEN NEW.pack_id = 'a' BEGIN SELECT RAISE(ABORT, 'stuck'); END`)
	packs(t, home, "new")
	if err := s.Replaced(t.Context(), "a", "b", "c", "new"); err == nil || !strings.Contains(err.Error(), "pack a") {
		t.Errorf("got %v, want an error that names the pack", err)
	}
	for _, id := range []pack.ID{"a", "b", "c"} {
		if s.MayRun(id) {
			t.Errorf("%s may run, want it closed", id)
		}
	}
	for id, want := range map[string]pack.Status{"a": pack.StatusApproved, "b": pack.StatusModified, "c": pack.StatusModified, "new": pack.StatusPending} {
		if r, err := s.Records.Get(t.Context(), id); err != nil || r.Status != want {
			t.Errorf("%s: %v, %v; want %s", id, r, err, want)
		}
	}
}

// The service starts though something can't be written, and closes the gates of the packs that this is about: a modified one, and a
// child whose parent's identity isn't recorded. When it can be written the child runs without another decision.
func TestItStartsThoughNothingCanBeWritten(t *testing.T) {
	home := t.TempDir()
	s := open(t, home)
	packs(t, home, "well", "changed", "fam", "fam__kid")
	check(t, s.Refresh(t.Context()))
	for _, id := range []pack.ID{"well", "changed", "fam", "fam__kid"} {
		_, err := s.Approve(t.Context(), id, "")
		check(t, err)
	}
	exec := database(t, home)
	kid, err := s.Records.Get(t.Context(), "fam__kid")
	check(t, err)
	_, err = s.change(t.Context(), "fam__kid", forgetParent)
	check(t, err)
	exec(`CREATE TRIGGER full BEFORE UPDATE ON records BEGIN SELECT RAISE(ABORT, 'full'); END`)
	check(t, os.WriteFile(filepath.Join(home, "ecosystem/changed/more"), nil, 0o644))

	s = open(t, home)
	open := func(want map[pack.ID]bool) {
		t.Helper()
		for id, want := range want {
			if got := s.gates.state(id); got.Open != want {
				t.Errorf("%s: %+v, want open %v", id, got, want)
			}
		}
	}
	open(map[pack.ID]bool{"well": true, "fam": true, "changed": false, "fam__kid": false})
	if got := s.gates.state("fam__kid"); got.Status != pack.StatusParentUnrecorded {
		t.Errorf("status %s, want %s", got.Status, pack.StatusParentUnrecorded)
	}
	if r, err := s.Records.Get(t.Context(), "fam__kid"); err != nil {
		t.Error(err)
	} else if trouble, _ := s.GateProblem(r); !strings.Contains(trouble, "identity of its parent could not be recorded") {
		t.Errorf("trouble %q, want why it may not run", trouble)
	}
	_ = s.Verify(t.Context()) // fails likewise
	open(map[pack.ID]bool{"well": true, "changed": false, "fam__kid": false})

	exec(`DROP TRIGGER full`)
	check(t, s.Verify(t.Context()))
	open(map[pack.ID]bool{"well": true, "changed": false, "fam__kid": true})
	for id, want := range map[string]pack.Status{"changed": pack.StatusModified, "fam__kid": pack.StatusApproved} {
		r, err := s.Records.Get(t.Context(), id)
		if err != nil || r.Status != want || id == "fam__kid" && r.ParentIdentity != kid.ParentIdentity {
			t.Errorf("%s: %+v, %v; want %s", id, r, err, want)
		}
	}
}
