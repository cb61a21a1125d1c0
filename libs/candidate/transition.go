package candidate

import (
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
)

// Verb is what happens to a candidate.
type Verb string

// The verbs. An approval is Install or Fail, according to how it ends.
const (
	Scan    Verb = "scan"
	Renew   Verb = "renew" // a scan that sees another thing under an installed candidate's key
	Install Verb = "install"
	Fail    Verb = "fail"
	Reject  Verb = "reject"
	Unblock Verb = "unblock"
	// Supersede is a scan that doesn't see the candidate's bytes any more, or sees that others are in use in its place.
	Supersede Verb = "supersede"
	// Withdraw takes an approval back. It counts as a rejection.
	Withdraw Verb = "withdraw"
)

// rule says what a verb makes of a standing, or why it may not.
type rule func(s Status, now time.Time) (Status, *fault.Fault)

// transitions is the whole state machine. An operator's approval is good in any state but blocked: the cooldown keeps
// packs from asking again, it doesn't bind the operator, and a failed install may simply be tried again.
var transitions = map[State]map[Verb]rule{
	Pending:    {Scan: unchanged, Renew: unchanged, Install: goesTo(Installed), Fail: goesTo(Failed), Reject: isRejected, Unblock: notBlocked, Supersede: isSuperseded, Withdraw: notInstalled},
	Installed:  {Scan: unchanged, Renew: goesTo(Pending), Install: unchanged, Fail: refused("candidate_installed", "Candidate is already installed"), Reject: refused("candidate_installed", "Cannot reject installed candidate"), Unblock: notBlocked, Supersede: isSuperseded, Withdraw: isRejected},
	Rejected:   {Scan: endCooldown, Renew: unchanged, Install: goesTo(Installed), Fail: goesTo(Failed), Reject: isRejected, Unblock: notBlocked, Supersede: isSuperseded, Withdraw: notInstalled},
	Failed:     {Scan: goesTo(Pending), Renew: unchanged, Install: goesTo(Installed), Fail: goesTo(Failed), Reject: isRejected, Unblock: notBlocked, Supersede: isSuperseded, Withdraw: notInstalled},
	Blocked:    {Scan: unchanged, Renew: unchanged, Install: isBlocked, Fail: isBlocked, Reject: refused("candidate_blocked", "Candidate is already blocked"), Unblock: isUnblocked, Supersede: unchanged, Withdraw: notInstalled},
	Superseded: {Scan: isSeenAgain, Renew: isSeenAgain, Install: goesTo(Installed), Fail: goesTo(Failed), Reject: isRejected, Unblock: notBlocked, Supersede: unchanged, Withdraw: notInstalled},
}

// Apply gives the standing after verb, or the fault that the caller gets because the state forbids it.
func (s Status) Apply(verb Verb, now time.Time) (Status, error) {
	next, refusal := transitions[s.State][verb](s, now)
	if refusal != nil {
		return s, refusal
	}
	return next, nil
}

func unchanged(s Status, _ time.Time) (Status, *fault.Fault) { return s, nil }

func goesTo(to State) rule {
	return func(s Status, _ time.Time) (Status, *fault.Fault) {
		return Status{State: to, RejectCount: s.RejectCount}, nil
	}
}

func isRejected(s Status, now time.Time) (Status, *fault.Fault) {
	count := s.RejectCount + 1
	if count >= BlockedAfter {
		return Status{State: Blocked, RejectCount: count}, nil
	}
	return Status{State: Rejected, RejectCount: count, CooldownUntil: now.Add(Cooldown)}, nil
}

func endCooldown(s Status, now time.Time) (Status, *fault.Fault) {
	if now.Before(s.CooldownUntil) {
		return s, nil
	}
	return Status{State: Pending, RejectCount: s.RejectCount}, nil
}

// isSuperseded keeps a cooldown, which counts again when the bytes come back.
func isSuperseded(s Status, _ time.Time) (Status, *fault.Fault) {
	s.State = Superseded
	return s, nil
}

func isSeenAgain(s Status, now time.Time) (Status, *fault.Fault) {
	if now.Before(s.CooldownUntil) {
		s.State = Rejected
		return s, nil
	}
	return Status{State: Pending, RejectCount: s.RejectCount}, nil
}

func isUnblocked(Status, time.Time) (Status, *fault.Fault) {
	return Status{State: Pending}, nil
}

func refused(code, text string) rule {
	return func(s Status, _ time.Time) (Status, *fault.Fault) {
		return s, fault.Conflict("%s", text).With(code)
	}
}

var (
	isBlocked    = refused("candidate_blocked", "Candidate is blocked. Unblock first.")
	notInstalled = refused("candidate_not_installed", "Candidate is not installed")
)

func notBlocked(s Status, _ time.Time) (Status, *fault.Fault) {
	return s, fault.NotFound("Candidate not found in blocked list").With("candidate_not_blocked")
}
