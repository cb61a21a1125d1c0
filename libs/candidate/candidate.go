// Package candidate is the way from found to installed of what packs bring along and an operator must approve by
// itself: capability handlers and requirements.lock files. It has the states, the rules and the table; the owner
// (capability-broker, pip-installer) has the keys, the payload and the installing.
//
// Answers and texts are those of contract.md, "Candidates".
package candidate

import (
	"time"

	"github.com/rumi-ai/rumi/libs/candidate/wire"
	"github.com/rumi-ai/rumi/libs/fault"
)

// State is where a candidate is.
type State string

// The states of contract.md.
const (
	Pending   State = "pending"   // waits for a decision
	Installed State = "installed" // approved, and what it brings is in use
	Rejected  State = "rejected"  // scans skip it until its cooldown ends
	Failed    State = "failed"    // approved, but installing it failed
	Blocked   State = "blocked"   // rejected BlockedAfter times: only Unblock brings it back
	// Superseded is not of contract.md: the pack has no longer the bytes that it is about, or others are in use in its
	// place. It waits for nobody.
	Superseded State = "superseded"
)

// States are all states, in the order in which they are listed.
var States = []State{Pending, Installed, Rejected, Failed, Blocked, Superseded}

// ParseState reads a ?status= of a request; "" and "all" are any state.
func ParseState(s string) (State, error) {
	if s == "" || s == "all" {
		return "", nil
	}
	for _, state := range States {
		if string(state) == s {
			return state, nil
		}
	}
	return "", fault.Invalid("Invalid status: %q", s).With("invalid_status")
}

const (
	// Cooldown is how long after a rejection scans skip the candidate.
	Cooldown = time.Hour
	// BlockedAfter is the rejection that blocks.
	BlockedAfter = 3
	// MaxText bounds a reason or notes, in bytes.
	MaxText = 4096
	// keptSuperseded is how many superseded candidates of a pack are kept, the latest. Ones that were rejected stay
	// beyond that: a pack that brings the same bytes again must not have shaken off its rejections.
	maxSuperseded = 20
)

// Standing is what the rules are about.
type Status struct {
	State         State
	RejectCount   int
	CooldownUntil time.Time // zero unless rejected
}

// Item is a candidate.
type Item[P any] struct {
	Key    string
	PackID string
	Status
	CreatedAt time.Time
	UpdatedAt time.Time // of the last change; of a blocked one, when it was blocked
	Actor     string    // who made the last decision, "" before the first
	Reason    string    // of the last rejection or unblocking
	LastError string    // why it is failed
	Payload   P         // the owner's, kept as JSON

	announced bool  // an operator's scan has told of it
	revision  int64 // grows with every change; tells whether it changed while it was being installed
}

// Counts, ScanError and ScanResult go over the wire as they are.
type (
	Counts     = wire.Counts
	ScanError  = wire.ScanError
	ScanResult = wire.ScanResult
)

// Found is a candidate that a scan saw.
type Found[P any] struct {
	Key     string
	PackID  string
	Payload P
}
