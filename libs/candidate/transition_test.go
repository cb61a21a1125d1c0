package candidate

import (
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/confirm"
	"github.com/rumi-ai/rumi/libs/fault"
)

// The whole matrix: every state × every verb, and what the rules of time and number make of it.
func TestTransitions(t *testing.T) {
	now := time.Date(2025, 1, 2, 3, 4, 5, 0, time.UTC)
	later := now.Add(Cooldown)
	const (
		installed          = "Candidate is already installed"
		cannotReject       = "Cannot reject installed candidate"
		alreadyBlocked     = "Candidate is already blocked"
		unblockFirst       = "Candidate is blocked. Unblock first."
		notInList          = "Candidate not found in blocked list"
		refuseNotInstalled = "Candidate is not installed"
	)
	pending, done, failed := Status{Pending, 0, time.Time{}}, Status{Installed, 0, time.Time{}}, Status{Failed, 0, time.Time{}}
	cooling, cooled := Status{Rejected, 1, now.Add(time.Nanosecond)}, Status{Rejected, 1, now}
	blocked, superseded := Status{Blocked, 3, time.Time{}}, Status{Superseded, 0, time.Time{}}
	cases := []struct {
		name string
		from Status
		verb Verb
		want Status
		text string
		kind fault.Kind
	}{
		{"pending", pending, Scan, pending, "", 0},
		{"pending", pending, Renew, pending, "", 0},
		{"pending", pending, Install, done, "", 0},
		{"pending", pending, Fail, failed, "", 0},
		{"pending", pending, Reject, Status{Rejected, 1, later}, "", 0},
		{"pending", pending, Unblock, pending, notInList, fault.KindNotFound},
		{"pending again", Status{Pending, 1, time.Time{}}, Reject, Status{Rejected, 2, later}, "", 0},
		{"pending again", Status{Pending, 2, time.Time{}}, Reject, blocked, "", 0},
		{"pending again", Status{Pending, 2, time.Time{}}, Install, Status{Installed, 2, time.Time{}}, "", 0},

		{"installed", done, Scan, done, "", 0},
		{"installed", done, Renew, Status{Pending, 0, time.Time{}}, "", 0},
		{"installed", done, Install, done, "", 0},
		{"installed", done, Fail, done, installed, fault.KindConflict},
		{"installed", done, Reject, done, cannotReject, fault.KindConflict},
		{"installed", done, Unblock, done, notInList, fault.KindNotFound},

		{"cooling", cooling, Scan, cooling, "", 0},
		{"cooled", cooled, Scan, Status{Pending, 1, time.Time{}}, "", 0},
		{"cooled", cooled, Renew, cooled, "", 0},
		{"cooling", cooling, Install, Status{Installed, 1, time.Time{}}, "", 0},
		{"cooling", cooling, Fail, Status{Failed, 1, time.Time{}}, "", 0},
		{"cooling", cooling, Reject, Status{Rejected, 2, later}, "", 0},
		{"cooling twice", Status{Rejected, 2, later}, Reject, blocked, "", 0},
		{"cooling", cooling, Unblock, cooling, notInList, fault.KindNotFound},

		{"failed", failed, Scan, pending, "", 0},
		{"failed", failed, Renew, failed, "", 0},
		{"failed", failed, Install, done, "", 0},
		{"failed", failed, Fail, failed, "", 0},
		{"failed", failed, Reject, Status{Rejected, 1, later}, "", 0},
		{"failed", failed, Unblock, failed, notInList, fault.KindNotFound},

		{"blocked", blocked, Scan, blocked, "", 0},
		{"blocked", blocked, Renew, blocked, "", 0},
		{"blocked", blocked, Install, blocked, unblockFirst, fault.KindConflict},
		{"blocked", blocked, Fail, blocked, unblockFirst, fault.KindConflict},
		{"blocked", blocked, Reject, blocked, alreadyBlocked, fault.KindConflict},
		{"blocked", blocked, Unblock, pending, "", 0},

		{"pending", pending, Supersede, superseded, "", 0},
		{"pending again", Status{Pending, 2, time.Time{}}, Supersede, Status{Superseded, 2, time.Time{}}, "", 0},
		{"installed", done, Supersede, superseded, "", 0},
		{"cooling", cooling, Supersede, Status{Superseded, 1, cooling.CooldownUntil}, "", 0},
		{"failed", failed, Supersede, superseded, "", 0},
		{"blocked", blocked, Supersede, blocked, "", 0},
		{"superseded", superseded, Supersede, superseded, "", 0},
		{"superseded", superseded, Scan, pending, "", 0},
		{"superseded", superseded, Renew, pending, "", 0},
		{"superseded, cooling", Status{Superseded, 1, cooling.CooldownUntil}, Scan, cooling, "", 0},
		{"superseded, cooled", Status{Superseded, 1, now}, Scan, Status{Pending, 1, time.Time{}}, "", 0},
		{"superseded", superseded, Install, done, "", 0},
		{"superseded", superseded, Fail, failed, "", 0},
		{"superseded", superseded, Reject, Status{Rejected, 1, later}, "", 0},
		{"superseded", superseded, Unblock, superseded, notInList, fault.KindNotFound},

		{"pending", pending, Withdraw, pending, refuseNotInstalled, fault.KindConflict},
		{"installed", done, Withdraw, Status{Rejected, 1, later}, "", 0},
		{"installed at last", Status{Installed, 2, time.Time{}}, Withdraw, blocked, "", 0},
		{"cooling", cooling, Withdraw, cooling, refuseNotInstalled, fault.KindConflict},
		{"failed", failed, Withdraw, failed, refuseNotInstalled, fault.KindConflict},
		{"blocked", blocked, Withdraw, blocked, refuseNotInstalled, fault.KindConflict},
		{"superseded", superseded, Withdraw, superseded, refuseNotInstalled, fault.KindConflict},

		{"pending", pending, Ask, pending, "", 0},
		{"installed", done, Ask, done, "", 0},
		{"cooling", cooling, Ask, cooling, "", 0},
		{"failed", failed, Ask, failed, "", 0},
		{"blocked", blocked, Ask, blocked, unblockFirst, fault.KindConflict},
		{"superseded", superseded, Ask, superseded, "", 0},
		{"pending", pending, Lapse, pending, "", 0},
		{"installed", done, Lapse, done, "", 0},
		{"cooling", cooling, Lapse, cooling, "", 0},
		{"failed", failed, Lapse, failed, "", 0},
		{"blocked", blocked, Lapse, blocked, "", 0},
		{"superseded", superseded, Lapse, superseded, "", 0},
	}
	seen := map[State]map[Verb]bool{}
	for _, c := range cases {
		t.Run(c.name+"/"+string(c.verb), func(t *testing.T) {
			got, err := c.from.Apply(c.verb, now)
			if got != c.want {
				t.Errorf("%+v becomes %+v, want %+v", c.from, got, c.want)
			}
			if c.text == "" && err != nil || c.text != "" && (!fault.Is(err, c.kind) || fault.Of(err).Message != c.text) {
				t.Errorf("error is %v, want %q", err, c.text)
			}
		})
		if seen[c.from.State] == nil {
			seen[c.from.State] = map[Verb]bool{}
		}
		seen[c.from.State][c.verb] = true
	}
	for _, state := range States {
		for _, verb := range []Verb{Scan, Renew, Install, Fail, Reject, Unblock, Supersede, Withdraw, Ask, Lapse} {
			if !seen[state][verb] {
				t.Errorf("no case for %s × %s; want seen[state][verb]", state, verb)
			}
		}
		if len(transitions[state]) != 10 {
			t.Errorf("%s has %d verbs; want 10", state, len(transitions[state]))
		}
	}
}

// Which verbs leave an open request open, for every state that the verb leads to, written out.
func TestWhichVerbsEndARequest(t *testing.T) {
	keeps := map[Verb]bool{
		Scan: true, Renew: true, Ask: true,
		Install: false, Fail: false, Reject: false, Unblock: false, Supersede: false, Withdraw: false, Lapse: false,
	}
	for _, to := range States {
		for verb, open := range keeps {
			asked := Item[int]{Request: &confirm.Request{AskedBy: "alice"}}
			if asked.enter(Status{State: to}, verb); (asked.Request != nil) != open || asked.State != to {
				t.Errorf("%s to %s: got request %+v, state %s; want it open %v", verb, to, asked.Request, asked.State, open)
			}
			carried := Item[int]{Request: &confirm.Request{AskedBy: "alice", ConfirmedBy: "bob"}}
			if carried.enter(Status{State: to}, verb); (carried.Request != nil) != (open && to == Installed) {
				t.Errorf("%s to %s: got the carried out request %+v; want it only of what is installed", verb, to, carried.Request)
			}
		}
	}
	if len(keeps) != len(transitions[Pending]) {
		t.Errorf("%d verbs here, %d in the table; want the same", len(keeps), len(transitions[Pending]))
	}
}

func TestParseState(t *testing.T) {
	for text, want := range map[string]State{"": "", "all": "", "pending": Pending, "blocked": Blocked} {
		if got, err := ParseState(text); err != nil || got != want {
			t.Errorf("%q: %q, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"Pending", "pending\n", "gone", " "} {
		if _, err := ParseState(text); !fault.Is(err, fault.KindInvalid) {
			t.Errorf("%q: %v; want that it is invalid", text, err)
		}
	}
}
