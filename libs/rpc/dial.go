package rpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"
)

// lookupTimeout is how long finding a service's address may take. Who knows services (the resolver of a compose network,
// Consul, a hosts file) answers from memory. That of a Docker network passes a name that it doesn't know, as that of a
// service that is down, on to others and may answer late or never; that service must be known to be down at once.
const lookupTimeout = 400 * time.Millisecond

// dial connects to an instance of a service, within connectTimeout.
func dial(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("connect: port of %s: %w", address, err)
	}
	lookup, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	found, err := net.DefaultResolver.LookupNetIP(lookup, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	var dialer net.Dialer
	var problems []error
	for _, ip := range found {
		conn, err := dialer.DialContext(ctx, network, netip.AddrPortFrom(ip.Unmap(), uint16(port)).String())
		if err == nil {
			return conn, nil
		}
		problems = append(problems, err)
	}
	return nil, fmt.Errorf("connect: %w", errors.Join(problems...))
}
