package pack

// Status is the state of a pack, in the words of docs/contract.md: in the API's answers, in approval's records and on gates.
type Status string

// The states of a record of approval. Only approved and running let a pack run.
const (
	StatusPending  Status = "pending"  // waits for a first decision
	StatusApproved Status = "approved" // may run
	StatusRunning  Status = "running"  // may run, and its container does
	StatusModified Status = "modified" // was approved; its folder holds something else now
	StatusBlocked  Status = "blocked"  // a person rejected it
	StatusError    Status = "error"    // its folder can't be a pack's, or its uninstall has begun; the record's LastError says which and why
)

// States that only a gate has. The pack's own record lets it run, but it is a child ("parent__child") and its parent stands in the way.
const (
	StatusParentMissing    Status = "parent_missing"    // no pack with the parent's id is installed
	StatusParentReplaced   Status = "parent_replaced"   // the child was approved under a parent with another pack_identity
	StatusParentUnrecorded Status = "parent_unrecorded" // the parent's pack_identity could not be written into the child's record
)

// Executable says whether a pack in this state may run.
func (s Status) Executable() bool { return s == StatusApproved || s == StatusRunning }

// Undecided says whether a pack in this state waits for a person to approve or reject it.
func (s Status) Undecided() bool { return s == StatusPending || s == StatusModified }

// Recorded says whether s is a state that a record of approval can have.
func (s Status) Recorded() bool {
	switch s {
	case StatusPending, StatusApproved, StatusRunning, StatusModified, StatusBlocked, StatusError:
		return true
	}
	return false
}

// HasSocket says whether the other services keep the sockets of a pack in this state. A modified pack keeps its sockets though it may
// not run: its requests are refused with an answer that names the reason, instead of a failed connection.
func (s Status) HasSocket() bool { return s.Executable() || s == StatusModified }
