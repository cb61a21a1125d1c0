package record

import (
	"reflect"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/confirm"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
)

const (
	same    = ""        // nothing changes
	refused = "refused" // a conflict
)

// matrix is written out by hand, so that a change of the table has to be made twice.
var matrix = map[pack.Status]map[Verb]string{
	pack.StatusPending:  {Approve: "approved", Ask: "pending", Lapse: "pending", Reject: "blocked", Modify: same, Invalidate: "error", Revalidate: same, Start: same, Stop: same, Retire: "retired"},
	pack.StatusApproved: {Approve: "approved", Ask: "approved", Lapse: "approved", Reject: "blocked", Modify: "modified", Invalidate: "modified", Revalidate: same, Start: "running", Stop: same, Retire: "retired"},
	pack.StatusRunning:  {Approve: "running", Ask: "running", Lapse: "running", Reject: "blocked", Modify: "modified", Invalidate: "modified", Revalidate: same, Start: same, Stop: "approved", Retire: "retired"},
	pack.StatusModified: {Approve: "approved", Ask: "modified", Lapse: "modified", Reject: "blocked", Modify: same, Invalidate: same, Revalidate: same, Start: same, Stop: same, Retire: "retired"},
	pack.StatusBlocked:  {Approve: "approved", Ask: "blocked", Lapse: "blocked", Reject: "blocked", Modify: same, Invalidate: same, Revalidate: same, Start: same, Stop: same, Retire: "retired"},
	pack.StatusError:    {Approve: refused, Ask: refused, Lapse: same, Reject: "blocked", Modify: same, Invalidate: same, Revalidate: "pending", Start: same, Stop: same, Retire: "retired"},
	retired:             {Approve: refused, Ask: refused, Lapse: same, Reject: refused, Modify: same, Invalidate: same, Revalidate: same, Start: same, Stop: same, Retire: same},
}

func TestEveryStateAndVerb(t *testing.T) {
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	verbs := []Verb{Approve, Ask, Lapse, Reject, Modify, Invalidate, Revalidate, Start, Stop, Retire}
	if len(matrix) != len(transitions) {
		t.Fatalf("%d states in the test, %d in the table; want the same", len(matrix), len(transitions))
	}
	for state, row := range matrix {
		if len(row) != len(verbs) {
			t.Errorf("%s: %d verbs in the test; want %d", state, len(row), len(verbs))
		}
		for _, verb := range verbs {
			r := &Record{PackID: "p", Status: state, Revision: 4}
			if state == retired {
				r = &Record{PackID: "p", Status: pack.StatusError, Retired: true, LastError: "why", Revision: 4}
			}
			r.Request = &confirm.Request{AskedBy: "alice"}
			before := *r
			changed, err := r.Apply(verb, now)
			want := row[verb]
			switch {
			case want == refused:
				if !fault.Is(err, fault.KindConflict) || changed || !reflect.DeepEqual(*r, before) {
					t.Errorf("%s %s: %v, %s; want a conflict and %s as before", state, verb, err, r.Status, before.Status)
				}
			case want == same:
				if err != nil || changed || !reflect.DeepEqual(*r, before) {
					t.Errorf("%s %s: %v, %s; want %s as before", state, verb, err, r.Status, before.Status)
				}
			case want == string(retired):
				if err != nil || !changed || r.Status != pack.StatusError || !r.Retired || r.LastError != "its uninstall is incomplete: repeat `DELETE /api/packs/p`, unless another call is still at it" || r.Revision != 5 || !r.UpdatedAt.Equal(now) {
					t.Errorf("%s %s: %v, %+v; want it retired, in error, at revision 5", state, verb, err, r)
				}
			default:
				if err != nil || !changed || string(r.Status) != want || r.Revision != 5 || !r.UpdatedAt.Equal(now) {
					t.Errorf("%s %s: %v, %s, want %s", state, verb, err, r.Status, want)
				}
			}
			if keeps := want == same || want == refused || verb == Start || verb == Stop; (r.Request != nil) != keeps {
				t.Errorf("%s %s: the request is %+v; want it kept %v", state, verb, r.Request, keeps)
			}
			if g := r.Gate(nil); g.Open != (r.Status == pack.StatusApproved || r.Status == pack.StatusRunning) || g.Retired != r.Retired {
				t.Errorf("%s: gate %+v; want it open only if the pack is approved or runs, and retired %v", r.Status, g, r.Retired)
			}
		}
	}
}

func TestAChildRunsOnlyWhileItsParentMay(t *testing.T) {
	for _, c := range []struct {
		parent, child pack.Status
		open          bool
		status        pack.Status
	}{
		{pack.StatusApproved, pack.StatusApproved, true, pack.StatusApproved},
		{pack.StatusRunning, pack.StatusRunning, true, pack.StatusRunning},
		{pack.StatusModified, pack.StatusApproved, false, pack.StatusModified},
		{pack.StatusPending, pack.StatusRunning, false, pack.StatusPending},
		{pack.StatusApproved, pack.StatusModified, false, pack.StatusModified},
		{pack.StatusBlocked, pack.StatusPending, false, pack.StatusPending},
	} {
		parent := (&Record{PackID: "p", Status: c.parent}).Gate(nil)
		got := (&Record{PackID: "p__c", Status: c.child}).Gate(&parent)
		if got.Open != c.open || got.Status != c.status {
			t.Errorf("parent %s, child %s: %+v; want open %v, status %v", c.parent, c.child, got, c.open, c.status)
		}
	}
}
