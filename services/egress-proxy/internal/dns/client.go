// Package dns resolves names to addresses: over UDP with EDNS, over TCP if an answer doesn't fit (RFC 1035, RFC 5452, RFC 6891,
// RFC 7766).
//
// Why not package net: it doesn't return the time to live of an answer, and an address that was judged may be used only so long; and
// it can't be given the servers to ask for packs' names (RUMI_EGRESS_DNS). Messages are parsed by
// golang.org/x/net/dns/dnsmessage.
//
// Names are chosen by packs, and answers by the owners of names: both are hostile. The bounds here are on what one name can cost, and
// forged answers are kept out by a random port and id for each query (RFC 5452). What an answer's addresses are worth is
// decided elsewhere, by package address.
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
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	tryTimeout = 2 * time.Second // of one message to one server
	timeout    = 8 * time.Second // of a lookup in all
	rounds     = 2               // in which each server is asked once
	grace      = time.Second     // how long one family (A, AAAA) is waited for when the other has addresses
	// shortGrace is grace for a family that the servers didn't answer the last time (RFC 8305, section 3: resolution delay). Some
	// home routers and forwarders drop every query for IPv6 addresses; without this, each new name would cost a second.
	shortGrace = 50 * time.Millisecond
	// lateTimeout bounds a family after its grace: one more message to the same server. The lookup keeps its sockets and its slot.
	lateTimeout = tryTimeout + time.Second
	maxServers  = 6
	maxForeign  = 16  // datagrams that answer another question, maybe forged; after these TCP, into which nobody off the path can inject
	maxLookups  = 256 // at the same time; each holds two sockets
)

// Answer is the result of looking up a name.
type Answer struct {
	Addrs []netip.Addr  // at least one
	TTL   time.Duration // the shortest time to live of its records
	// Late is nil if both families were answered. Otherwise it delivers the whole answer when the other family is answered, too,
	// and is closed in any case within lateTimeout. The caller must judge the whole answer again: a hostile server could send
	// a public IPv4 address at once and an internal IPv6 one late.
	Late <-chan Answer
}

// NotFoundError says that a name doesn't exist, or has no addresses.
type NotFoundError struct {
	Name string
	TTL  time.Duration // how long that may be cached (RFC 2308); 0 if the answer doesn't say
}

func (e *NotFoundError) Error() string { return "look up " + e.Name + ": no such name" }

// Client asks DNS servers. It is safe for concurrent use. It caches nothing; package resolve does. Use New or System.
type Client struct {
	servers    func() ([]string, error) // host:port
	hosts      func(name string) []netip.Addr
	slots      chan struct{}           // bounds the lookups under way
	unanswered [len(kinds)]atomic.Bool // for each kind, whether the servers left the last query unanswered; chooses the grace
}

// New makes a client that asks servers, each host:port, in that order. A server that is given by name is resolved by the system. Unlike
// System, it doesn't read /etc/hosts.
func New(servers []string) *Client {
	return &Client{
		servers: func() ([]string, error) { return servers, nil }, hosts: func(string) []netip.Addr { return nil },
		slots: make(chan struct{}, maxLookups),
	}
}

// Lookup finds the IPv4 and IPv6 addresses of a name, which is ASCII and absolute, with or without the last dot. The error is a
// *NotFoundError for a name that has none. It takes 8 s at most, the wait for one of maxLookups slots included.
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
	bound, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	select {
	case c.slots <- struct{}{}:
	case <-bound.Done():
		return Answer{}, fmt.Errorf("look up: %w", bound.Err())
	}
	// The queries don't end with the caller, but with their own time-out: other requests may wait for the same answer (Late).
	asking, end := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	l := &lookup{client: c, servers: servers, name: full, asking: asking, end: end}
	return l.both(bound)
}

// kinds are the types of the two queries of a lookup.
var kinds = [2]dnsmessage.Type{dnsmessage.TypeAAAA, dnsmessage.TypeA}

// family is the result of one of the two queries.
type family struct {
	kind  int // of kinds
	addrs []netip.Addr
	ttl   time.Duration
	err   error
}

// lookup is the two queries for one name. It holds one of the client's slots until release.
type lookup struct {
	client  *Client
	servers []string
	name    dnsmessage.Name
	asking  context.Context // of the queries
	end     context.CancelFunc
}

func (l *lookup) release() {
	l.end()
	<-l.client.slots
}

// both asks for IPv6 and IPv4 addresses. It waits for the answers to both queries, since one internal address denies all addresses of
// the name. If the servers answer only one of them, it doesn't wait longer than the grace; the answer then has Late. It
// returns ctx's error if ctx ends before the first answer.
func (l *lookup) both(ctx context.Context) (Answer, error) {
	c, results := l.client, make(chan family, len(kinds))
	for i, kind := range kinds {
		go func() {
			f := family{kind: i}
			f.addrs, f.ttl, f.err = ask(l.asking, l.servers, question{l.name, kind})
			results <- f
		}()
	}
	first, err := await(ctx, results, nil)
	if err != nil {
		l.release()
		return Answer{}, err
	}
	c.unanswered[first.kind].Store(false)
	var late <-chan time.Time
	if len(first.addrs) > 0 {
		wait := grace
		if c.unanswered[1-first.kind].Load() {
			wait = shortGrace
		}
		timer := time.NewTimer(wait)
		defer timer.Stop()
		late = timer.C
	}
	second, err := await(ctx, results, late)
	switch {
	case err == nil:
		l.release()
		c.unanswered[second.kind].Store(false)
		return merge(l.name, first, second)
	case !errors.Is(err, errLate):
		l.release()
		return Answer{}, err
	}
	c.unanswered[1-first.kind].Store(true)
	whole := make(chan Answer, 1)
	go func() {
		defer l.release()
		defer close(whole)
		defer time.AfterFunc(lateTimeout, l.end).Stop()
		second := <-results
		if second.err != nil {
			return
		}
		c.unanswered[second.kind].Store(false)
		if answer, err := merge(l.name, first, second); err == nil {
			whole <- answer
		}
	}()
	return Answer{Addrs: first.addrs, TTL: first.ttl, Late: whole}, nil
}

// errLate is await's error for a family that was not answered within its grace.
var errLate = errors.New("look up: no answer yet")

func await(ctx context.Context, results <-chan family, late <-chan time.Time) (family, error) {
	select {
	case f := <-results:
		return f, nil
	case <-late:
		return family{}, errLate
	case <-ctx.Done():
		return family{}, fmt.Errorf("look up: %w", ctx.Err())
	}
}

// merge makes the answer of two families. The one that failed counts as without addresses if the other has some; the TTL is then 0, so
// that the name is asked for again soon.
func merge(name dnsmessage.Name, first, second family) (Answer, error) {
	found := append(slices.Clip(first.addrs), second.addrs...)
	switch {
	case len(found) == 0 && first.err != nil:
		return Answer{}, first.err
	case len(found) == 0 && second.err != nil:
		return Answer{}, second.err
	case len(found) == 0:
		return Answer{}, &NotFoundError{Name: name.String(), TTL: min(first.ttl, second.ttl)}
	case first.err != nil || second.err != nil:
		return Answer{Addrs: found}, nil // see above
	case len(first.addrs) == 0:
		return Answer{Addrs: found, TTL: second.ttl}, nil
	case len(second.addrs) == 0:
		return Answer{Addrs: found, TTL: first.ttl}, nil
	}
	return Answer{Addrs: found, TTL: min(first.ttl, second.ttl)}, nil
}

// ask asks one server after the other, in rounds, until one answers.
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

// exchange sends one query and reads the answer. The socket is new for each query, so that the kernel picks a random port: with the
// random id, an attacker off the path has to guess 32 bits to forge an answer (RFC 5452, section 4).
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
		if errors.Is(err, errTruncated) {
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
		if !errors.Is(err, errForeign) {
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
