package candidate

import (
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
)

// Verb is an event in a candidate's life, such as an approval or a scan.
type Verb string

// The verbs. An approval is Install or Fail, according to how it ends.
const (
	Scan    Verb = "scan"
	Renew   Verb = "renew" // a scan found an installed candidate with another payload, or the pack doesn't use it any more
	Install Verb = "install"
	Fail    Verb = "fail"
	Reject  Verb = "reject"
	Unblock Verb = "unblock"
	// Supersede: a scan no longer finds the candidate's bytes, and it isn't in use.
	Supersede Verb = "supersede"
	// Withdraw takes an approval back. It counts as a rejection.
	Withdraw Verb = "withdraw"
	// Ask records that a person asked for an approval which another one has to confirm. Nothing is installed.
	Ask Verb = "ask"
	// Lapse ends an open request without a decision about the candidate: it was about other bytes, or was taken back.
	Lapse Verb = "lapse"
)

// rule returns the status after a verb, or the fault that forbids it.
type rule func(s Status, now time.Time) (Status, *fault.Fault)

// transitions is the state machine, complete: a rule for every state and verb. An operator can approve in any state but
// blocked: the cooldown keeps packs from asking again and again, it doesn't bind the operator, and a failed installation may be
// repeated.
var transitions = map[State]map[Verb]rule{
	Pending:    {Scan: unchanged, Renew: unchanged, Install: become(Installed), Fail: become(Failed), Reject: countRejection, Unblock: refuseNotBlocked, Supersede: markSuperseded, Withdraw: refuseNotInstalled, Ask: unchanged, Lapse: unchanged},
	Installed:  {Scan: unchanged, Renew: become(Pending), Install: unchanged, Fail: refuse("candidate_installed", "Candidate is already installed"), Reject: refuse("candidate_installed", "Cannot reject installed candidate"), Unblock: refuseNotBlocked, Supersede: markSuperseded, Withdraw: countRejection, Ask: unchanged, Lapse: unchanged},
	Rejected:   {Scan: endCooldown, Renew: unchanged, Install: become(Installed), Fail: become(Failed), Reject: countRejection, Unblock: refuseNotBlocked, Supersede: markSuperseded, Withdraw: refuseNotInstalled, Ask: unchanged, Lapse: unchanged},
	Failed:     {Scan: become(Pending), Renew: unchanged, Install: become(Installed), Fail: become(Failed), Reject: countRejection, Unblock: refuseNotBlocked, Supersede: markSuperseded, Withdraw: refuseNotInstalled, Ask: unchanged, Lapse: unchanged},
	Blocked:    {Scan: unchanged, Renew: unchanged, Install: refuseBlocked, Fail: refuseBlocked, Reject: refuse("candidate_blocked", "Candidate is already blocked"), Unblock: resetRejections, Supersede: unchanged, Withdraw: refuseNotInstalled, Ask: refuseBlocked, Lapse: unchanged},
	Superseded: {Scan: revive, Renew: revive, Install: become(Installed), Fail: become(Failed), Reject: countRejection, Unblock: refuseNotBlocked, Supersede: unchanged, Withdraw: refuseNotInstalled, Ask: unchanged, Lapse: unchanged},
}

// keepsRequest says which verbs leave an open request open. All others end it.
var keepsRequest = map[Verb]bool{Scan: true, Renew: true, Ask: true}

// enter sets the status that a verb leads to, and ends the request that doesn't outlive it.
func (i *Item[P]) enter(next Status, verb Verb) {
	i.endRequest(next, verb)
	i.Status = next
}

// endRequest drops the request if it doesn't outlive a verb that leads to next. One that was carried out stays as long as its candidate is
// installed: it says who asked.
func (i *Item[P]) endRequest(next Status, verb Verb) {
	if !keepsRequest[verb] || i.Request.Requester() != "" && next.State != Installed {
		i.Request = nil
	}
}

// Apply returns the status after a verb, or the fault that forbids it.
func (s Status) Apply(verb Verb, now time.Time) (Status, error) {
	next, refusal := transitions[s.State][verb](s, now)
	if refusal != nil {
		return s, refusal
	}
	return next, nil
}

func unchanged(s Status, _ time.Time) (Status, *fault.Fault) { return s, nil }

// become is the rule for a new state; the number of rejections stays.
func become(to State) rule {
	return func(s Status, _ time.Time) (Status, *fault.Fault) {
		return Status{State: to, RejectCount: s.RejectCount}, nil
	}
}

// countRejection counts a rejection, and blocks the candidate at the BlockedAfter-th.
func countRejection(s Status, now time.Time) (Status, *fault.Fault) {
	count := s.RejectCount + 1
	if count >= BlockedAfter {
		return Status{State: Blocked, RejectCount: count}, nil
	}
	return Status{State: Rejected, RejectCount: count, CooldownUntil: now.Add(Cooldown)}, nil
}

// endCooldown makes a rejected candidate pending, if its cooldown is over.
func endCooldown(s Status, now time.Time) (Status, *fault.Fault) {
	if now.Before(s.CooldownUntil) {
		return s, nil
	}
	return Status{State: Pending, RejectCount: s.RejectCount}, nil
}

// markSuperseded keeps the cooldown: it must still count if the pack brings the same bytes back.
func markSuperseded(s Status, _ time.Time) (Status, *fault.Fault) {
	s.State = Superseded
	return s, nil
}

// revive is for a superseded candidate whose bytes are back: it is rejected while its cooldown lasts, otherwise pending.
func revive(s Status, now time.Time) (Status, *fault.Fault) {
	if now.Before(s.CooldownUntil) {
		s.State = Rejected
		return s, nil
	}
	return Status{State: Pending, RejectCount: s.RejectCount}, nil
}

// resetRejections makes a blocked candidate pending, with no rejections.
func resetRejections(Status, time.Time) (Status, *fault.Fault) {
	return Status{State: Pending}, nil
}

// refuse is the rule for a verb that a state forbids.
func refuse(code, text string) rule {
	return func(s Status, _ time.Time) (Status, *fault.Fault) {
		return s, fault.Conflict("%s", text).With(code)
	}
}

var (
	refuseBlocked      = refuse("candidate_blocked", "Candidate is blocked. Unblock first.")
	refuseNotInstalled = refuse("candidate_not_installed", "Candidate is not installed")
)

func refuseNotBlocked(s Status, _ time.Time) (Status, *fault.Fault) {
	return s, fault.NotFound("Candidate not found in blocked list").With("candidate_not_blocked")
}
