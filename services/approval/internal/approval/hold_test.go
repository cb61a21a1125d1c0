package approval

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rumi-ai/rumi/libs/pack"
	libstore "github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/services/approval/internal/store"
)

// A pack that is not what was approved loses its right to run at once, also where nobody can write that down: because the
// audit log fails, or because the database can't be asked.
func TestAModifiedPackThatCannotBeRecordedIsHeld(t *testing.T) {
	home := t.TempDir()
	write(t, home, "ecosystem.json", `{"pack_id": "p", "pack_identity": "github:a/p"}`)
	write(t, home, "small", "1")
	s := open(t, home)
	approved, err := s.Approve(t.Context(), "p", "")
	check(t, err)
	gate := func(open bool, status pack.Status) {
		t.Helper()
		if got := s.gates.state("p"); got.Open != open || got.Status != status {
			t.Errorf("gate %+v, want open %v and %s", got, open, status)
		}
	}
	gate(true, pack.StatusApproved)

	auditLog := filepath.Join(home, "audit")
	check(t, os.Rename(auditLog, auditLog+".away"))
	files, err := os.ReadDir(auditLog + ".away")
	check(t, err)
	for _, f := range files { // or they would be written to where they are now
		check(t, os.Remove(filepath.Join(auditLog+".away", f.Name())))
	}
	write(t, home, "small", "2")
	if err := s.Verify(t.Context()); err == nil {
		t.Error("no error though nothing could be written down")
	}
	gate(false, pack.StatusModified)
	if r, err := s.Records.Get(t.Context(), "p"); err != nil || r.Status != pack.StatusApproved {
		t.Errorf("recorded is %+v, %v; want status approved", r, err)
	}
	write(t, home, "small", "1") // put back, it stays modified
	if err := s.Verify(t.Context()); err == nil {
		t.Error("no error though nothing could be written down")
	}
	gate(false, pack.StatusModified)
	check(t, os.Mkdir(auditLog, 0o750))
	check(t, s.Verify(t.Context()))
	gate(false, pack.StatusModified)
	if r, err := s.Records.Get(t.Context(), "p"); err != nil || r.Status != pack.StatusModified || r.Digest != approved.Digest {
		t.Errorf("recorded is %+v, %v; want status modified, digest %v", r, err, approved.Digest)
	}
	again, err := s.Approve(t.Context(), "p", "")
	check(t, err)
	gate(true, pack.StatusApproved)

	check(t, os.RemoveAll(auditLog))
	write(t, home, "small", "3")
	if err := s.Verify(t.Context()); err == nil {
		t.Error("no error though nothing could be written down")
	}
	gate(false, pack.StatusModified)
	check(t, os.Mkdir(auditLog, 0o750))
	third, err := s.Approve(t.Context(), "p", "") // what is held can be approved
	check(t, err)
	if third.Digest == again.Digest {
		t.Error("another tree, the same digest")
	}
	gate(true, pack.StatusApproved)

	records := s.Records
	down, err := libstore.Open(t.Context(), libstore.Config{Dir: t.TempDir(), Service: "approval"}, store.Migrations)
	check(t, err)
	check(t, down.Close())
	s.Records = store.New(down)
	if err := s.Verify(t.Context()); err == nil {
		t.Error("no error though the database is down")
	}
	gate(true, pack.StatusApproved)
	write(t, home, "small", "4")
	if err := s.Verify(t.Context()); err == nil {
		t.Error("no error though the database is down")
	}
	gate(false, pack.StatusModified)
	s.Records = records
	check(t, s.Verify(t.Context()))
	gate(false, pack.StatusModified)
	if r, err := s.Records.Get(t.Context(), "p"); err != nil || r.Status != pack.StatusModified {
		t.Errorf("recorded is %+v, %v; want status modified", r, err)
	}
}
