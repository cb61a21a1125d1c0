// Package gate distributes approval's decisions which packs may run. approval streams every change of a pack's gate to the other services
// (Publisher), and each service decides by its copy in memory (View). If no message comes for the time of the lease, all gates count as
// closed: a service that has lost approval must not go on trusting packs that may have been changed or blocked meanwhile.
//
// The stream is NDJSON: one message a line, the first of each connection a snapshot of all packs, then changes as they
// happen and a heartbeat at least every HeartbeatInterval.
package gate

import (
	"fmt"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/roster"
	"github.com/rumi-ai/rumi/libs/route"
)

const (
	// Lease is how long a View's gates may stay open without a message of approval. Then they count as closed.
	Lease = 5 * time.Second
	// HeartbeatInterval is the time between two messages of a stream on which nothing changes. Each of them renews the lease.
	HeartbeatInterval = time.Second
)

// The endpoints of approval that a View calls.
var (
	// Stream is the stream of all gates.
	Stream = route.Internal[struct{}, route.Stream]("GET", "/internal/gates", roster.Approval, followers...)
	// Single is the gate of one pack, as it is now; a pack that isn't known is a not-found fault.
	Single = route.Internal[PackRequest, State]("GET", "/internal/gates/{pack_id}", roster.Approval, followers...)

	// Table has both.
	Table = route.NewTable(Stream, Single)

	followers = []string{roster.EgressProxy, roster.CapabilityBroker, roster.PipInstaller}
)

// PackRequest names a pack.
type PackRequest struct {
	PackID string `json:"-" path:"pack_id"`
}

// State is a pack's gate.
type State struct {
	PackID   string      `json:"pack_id"`
	Open     bool        `json:"open"`             // the pack may run and use what it was granted
	Status   pack.Status `json:"status"`           // the pack's state, or why its parent keeps it closed
	Digest   string      `json:"digest"`           // the approved tree, "sha256:<hex>"; "" for a pack never approved
	Revision int64       `json:"revision"`         // grows with every change of this pack
	Retired  bool        `json:"retired,omitzero"` // it is being uninstalled: nothing may be granted to it any more

	// Reason says in one line of at most MaxReason bytes why a closed gate is closed, and what to call, for operators. It decides nothing, and
	// may be "": older versions of approval don't send it.
	Reason string `json:"reason,omitzero"`
}

// MaxReason bounds State.Reason, in bytes.
const MaxReason = 240

// UninstallIncomplete is the text for operators about a pack that is retired: what to do about it.
func UninstallIncomplete(packID string) string {
	return fmt.Sprintf("its uninstall is incomplete: repeat `DELETE /api/packs/%s`, unless another call is still at it", packID)
}

// Grantable is nil unless the pack is retired. Then it is a fault: 409. It doesn't say whether the pack is approved.
func (s State) Grantable() error {
	if !s.Retired {
		return nil
	}
	return fault.Conflict("Cannot grant anything to pack '%s': %s", s.PackID, UninstallIncomplete(s.PackID)).With("uninstall_incomplete")
}

// message is a line of the stream. A heartbeat has none of the fields.
type message struct {
	Snapshot bool     `json:"snapshot,omitzero"` // States has all gates; others that the reader knows don't exist any more
	States   []State  `json:"states,omitempty"`
	Removed  []string `json:"removed,omitempty"` // ids of packs that approval doesn't know any more

	// Changed is when approval had changed what the message says; the zero time for a snapshot, and from older versions of approval.
	Changed time.Time `json:"changed,omitzero"`

	// TraceParent is the span in which approval changed it (W3C Trace Context), and RequestID the request. Both decide nothing, and may be "".
	TraceParent string `json:"traceparent,omitzero"`
	RequestID   string `json:"request_id,omitzero"`
}
