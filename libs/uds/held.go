package uds

import (
	"context"
	"time"
)

// unheld is the longest frame that is read without asking for room: what a connection may cost in any case.
const unheld = firstStep

// hold waits for room for a frame of so many bytes among those of all connections of the socket, and says whether there is
// some. A client that only ever begins frames so has its own next one wait, and costs nobody else any memory. Time spent
// here is not the frame's; who is closed to make room for another does not wait on.
func (c *conn) hold(n int) bool {
	s := c.server
	if s.held.TryAcquire(int64(n)) {
		c.holds = n
		return true
	}
	ctx, cancel := context.WithCancel(s.open)
	defer cancel()
	c.waits.Store(&cancel)
	defer c.waits.Store(nil)
	c.watch()
	defer context.AfterFunc(c.client, cancel)()
	if c.state.Load() == gone { // before anybody could tell it here
		return false
	}
	if s.held.Acquire(ctx, int64(n)) != nil {
		return false
	}
	c.holds = n
	return true
}

// drop gives back what the request and its answer held.
func (c *conn) drop() {
	c.room.drop()
	if c.holds > 0 {
		c.server.held.Release(int64(c.holds))
		c.holds = 0
	}
}

// frameDeadline begins the time that a frame has to come to its end.
func (c *conn) frameDeadline() error { return c.SetReadDeadline(time.Now().Add(c.server.limits.Frame)) }
