package upstream

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"
)

const (
	stagger    = 250 * time.Millisecond // between attempts (RFC 8305, section 8: connection attempt delay)
	maxAddrs   = 8                      // tried of one target
	dialsAhead = 4                      // under way at the same time
)

// reached is a connection, or why there is none.
type reached struct {
	conn net.Conn
	addr netip.Addr
	err  error
}

// Reach connects to one of the target's judged addresses, whichever answers first: to the next one begins an attempt when
// the one before has failed or has not answered within 250 ms (RFC 8305). The others are given up. Errors are of type
// *Error; ctx and the deadline bound all attempts together.
func (c *Config) Reach(ctx context.Context, t *Target, deadline time.Time) (net.Conn, netip.Addr, error) {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	addrs := order(t.Addrs)
	if len(addrs) == 1 {
		conn, err := c.Dial(ctx, netip.AddrPortFrom(addrs[0], t.Port))
		if err != nil {
			return nil, addrs[0], connectError(err)
		}
		return conn, addrs[0], nil
	}
	results := make(chan reached)
	over := make(chan struct{})
	defer close(over)
	try := func(addr netip.Addr) {
		conn, err := c.Dial(ctx, netip.AddrPortFrom(addr, t.Port))
		select {
		case results <- reached{conn, addr, err}:
		case <-over:
			if err == nil {
				conn.Close() // answered too late
			}
		}
	}
	next := time.NewTimer(0)
	defer next.Stop()
	failure := &Error{Kind: KindRefused, Text: "Host is not reachable"}
	for waiting := 0; waiting > 0 || len(addrs) > 0; {
		var now <-chan time.Time
		if len(addrs) > 0 && waiting < dialsAhead {
			now = next.C
		}
		select {
		case <-now:
			go try(addrs[0])
			addrs, waiting = addrs[1:], waiting+1
			next.Reset(stagger)
		case r := <-results:
			if r.err == nil {
				return r.conn, r.addr, nil
			}
			waiting--
			failure = worse(failure, connectError(r.err))
			next.Reset(0)
		case <-ctx.Done(): // though Dial should notice, too
			return nil, netip.Addr{}, connectError(ctx.Err())
		}
	}
	return nil, netip.Addr{}, failure
}

// worse is the failure that says more: that an address has no route is nothing against that the server refuses.
func worse(a, b *Error) *Error {
	rank := func(e *Error) int {
		switch {
		case errors.Is(e, syscall.ECONNREFUSED):
			return 3
		case e.Kind == KindTimeout:
			return 2
		case e.cause != nil:
			return 1
		}
		return 0
	}
	if rank(b) > rank(a) {
		return b
	}
	return a
}

// order alternates between the families, IPv6 first (RFC 8305, section 4), each in the order given, and leaves out what
// comes twice or is too many.
func order(addrs []netip.Addr) []netip.Addr {
	if len(addrs) < 2 {
		return addrs
	}
	var six, four []netip.Addr
	seen := make(map[netip.Addr]bool, len(addrs))
	for _, a := range addrs {
		switch {
		case seen[a]:
		case a.Is4():
			four = append(four, a)
		default:
			six = append(six, a)
		}
		seen[a] = true
	}
	var all []netip.Addr
	for len(all) < maxAddrs && len(six)+len(four) > 0 {
		if len(six) > 0 {
			all, six = append(all, six[0]), six[1:]
		}
		if len(four) > 0 {
			all, four = append(all, four[0]), four[1:]
		}
	}
	return all[:min(len(all), maxAddrs)]
}
