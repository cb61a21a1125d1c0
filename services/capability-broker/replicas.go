package main

import (
	"context"
	"time"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/periodic"
	"github.com/rumi-ai/rumi/libs/sandbox"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/replica"
)

const (
	orphansEvery = time.Second // between two looks for replicas that died
	logsEvery    = time.Hour   // between two looks for logs of packs that are gone
)

// join makes this process one of the replicas on this host.
func (b *broker) join() (err error) {
	if b.node, err = replica.Node(b.dir("capabilities")); err != nil {
		return err
	}
	if b.replica, err = replica.Join(b.dir("capabilities", "replicas")); err != nil {
		return err
	}
	b.rt.OnStop("replica", func(context.Context) error { b.replica.Close(); return nil })
	return nil
}

// inUse says whether a handler's container may be there. Each replica judges those that bear its own labels; what a replica that
// died has left is anybody's to remove.
func (b *broker) inUse(c sandbox.Container) bool {
	if c.Replica == b.replica.ID {
		return b.workers.InUse(c)
	}
	return b.replica.Alive(c.Replica)
}

// noticeHandlers tells sweepOrphans, until ctx ends, of handlers' containers that started and are not in use, such as copies with
// copied labels, and of times at which some may have been missed.
func (b *broker) noticeHandlers(ctx context.Context) error {
	b.engine.Events(ctx, func(e sandbox.Event) {
		if e.Action == sandbox.Resync || e.Action == "start" && e.Container.Kind == sandbox.Handler && !b.inUse(e.Container) {
			b.strays.Store(true)
		}
	})
	return nil
}

// sweepOrphans removes the handlers' containers of replicas that died, whose calls nobody waits for any more, those that
// could not be removed when they should, those that this process did not make, and logs of packs that are gone, until ctx ends.
func (b *broker) sweepOrphans(ctx context.Context) error {
	due := true // there may be some of replicas of which nothing else is left
	var logs time.Time
	return periodic.Run(ctx, orphansEvery, func(ctx context.Context) {
		dead, err := b.replica.Bury()
		if err != nil {
			b.rt.Log.ErrorContext(ctx, "replicas that died can't be told", "error", err)
		}
		failed, strays := b.workers.TakeRemovalFailed(), b.strays.Swap(false)
		if due = due || failed || strays || dead > 0; due {
			left, err := b.engine.Sweep(ctx, sandbox.Handler, b.inUse)
			if due = err != nil; !due && len(left) > 0 {
				b.rt.Log.InfoContext(ctx, "removed handlers' containers that are not in use", "count", len(left))
			}
		}
		if now := time.Now(); b.gates.Fresh() && now.Sub(logs) >= logsEvery {
			logs = now
			if err := b.logs.Sweep(func(packID string) bool { _, known := b.gates.Get(packID); return known }); err != nil {
				b.rt.Log.WarnContext(ctx, "logs of packs that are gone could not be removed", "error", err)
			}
		}
	}, periodic.Immediately)
}

// imageMoved tells that what packs and handlers run in has been replaced behind its name.
func (b *broker) imageMoved(ctx context.Context, name, from, to string) {
	err := b.rt.Audit.Write(ctx, audit.Entry{Category: audit.Security, Severity: audit.Warning, Action: "image_moved", Success: true,
		Details: map[string]any{"image": name, "from": from, "to": to}})
	if err != nil {
		b.rt.Log.ErrorContext(ctx, "a change of image could not be audited", "image", name, "error", err)
	}
	b.rt.Log.WarnContext(ctx, "an image's name leads to another image than before", "image", name, "from", from, "to", to)
}
