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
	stagger  = 250 * time.Millisecond // between attempts (RFC 8305, section 8: connection attempt delay)
	maxAddrs = 8                      // tried of one target
	maxDials = 4                      // under way at the same time
)

// dialResult is a connection, or why there is none.
type dialResult struct {
	conn net.Conn
	addr netip.Addr
	err  error
}

// Connect connects to one of the target's addresses, whichever answers first (RFC 8305, "Happy Eyeballs"): an attempt for the next address
// begins when the one before has failed or hasn't answered within 250 ms. The others are given up. Errors are of type *Error; ctx and the
// deadline bound all attempts together.
func (c *Config) Connect(ctx context.Context, t *Target, deadline time.Time) (net.Conn, netip.Addr, error) {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	addrs := interleave(t.Addrs)
	if len(addrs) == 1 {
		conn, err := c.Dial(ctx, netip.AddrPortFrom(addrs[0], t.Port))
		if err != nil {
			return nil, addrs[0], connectError(err)
		}
		return conn, addrs[0], nil
	}
	results := make(chan dialResult)
	over := make(chan struct{})
	defer close(over)
	try := func(addr netip.Addr) {
		conn, err := c.Dial(ctx, netip.AddrPortFrom(addr, t.Port))
		select {
		case results <- dialResult{conn, addr, err}:
		case <-over:
			if err == nil {
				conn.Close() // answered too late
			}
		}
	}
	next := time.NewTimer(0)
	defer next.Stop()
	failure := &Error{Kind: KindRefused, Text: "Host is not reachable"}
	for dialling := 0; dialling > 0 || len(addrs) > 0; {
		var now <-chan time.Time
		if len(addrs) > 0 && dialling < maxDials {
			now = next.C
		}
		select {
		case <-now:
			go try(addrs[0])
			addrs, dialling = addrs[1:], dialling+1
			next.Reset(stagger)
		case r := <-results:
			if r.err == nil {
				return r.conn, r.addr, nil
			}
			dialling--
			failure = moreTelling(failure, connectError(r.err))
			next.Reset(0)
		case <-ctx.Done(): // though Dial should notice, too
			return nil, netip.Addr{}, connectError(ctx.Err())
		}
	}
	return nil, netip.Addr{}, failure
}

// moreTelling returns the failure that says more about the server: "refused" says more than "timed out", and that more than "no route".
func moreTelling(a, b *Error) *Error {
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

// interleave alternates between the families, IPv6 first (RFC 8305, section 4), each in the order given, and leaves out what
// comes twice or is too many.
func interleave(addrs []netip.Addr) []netip.Addr {
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

// DialTunnel connects to a target for a tunnel, in which the pack itself speaks TLS: the connection is the caller's, and none of the pool's.
func (p *Pool) DialTunnel(ctx context.Context, t *Target) (net.Conn, error) {
	conn, addr, err := p.cfg.Connect(ctx, t, time.Now().Add(streamConnect))
	if err == nil {
		connected(ctx, t, addr)
	}
	return conn, err
}
