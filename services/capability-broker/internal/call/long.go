package call

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/rumi-ai/rumi/libs/audit"
)

const (
	// beginAfter is how long a handler's call may take without an entry of its beginning.
	beginAfter = time.Second
	// progressEvery is how often a call that lasts has an entry of its progress. Only calls have it whose time-out is longer.
	progressEvery = 5 * time.Minute
)

// longCall writes down a handler's call while it is under way, if it takes long: otherwise a broker that is killed would leave nothing of it. An
// ordinary call leaves one entry, at its end.
type longCall struct {
	socket
	ctx   context.Context // of the call, for the ids in it; its end doesn't keep entries from being written
	entry audit.Entry
	began time.Time

	mu    sync.Mutex
	timer *time.Timer
	ended bool
}

// watch begins to watch a call that is about to be handed to a worker. end must be called.
func (k socket) watch(ctx context.Context, rec *record) *longCall {
	c := &longCall{socket: k, ctx: context.WithoutCancel(ctx), began: time.Now(), entry: audit.Entry{
		Category: audit.Permission, Action: rec.action, Success: true, OwnerPack: k.principal, Details: rec.details,
	}}
	after := beginAfter
	if rec.phase != "" { // it waited so long for a worker that it was decided about again
		c.entry.Phase, after = "begin", progressEvery
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.timer = time.AfterFunc(after, c.write)
	return c
}

// write writes the next entry. The mutex is held until it is on the disk, so that the entry of the end comes after it.
func (c *longCall) write() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return
	}
	e := c.entry
	e.Phase, e.Details = "begin", maps.Clone(e.Details)
	if c.entry.Phase != "" {
		e.Phase, e.Details["latency_ms"] = "progress", float64(time.Since(c.began).Microseconds())/1000
	}
	c.entry.Phase = e.Phase
	_ = c.Audit.Write(c.ctx, e) // the audit log itself reports in the service's log what it couldn't write; without its last entry the call fails
	c.timer.Reset(progressEvery)
}

// end ends the watch. It returns the phase of the call's last entry: "" where that is the only one.
func (c *longCall) end() (phase string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.timer.Stop()
	c.ended = true
	if c.entry.Phase == "" {
		return ""
	}
	return "end"
}
