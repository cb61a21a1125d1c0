package record

import (
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
)

const (
	same    = ""        // nothing changes
	refused = "refused" // a conflict
)

// matrix is written out by hand, so that a change of the table has to be made twice.
var matrix = map[Status]map[Verb]string{
	Pending:  {Approve: "approved", Reject: "blocked", Change: same, Break: "error", Mend: same, Run: same, Halt: same},
	Approved: {Approve: "approved", Reject: "blocked", Change: "modified", Break: "modified", Mend: same, Run: "running", Halt: same},
	Running:  {Approve: "running", Reject: "blocked", Change: "modified", Break: "modified", Mend: same, Run: same, Halt: "approved"},
	Modified: {Approve: "approved", Reject: "blocked", Change: same, Break: same, Mend: same, Run: same, Halt: same},
	Blocked:  {Approve: "approved", Reject: "blocked", Change: same, Break: same, Mend: same, Run: same, Halt: same},
	Error:    {Approve: refused, Reject: "blocked", Change: same, Break: same, Mend: "pending", Run: same, Halt: same},
}

func TestEveryStateAndVerb(t *testing.T) {
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	verbs := []Verb{Approve, Reject, Change, Break, Mend, Run, Halt}
	if len(matrix) != len(transitions) {
		t.Fatalf("%d states in the test, %d in the table", len(matrix), len(transitions))
	}
	for state, row := range matrix {
		if len(row) != len(verbs) {
			t.Errorf("%s: %d verbs in the test", state, len(row))
		}
		for _, verb := range verbs {
			r := &Record{PackID: "p", Status: state, Revision: 4}
			changed, err := r.Do(verb, now)
			want := row[verb]
			switch {
			case want == refused:
				if !fault.Is(err, fault.KindConflict) || r.Status != state || r.Revision != 4 {
					t.Errorf("%s %s: %v, %s", state, verb, err, r.Status)
				}
			case want == same:
				if err != nil || changed || r.Status != state || r.Revision != 4 {
					t.Errorf("%s %s: %v, %s", state, verb, err, r.Status)
				}
			default:
				if err != nil || !changed || string(r.Status) != want || r.Revision != 5 || !r.UpdatedAt.Equal(now) {
					t.Errorf("%s %s: %v, %s, want %s", state, verb, err, r.Status, want)
				}
			}
			if open := r.Gate(nil).Open; open != (r.Status == Approved || r.Status == Running) {
				t.Errorf("%s: gate open %v", r.Status, open)
			}
		}
	}
}

func TestAChildRunsOnlyWhileItsParentMay(t *testing.T) {
	for _, c := range []struct {
		parent, child Status
		open          bool
		status        string
	}{
		{Approved, Approved, true, "approved"},
		{Running, Running, true, "running"},
		{Modified, Approved, false, "modified"},
		{Pending, Running, false, "pending"},
		{Approved, Modified, false, "modified"},
		{Blocked, Pending, false, "pending"},
	} {
		parent := (&Record{PackID: "p", Status: c.parent}).Gate(nil)
		got := (&Record{PackID: "p__c", Status: c.child}).Gate(&parent)
		if got.Open != c.open || got.Status != c.status {
			t.Errorf("parent %s, child %s: %+v", c.parent, c.child, got)
		}
	}
}
