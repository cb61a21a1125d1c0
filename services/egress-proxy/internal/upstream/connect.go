package upstream

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"time"
)

// Connect makes a connection to the first of the judged addresses that takes one, with TLS where the target has it. tcp is
// what lies under conn, or conn itself. Errors are of type *Error.
func (c *Config) Connect(ctx context.Context, t *Target, deadline time.Time) (conn, tcp net.Conn, err error) {
	var failure *Error
	for i, addr := range t.Addrs {
		// What is left is shared out, so that an address that swallows everything leaves some to the others.
		left := time.Until(deadline)
		bound, cancel := context.WithTimeout(ctx, left/time.Duration(len(t.Addrs)-i))
		raw, err := c.Dial(bound, netip.AddrPortFrom(addr, t.Port))
		cancel()
		if err == nil {
			return c.handshake(ctx, t, raw, deadline)
		}
		failure = connectError(err)
		if ctx.Err() != nil {
			break
		}
	}
	if failure == nil {
		failure = &Error{Kind: KindRefused, Text: "Host is not reachable"}
	}
	return nil, nil, failure
}

func (c *Config) handshake(ctx context.Context, t *Target, raw net.Conn, deadline time.Time) (conn, tcp net.Conn, err error) {
	if !t.TLS {
		return raw, raw, nil
	}
	cfg := c.TLS.Clone()
	cfg.ServerName = t.Host
	cfg.NextProtos = []string{"http/1.1"}
	secured := tls.Client(raw, cfg)
	bound, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	if err := secured.HandshakeContext(bound); err != nil {
		raw.Close()
		return nil, nil, handshakeError(err)
	}
	return secured, raw, nil
}

// Failure says, as an *Error, why a request could not be sent or an answer not be read over a connection of Connect.
func Failure(err error) *Error { return exchangeError(err) }
