package gate

import (
	"context"

	"github.com/rumi-ai/rumi/libs/fault"
)

// What a service answers for a pack that may not run is decided here, so that one condition has one text in all services:
//
//	condition                                      Reason (a pack's sockets, audit)                Check (HTTP)
//	no message of approval within the lease        Pack's approval can't be confirmed …            503 Service unavailable: approval
//	approval knows no such pack                    Pack is not known                               409 Pack '…' is not approved (status: unknown)
//	the gate is closed                             Pack is not approved (status: …)                409 Pack '…' is not approved (status: …)
//
// The start of a container differs in status and text, since docs/contract.md fixes them: see container.Manager.Start of capability-broker.
// egress-proxy has a code and a text of its own for a modified pack, which the contract fixes, too.

// Reason says why a pack may not run, "" if it may. state and known are what View.Get or View.GetLatest returned. It needs no more than that: a gate
// that is closed though the pack's status lets it run is one whose lease has run out.
func Reason(state State, known bool) string {
	switch {
	case known && state.Open:
		return ""
	case !known:
		return "Pack is not known"
	case state.Status.Executable():
		return "Pack's approval can't be confirmed at the moment"
	}
	return "Pack is not approved (status: " + string(state.Status) + ")"
}

// Check is nil if a pack may run. Otherwise it is a fault for an answer over HTTP: 503 if approval sent no message within the lease, else 409. state and known
// are what View.GetLatest returned, fresh is View.Fresh after that.
func Check(packID string, state State, known, fresh bool) error {
	switch {
	case known && state.Open:
		return nil
	case !fresh: // what is known of the pack may be out of date
		return fault.ServiceUnavailable("approval")
	case !known:
		return fault.PackNotApproved(packID, "unknown")
	}
	return fault.PackNotApproved(packID, string(state.Status))
}

// Gates are the methods of View that MustKnow needs.
type Gates interface {
	Get(packID string) (State, bool)
	GetLatest(ctx context.Context, packID string) (State, bool)
	Fresh() bool
}

// MustKnow is nil if approval knows the pack. Otherwise it is a fault: 404, or 503 if approval can't be asked and sent no message within the lease.
func MustKnow(ctx context.Context, gates Gates, packID string) error {
	if _, known := gates.Get(packID); known {
		return nil
	}
	if _, known := gates.GetLatest(ctx, packID); known {
		return nil
	}
	if !gates.Fresh() {
		return fault.ServiceUnavailable("approval")
	}
	return fault.PackNotFound()
}
