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
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	tryTimeout = 2 * time.Second // of one message to one server
	timeout    = 8 * time.Second // of a lookup in all
	rounds     = 2               // in which each server is asked once
	grace      = time.Second     // for one family when the other has addresses
	// hurriedGrace is grace for a family that the servers didn't answer the last time (RFC 8305, section 3: resolution delay).
	// Some home routers and forwarders drop every question for IPv6 addresses.
	hurriedGrace = 50 * time.Millisecond
	// lateTimeout is for a family after its grace: one more message to the same server. Meanwhile the lookup keeps its sockets.
	lateTimeout = tryTimeout + time.Second
	maxServers  = 6
	maxForeign  = 16  // datagrams that answer another question; then TCP, into which nobody can throw answers
	maxLookups  = 256 // at the same time; each holds two sockets
)

// Answer is what a name resolved to.
type Answer struct {
	Addrs []netip.Addr  // at least one
	TTL   time.Duration // how long that holds, as its records say
	// Late is nil where both families were answered. Otherwise it gives the whole answer once the other family is answered, too,
	// and is closed, in any case, within the time of a lookup. An internal address in it forbids all of them.
	Late <-chan Answer
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
	silent  [len(kinds)]atomic.Bool // of each kind, whether the servers left the last question unanswered
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
	bound, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	select {
	case c.slots <- struct{}{}:
	case <-bound.Done():
		return Answer{}, fmt.Errorf("look up: %w", bound.Err())
	}
	// The questions outlive the caller by up to their own time: an answer that comes late is still worth knowing.
	asking, end := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	l := &lookup{client: c, servers: servers, name: full, asking: asking, end: end}
	return l.both(bound)
}

// kinds are the two questions that a name is looked up with.
var kinds = [2]dnsmessage.Type{dnsmessage.TypeAAAA, dnsmessage.TypeA}

// family is what came of one of a name's two questions.
type family struct {
	kind  int // of kinds
	addrs []netip.Addr
	ttl   time.Duration
	err   error
}

// lookup is one name's two questions. It holds one of the client's slots until release.
type lookup struct {
	client  *Client
	servers []string
	name    dnsmessage.Name
	asking  context.Context // of the questions
	end     context.CancelFunc
}

func (l *lookup) release() {
	l.end()
	<-l.client.slots
}

// both asks for IPv6 and IPv4 addresses. It waits for either, since an internal address of the one forbids the other; but not
// for long where a server doesn't answer one of them: then the answer has Late. The caller waits until ctx ends.
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
	c.silent[first.kind].Store(false)
	var late <-chan time.Time
	if len(first.addrs) > 0 {
		wait := grace
		if c.silent[1-first.kind].Load() {
			wait = hurriedGrace
		}
		timer := time.NewTimer(wait)
		defer timer.Stop()
		late = timer.C
	}
	second, err := await(ctx, results, late)
	switch {
	case err == nil:
		l.release()
		c.silent[second.kind].Store(false)
		return merge(l.name, first, second)
	case !errors.Is(err, errLate):
		l.release()
		return Answer{}, err
	}
	c.silent[1-first.kind].Store(true)
	whole := make(chan Answer, 1)
	go func() {
		defer l.release()
		defer close(whole)
		defer time.AfterFunc(lateTimeout, l.end).Stop()
		second := <-results
		if second.err != nil {
			return
		}
		c.silent[second.kind].Store(false)
		if answer, err := merge(l.name, first, second); err == nil {
			whole <- answer
		}
	}()
	return Answer{Addrs: first.addrs, TTL: first.ttl, Late: whole}, nil
}

// errLate says that a family was not answered within its grace.
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

// merge is the answer that two families make.
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
		return Answer{Addrs: found}, nil // half an answer is asked for again soon
	case len(first.addrs) == 0:
		return Answer{Addrs: found, TTL: second.ttl}, nil
	case len(second.addrs) == 0:
		return Answer{Addrs: found, TTL: first.ttl}, nil
	}
	return Answer{Addrs: found, TTL: min(first.ttl, second.ttl)}, nil
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
