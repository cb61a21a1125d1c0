package uds

import (
	"context"
	"time"
)

// unreserved is the longest frame that is read without a reservation, in bytes: what each connection may cost in any case.
const unreserved = initialAlloc

// reserveRequest reserves n bytes of Limits.Requests for a frame that has begun, and waits until there are so many. It returns
// false where the connection ends first.
//
// The attack: a client that opens a thousand connections and on each announces a frame of 1 MiB, and sends all but its last byte.
// With the reservation its own next frame waits, and the memory of the process stays bounded. The time that a frame waits
// here doesn't count against Limits.Frame. A connection that waits is idle: if it is closed to admit another one, its wait
// ends, too.
func (c *conn) reserveRequest(n int) bool {
	s := c.server
	if s.requests.TryAcquire(int64(n)) {
		c.requestBytes = n
		return true
	}
	ctx, cancel := context.WithCancel(s.open)
	defer cancel()
	c.giveUp.Store(&cancel)
	defer c.giveUp.Store(nil)
	c.watch()
	defer context.AfterFunc(c.client, cancel)()
	if c.state.Load() == closed { // closeIdle may have come before giveUp was set; then it has cancelled nothing
		return false
	}
	if s.requests.Acquire(ctx, int64(n)) != nil {
		return false
	}
	c.requestBytes = n
	return true
}

// release releases what the request and its answer had reserved.
func (c *conn) release() {
	c.budget.release()
	if c.requestBytes > 0 {
		c.server.requests.Release(int64(c.requestBytes))
		c.requestBytes = 0
	}
}

// frameDeadline begins the time within which a frame has to arrive whole.
func (c *conn) frameDeadline() error { return c.SetReadDeadline(time.Now().Add(c.server.limits.Frame)) }
