// Package candidate is the approval workflow of things that a pack ships and that need an approval of their own: capability
// handlers and requirements.lock files. It has the states, their transitions, the table and the routes that are the same for
// both. The owner (capability-broker, pip-installer) supplies the keys, the payload and the step that installs.
//
// Answers and texts are those of docs/contract.md, "Candidates". Why these states: docs/adr/candidate-states.md.
package candidate

import (
	"time"

	"github.com/rumi-ai/rumi/libs/candidate/wire"
	"github.com/rumi-ai/rumi/libs/confirm"
	"github.com/rumi-ai/rumi/libs/fault"
)

// State is the state of a candidate.
type State string

// The states of contract.md.
const (
	Pending   State = "pending"   // waits for a decision
	Installed State = "installed" // approved, and what it brings is in use
	Rejected  State = "rejected"  // an operator rejected it; scans skip it until its cooldown ends
	Failed    State = "failed"    // approved, but installing it failed
	Blocked   State = "blocked"   // rejected BlockedAfter times: only Unblock brings it back
	// Superseded is not in contract.md: the pack no longer has the bytes that the candidate is about, or another candidate is in use
	// instead. Nobody has to decide about it.
	Superseded State = "superseded"
)

// States lists all states in the order in which they are shown.
var States = []State{Pending, Installed, Rejected, Failed, Blocked, Superseded}

// ParseState reads the ?status= of a request; "" and "all" give "", which stands for any state.
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
	// BlockedAfter is the number of rejections after which a candidate is blocked.
	BlockedAfter = 3
	// MaxText bounds a reason or notes, in bytes.
	MaxText = 4096
	// maxSuperseded is how many superseded candidates of a pack are stored, the newest. Those that were rejected before are stored beyond
	// that: otherwise a pack could get rid of its rejections by removing a file and bringing it back.
	maxSuperseded = 20
)

// Status is the part of a candidate that transitions read and change.
type Status struct {
	State         State
	RejectCount   int
	CooldownUntil time.Time // zero without a cooldown; a superseded candidate has that of its last rejection
}

// Item is a candidate with the owner's payload.
type Item[P any] struct {
	Key    string
	PackID string
	Status
	CreatedAt time.Time
	UpdatedAt time.Time // of the last change; of a blocked one, when it was blocked
	Actor     string    // of the last decision; "" before the first
	Reason    string    // of the last rejection or unblocking
	LastError string    // why it is failed
	Payload   P         // the owner's; stored as JSON

	// Request is the approval that a person asked for and another one has to confirm. Of an installed candidate it can be the one that was
	// confirmed, for who asked; nil for none.
	Request *confirm.Request

	announced bool  // the result of an operator's scan has counted it
	revision  int64 // grows with every change; shows whether the candidate changed while it was being installed
}

// The types of answers that candidates have no others for.
type (
	// Counts is how many candidates are in each state.
	Counts = wire.Counts
	// ScanError is a file or folder of a pack from which a scan could not make a candidate, and why.
	ScanError = wire.ScanError
	// ScanResult counts the candidates that a scan found, by what it did with them.
	ScanResult = wire.ScanResult
)

// Found is a candidate that a scan found in a pack.
type Found[P any] struct {
	Key     string
	PackID  string
	Payload P
}
