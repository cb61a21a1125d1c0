// Package dns asks for the addresses of names: over UDP with EDNS, over TCP where an answer doesn't fit (RFC 1035, RFC 5452,
// RFC 6891, RFC 7766).
//
// Package net does that, too, but doesn't tell how long an answer holds, which decides how long an address that was judged
// may be kept, and can't be told which servers to ask. Messages are read by golang.org/x/net/dns/dnsmessage.
package dns

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	tryTimeout = 2 * time.Second // of one message to one server
	timeout    = 8 * time.Second // of a lookup in all
	rounds     = 2               // in which each server is asked once
	grace      = time.Second     // for one family when the other has addresses
	maxServers = 6
	maxForeign = 16  // datagrams that answer another question; then TCP, into which nobody can throw answers
	maxLookups = 256 // at the same time; each holds two sockets
)

// Answer is what a name resolved to.
type Answer struct {
	Addrs []netip.Addr  // at least one
	TTL   time.Duration // how long that holds, as its records say
}

// NotFoundError says that a name doesn't exist, or has no addresses.
type NotFoundError struct {
	Name string
	TTL  time.Duration // how long that holds; 0 where nobody said
}

func (e *NotFoundError) Error() string { return "look up " + e.Name + ": no such name" }

// Client asks DNS servers. Use New or System.
type Client struct {
	servers func() ([]string, error) // host:port
	hosts   func(name string) []netip.Addr
	slots   chan struct{}
}

// New makes a client of servers, each host:port, asked in that order. A host that is a name is looked up by the system.
func New(servers []string) *Client {
	return &Client{
		servers: func() ([]string, error) { return servers, nil }, hosts: func(string) []netip.Addr { return nil },
		slots: make(chan struct{}, maxLookups),
	}
}

// Lookup finds the addresses of both families of a name, which is ASCII and absolute, with or without the last dot. The
// error is a *NotFoundError for a name that has none. It takes 8 s at most.
func (c *Client) Lookup(ctx context.Context, name string) (Answer, error) {
	if addrs := c.hosts(name); len(addrs) > 0 {
		return Answer{Addrs: addrs, TTL: hostsTTL}, nil
	}
	if name == "" || name[len(name)-1] != '.' {
		name += "."
	}
	full, err := dnsmessage.NewName(name)
	if err != nil {
		return Answer{}, fmt.Errorf("look up: %w", err)
	}
	servers, err := c.servers()
	if err != nil {
		return Answer{}, fmt.Errorf("look up: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return Answer{}, fmt.Errorf("look up: %w", ctx.Err())
	}
	return both(ctx, servers, full)
}

// family is what came of one of a name's two questions.
type family struct {
	addrs []netip.Addr
	ttl   time.Duration
	err   error
}

// both asks for IPv6 and IPv4 addresses. It waits for either, since an internal address of the one forbids the other; but
// not for long where a server doesn't answer one of them.
func both(ctx context.Context, servers []string, name dnsmessage.Name) (Answer, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan family, 2)
	for _, kind := range []dnsmessage.Type{dnsmessage.TypeAAAA, dnsmessage.TypeA} {
		go func() {
			var f family
			f.addrs, f.ttl, f.err = ask(ctx, servers, question{name, kind})
			results <- f
		}()
	}
	first := <-results
	var late <-chan time.Time
	if len(first.addrs) > 0 {
		timer := time.NewTimer(grace)
		defer timer.Stop()
		late = timer.C
	}
	var second family
	select {
	case second = <-results:
	case <-late:
		second.err = context.DeadlineExceeded
	}
	found := append(first.addrs, second.addrs...)
	switch {
	case len(found) == 0 && first.err != nil:
		return Answer{}, first.err
	case len(found) == 0 && second.err != nil:
		return Answer{}, second.err
	case len(found) == 0:
		return Answer{}, &NotFoundError{Name: name.String(), TTL: min(first.ttl, second.ttl)}
	case first.err != nil || second.err != nil:
		return Answer{Addrs: found}, nil // half an answer is asked for again soon
	case len(first.addrs) == 0:
		return Answer{found, second.ttl}, nil
	case len(second.addrs) == 0:
		return Answer{found, first.ttl}, nil
	}
	return Answer{found, min(first.ttl, second.ttl)}, nil
}

// ask asks one server after the other, until one knows.
func ask(ctx context.Context, servers []string, q question) (addrs []netip.Addr, ttl time.Duration, err error) {
	if len(servers) == 0 {
		return nil, 0, errors.New("look up: there is no DNS server to ask")
	}
	for range rounds {
		for _, server := range servers[:min(len(servers), maxServers)] {
			addrs, ttl, err = askServer(ctx, server, q, true)
			if errors.Is(err, errNoEDNS) {
				addrs, ttl, err = askServer(ctx, server, q, false)
			}
			if err == nil {
				return addrs, ttl, nil
			}
			if ctx.Err() != nil {
				return nil, 0, fmt.Errorf("look up: %w", ctx.Err())
			}
		}
	}
	return nil, 0, fmt.Errorf("look up: %w", err)
}

func askServer(ctx context.Context, server string, q question, edns bool) (addrs []netip.Addr, ttl time.Duration, err error) {
	addrs, ttl, err = exchange(ctx, "udp", server, q, edns)
	if errors.Is(err, errTruncated) || errors.Is(err, errForeign) {
		addrs, ttl, err = exchange(ctx, "tcp", server, q, edns)
	}
	return addrs, ttl, err
}

// exchange sends a query from a socket of its own, whose port the kernel picks at random, and reads the answer.
func exchange(ctx context.Context, network, server string, q question, edns bool) ([]netip.Addr, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, network, server)
	if err != nil {
		return nil, 0, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var random [2]byte
	rand.Read(random[:])
	id := binary.BigEndian.Uint16(random[:])
	query, err := newQuery(id, q, edns)
	if err != nil {
		return nil, 0, err
	}
	if network == "tcp" {
		if _, err := conn.Write(query); err != nil {
			return nil, 0, err
		}
		answer, err := readStream(conn)
		if err != nil {
			return nil, 0, err
		}
		addrs, ttl, err := parse(answer, id, q)
		if err == errTruncated {
			err = errMalformed
		}
		return addrs, ttl, err
	}
	if _, err := conn.Write(query[2:]); err != nil {
		return nil, 0, err
	}
	buf := make([]byte, 4<<10)
	for range maxForeign {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, 0, err
		}
		addrs, ttl, err := parse(buf[:n], id, q)
		if err != errForeign {
			return addrs, ttl, err
		}
	}
	return nil, 0, errForeign
}

func readStream(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	m := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(r, m)
	return m, err
}
