// Package shutdown decides, when the broker stops, whether the packs' containers stop with it.
//
// Packs outlive a restart of the broker: an update of one service must not interrupt them. But where the whole suite stops, as by
// `docker compose down`, they must stop, too: the operator means them as well, and nobody would watch their gates any more.
//
// SIGTERM doesn't tell the two apart. That approval stops at the same time does: it ends its stream of gates, which the broker follows,
// within a second of its own SIGTERM. Where this guess is wrong, or the broker gets no SIGTERM at all, PID 1 in a pack's container ends it
// after a minute without a broker. What is stopped here is still wanted, and starts again with the suite.
package shutdown

import (
	"context"
	"time"
)

const (
	approvalWait = 2500 * time.Millisecond // for the end of approval's stream; a service that stops ends its streams within a second
	pollEvery    = 50 * time.Millisecond
)

// Containers are the packs' containers; *container.Manager is them.
type Containers interface {
	// DisableRestarts has no container started again, and says whether any runs.
	DisableRestarts() (running bool)
	// StopAll stops all, to be started again by the next broker.
	StopAll(ctx context.Context, reason string) error
}

// Gates is the stream of approval's decisions; *gate.View is one.
type Gates interface {
	// Connected says whether approval serves the stream.
	Connected() bool
}

// Packs stops packs' containers where the suite stops. All fields must be set.
type Packs struct {
	Containers Containers
	Gates      Gates
	// MountsLost says whether a folder that was mounted into this service has been replaced. Packs have the old folders mounted, too: their
	// sockets are served no more, so they stop whatever else goes on.
	MountsLost func() bool
}

// Stop is called once, when the broker stops, while it still serves sockets. It takes up to approvalWait, or until ctx ends, and then what
// stopping takes.
func (p *Packs) Stop(ctx context.Context) error {
	if !p.Containers.DisableRestarts() {
		return nil
	}
	if p.MountsLost() {
		return p.Containers.StopAll(ctx, "a mounted folder was replaced")
	}
	for began := time.Now(); p.Gates.Connected(); time.Sleep(pollEvery) {
		if time.Since(began) > approvalWait || ctx.Err() != nil {
			return nil
		}
	}
	return p.Containers.StopAll(ctx, "the suite stops")
}
