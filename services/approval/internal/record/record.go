// Package record has the record of a pack, which approval stores: its status, the decisions about it with their actors, and the digest of the
// bytes that may run. It is a leaf: it has the state machine as a table, and knows neither the database nor the folder.
package record

import (
	"slices"
	"time"

	"github.com/rumi-ai/rumi/libs/confirm"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/pack"
)

// retired is the row of a retired pack in the table transitions; the status of its record is pack.StatusError. Nothing leads
// out of it except that the record is removed.
const retired pack.Status = "retired"

// Verb is an event that can change a pack's status.
type Verb string

// The verbs.
const (
	Approve    Verb = "approve"    // a person approved exactly these bytes; where that takes two, another one confirmed it
	Ask        Verb = "ask"        // a person asked for an approval that another one has to confirm
	Lapse      Verb = "lapse"      // the open request is no longer about what is in the folder
	Reject     Verb = "reject"     // a person rejected the pack
	Modify     Verb = "modify"     // the folder is not what was approved
	Invalidate Verb = "invalidate" // the folder can't be a pack's
	Revalidate Verb = "revalidate" // the folder can be a pack's again
	Start      Verb = "start"      // the pack's container started
	Stop       Verb = "stop"       // the pack's container stopped
	Retire     Verb = "retire"     // an uninstall has begun
)

// transitions is the state machine: which status a verb makes of a status. A verb that a row doesn't name changes nothing. Only
// the decisions of a person are refused instead: the person must not believe that they took effect.
// record_test.go has the table a second time, written by hand.
var transitions = map[pack.Status]map[Verb]pack.Status{
	pack.StatusPending:  {Approve: pack.StatusApproved, Ask: pack.StatusPending, Lapse: pack.StatusPending, Reject: pack.StatusBlocked, Invalidate: pack.StatusError, Retire: retired},
	pack.StatusApproved: {Approve: pack.StatusApproved, Ask: pack.StatusApproved, Lapse: pack.StatusApproved, Reject: pack.StatusBlocked, Modify: pack.StatusModified, Invalidate: pack.StatusModified, Start: pack.StatusRunning, Retire: retired},
	pack.StatusRunning:  {Approve: pack.StatusRunning, Ask: pack.StatusRunning, Lapse: pack.StatusRunning, Reject: pack.StatusBlocked, Modify: pack.StatusModified, Invalidate: pack.StatusModified, Stop: pack.StatusApproved, Retire: retired},
	pack.StatusModified: {Approve: pack.StatusApproved, Ask: pack.StatusModified, Lapse: pack.StatusModified, Reject: pack.StatusBlocked, Retire: retired},
	pack.StatusBlocked:  {Approve: pack.StatusApproved, Ask: pack.StatusBlocked, Lapse: pack.StatusBlocked, Reject: pack.StatusBlocked, Retire: retired},
	pack.StatusError:    {Reject: pack.StatusBlocked, Revalidate: pack.StatusPending, Retire: retired},
	// Not even a rejection: "blocked" would hide from the operator that the uninstall has to be repeated.
	retired: {},
}

// decisions are the verbs of persons.
var decisions = []Verb{Approve, Ask, Reject}

// keepsRequest says which verbs leave an open request open. Every other verb that changes a record ends it: the request has been carried
// out or rejected, or was about bytes that are no longer there.
var keepsRequest = map[Verb]bool{Start: true, Stop: true}

// Record is a pack as approval knows it.
type Record struct {
	PackID          string
	Status          pack.Status
	Identity        string // Identity to Requested are from the ecosystem.json, when it was last read
	Version         string
	Description     string
	Requested       Requested
	CreatedAt       time.Time
	UpdatedAt       time.Time
	ApprovedAt      time.Time // zero before the first approval
	Digest          string    // of the approved tree, "sha256:<hex>"; "" before the first approval
	ParentIdentity  string    // of a child: what its parent's Identity was when it was approved; "" for none or unknown
	RejectionReason string    // of the last rejection, until the next approval
	LastError       string    // why it is in state error, or what was noticed about a modified one
	Retired         bool      // its uninstall has begun and not ended; the state is pack.StatusError
	Revision        int64     // grows by one with every change; from 1

	// Request is the approval that a person asked for and another one has to confirm. Of a pack that may run it can be the one that was
	// confirmed, for who asked; nil for none.
	Request *confirm.Request
}

// Requested lists the permissions that a pack asks for. The person who decides reads it; it grants nothing.
type Requested struct {
	Secrets []string `json:"secrets"`
	Domains []string `json:"allowed_domains"`
	Ports   []uint16 `json:"allowed_ports"`
}

// Event is an entry of a pack's history.
type Event struct {
	Version   string // of the pack, as it calls itself
	Timestamp time.Time
	Action    string // approved, rejected, modified, …: what the audit entry calls pack_<action>
	Digest    string // of the tree that an approval was about; "" otherwise
	Actor     string
	Reason    string

	RequestedBy string // who asked for what the actor confirmed; "" where one person decided
}

// NewRecord is a record that a store doesn't have yet, with the first event of its history. A store writes both or neither.
type NewRecord struct {
	Record *Record
	Event  *Event
}

// New is the record of a pack that had none, pending.
func New(packID string, now time.Time) *Record {
	return &Record{PackID: packID, Status: pack.StatusPending, CreatedAt: now, UpdatedAt: now, Revision: 1}
}

// Apply applies a verb. changed says whether the status changed or, for a decision, was confirmed. A decision that the status
// forbids is a conflict. Except for the verbs that keep a request, a change drops it: after Ask and Approve the caller sets the new one.
func (r *Record) Apply(verb Verb, now time.Time) (changed bool, err error) {
	row := r.Status
	if r.Retired {
		row = retired
	}
	next, ok := transitions[row][verb]
	switch {
	case ok:
	case !slices.Contains(decisions, verb):
		return false, nil
	case r.Retired:
		return false, r.RetiredFault(doing(verb))
	default:
		return false, fault.Conflict("Cannot %s a pack in state '%s': %s", doing(verb), r.Status, r.LastError).With("state_forbids")
	}
	if next == retired {
		next, r.Retired, r.LastError = pack.StatusError, true, gate.UninstallIncomplete(r.PackID)
	}
	if !keepsRequest[verb] {
		r.Request = nil
	}
	r.Status, r.UpdatedAt = next, now
	r.Revision++
	return true, nil
}

// doing is what the person wanted who caused a verb: to ask for an approval is to approve.
func doing(verb Verb) string {
	if verb == Ask {
		verb = Approve
	}
	return string(verb)
}

// RetiredFault is the conflict for a caller that wants to do something ("approve", "review") with a retired pack; nil for a
// pack that isn't retired.
func (r *Record) RetiredFault(doing string) error {
	if !r.Retired {
		return nil
	}
	return fault.Conflict("Cannot %s pack '%s': %s", doing, r.PackID, r.LastError).With("uninstall_incomplete")
}

// Gate is the gate that follows from the record and the parent's gate, which is nil for a pack without a parent. A pack runs
// only while its parent may: otherwise its gate has the parent's status.
func (r *Record) Gate(parent *gate.State) gate.State {
	g := gate.State{PackID: r.PackID, Open: r.Status.Executable(), Status: r.Status, Digest: r.Digest, Revision: r.Revision, Retired: r.Retired}
	if g.Open && parent != nil && !parent.Open {
		g.Open, g.Status = false, parent.Status
	}
	return g
}
