package backup

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

// Databases that the new version has changed are put back; the others keep what was written since. What is replaced is kept.
func TestPutBackState(t *testing.T) {
	h := newHome(t)
	h.fill()
	must(t, SaveState(t.Context(), h.dir, "upgrade-1"))
	certificates := listing(t, h.path(identityDir))
	must(t, os.Remove(h.path(identityDir, "secrets/home_id")), os.WriteFile(h.path(identityDir, "secrets/new.pem"), nil, 0o600))
	h.exec("egress-proxy", `INSERT INTO network_grants VALUES ('later')`)
	h.exec("approval", `INSERT INTO records VALUES ('later', 'pending', '')`)
	h.exec("approval", `INSERT INTO goose_db_version (version_id, is_applied) VALUES (2, 1)`)
	if _, err := PutBackState(t.Context(), h.dir, "upgrade-1"); err == nil || !strings.Contains(err.Error(), "approval") {
		t.Errorf("while services run: %v, want them named", err)
	}
	h.stop()
	for range 2 { // it may be repeated
		changed, err := PutBackState(t.Context(), h.dir, "upgrade-1")
		must(t, err)
		if len(changed) > 0 && !slices.Equal(changed, []string{"approval"}) {
			t.Errorf("put back are %v, want approval alone", changed)
		}
	}
	if after := listing(t, h.path(identityDir)); !maps.Equal(after, certificates) {
		t.Errorf("the certificates are %v, want those from before: %v", after, certificates)
	}
	if n := rows(t, h.dir, "approval", `SELECT COUNT(*) FROM records`); n != 2 {
		t.Errorf("approval has %d records, want the 2 from before", n)
	}
	if n := rows(t, h.dir, "egress-proxy", `SELECT COUNT(*) FROM network_grants`); n != 2 {
		t.Errorf("egress-proxy has %d grants, want 2: one was made since", n)
	}
	d, err := describe(t.Context(), h.path(scratchDir, "upgrade-1/after/approval.db"), "x")
	if err != nil || d.Tables["records"] != 3 {
		t.Errorf("what was replaced is %+v, %v; want it kept, with 3 records", d, err)
	}
	if _, err := PutBackState(t.Context(), h.dir, "../x"); err == nil {
		t.Error("a set with a bad name is put back")
	}
}

// With a rehearsal the backup is restored, too, and nothing is left of that.
func TestRehearsal(t *testing.T) {
	h := newHome(t)
	h.fill()
	o := h.options()
	o.Rehearse = true
	before := listing(t, h.path(scratchDir))
	_, report := h.create(o)
	if after := listing(t, h.path(scratchDir)); !report.OK || len(after) != len(before) {
		t.Errorf("after a rehearsal: %+v, and left is %v; want it ok and nothing left", report.Problems, after)
	}
}
