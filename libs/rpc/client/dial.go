package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"
)

const (
	// lookupTimeout bounds the look-up of a service's address. A resolver that knows the services (a compose network's, Consul, a
	// hosts file) answers from memory. Docker's resolver forwards a name that it doesn't know, such as that of a service that is
	// down, to outside resolvers, which may answer late or never; callers must learn at once that the service is down.
	lookupTimeout = 400 * time.Millisecond

	lookupAge = 2 * time.Second // after which the addresses of a name are looked up again: replicas come and go
)

// lookupIP resolves the name of a host.
var lookupIP = net.DefaultResolver.LookupNetIP

// host is an instance of a service by name or address. A name may stand for several: the replicas of a service in a compose or Swarm
// network. They take turns.
type host struct {
	name string
	port uint16

	mu        sync.Mutex
	found     []netip.AddrPort // sorted; nil before the first lookup
	at        time.Time        // of the last lookup
	looking   bool             // one is under way
	permanent bool             // name is an address itself
	turn      int
}

func newHost(address string) (*host, error) {
	name, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("connect: port of %s: %w", address, err)
	}
	h := &host{name: name, port: uint16(port)}
	if ip, err := netip.ParseAddr(name); err == nil {
		h.found, h.permanent = []netip.AddrPort{netip.AddrPortFrom(ip.Unmap(), h.port)}, true
	}
	return h, nil
}

// inTurn returns the addresses of the host, each call another one first (round robin). It looks the name up if the last look-up is older than lookupAge; while
// one look-up is under way other calls use the addresses of the one before.
func (h *host) inTurn(ctx context.Context) ([]netip.AddrPort, error) {
	h.mu.Lock()
	stale := !h.permanent && (h.found == nil || time.Since(h.at) >= lookupAge)
	if stale && h.found != nil && h.looking {
		stale = false // what was found before will do meanwhile
	}
	h.looking = h.looking || stale
	h.mu.Unlock()
	if stale {
		if err := h.lookup(ctx); err != nil {
			return nil, err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.found) == 1 {
		return h.found, nil
	}
	h.turn = (h.turn + 1) % len(h.found)
	return slices.Concat(h.found[h.turn:], h.found[:h.turn]), nil
}

// lookup updates found. If it fails, the addresses of the look-up before stay.
func (h *host) lookup(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	ips, err := lookupIP(ctx, "ip", h.name)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.looking = false
	if err == nil && len(ips) == 0 {
		err = errors.New("the name has no address")
	}
	if err != nil {
		if h.found != nil {
			return nil
		}
		return fmt.Errorf("connect: %w", err)
	}
	h.found, h.at = make([]netip.AddrPort, len(ips)), time.Now()
	for i, ip := range ips {
		h.found[i] = netip.AddrPortFrom(ip.Unmap(), h.port)
	}
	slices.SortFunc(h.found, netip.AddrPort.Compare)
	h.found = slices.Compact(h.found)
	return nil
}

// dial connects to the first of addresses that can be reached, and says which that is. Where none can, the name may stand for others by
// now: it is looked up again, once.
func (h *host) dial(ctx context.Context, addresses []netip.AddrPort) (net.Conn, netip.AddrPort, error) {
	conn, to, err := dialFirst(ctx, addresses)
	if err == nil || h.permanent || ctx.Err() != nil {
		return conn, to, err
	}
	h.mu.Lock()
	h.found = nil
	h.mu.Unlock()
	now, lookup := h.inTurn(ctx)
	if lookup != nil || !slices.ContainsFunc(now, func(a netip.AddrPort) bool { return !slices.Contains(addresses, a) }) {
		return nil, netip.AddrPort{}, err
	}
	return dialFirst(ctx, now)
}

func dialFirst(ctx context.Context, addresses []netip.AddrPort) (net.Conn, netip.AddrPort, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	var dialer net.Dialer
	var problems []error
	for _, address := range addresses {
		conn, err := dialer.DialContext(ctx, "tcp", address.String())
		if err == nil {
			return conn, address, nil
		}
		problems = append(problems, err)
	}
	return nil, netip.AddrPort{}, fmt.Errorf("connect: %w", errors.Join(problems...))
}
