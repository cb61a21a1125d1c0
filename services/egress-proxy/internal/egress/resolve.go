package egress

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// Resolver finds a name's addresses. The name is in hostname's one form.
type Resolver interface {
	Lookup(ctx context.Context, name string) ([]netip.Addr, error)
}

// SystemResolver asks the servers of /etc/resolv.conf.
type SystemResolver struct{}

// Lookup implements Resolver. The name is asked for as it is, with no search domain tried.
func (SystemResolver) Lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", name+".")
	for i := range addrs {
		addrs[i] = addrs[i].Unmap() // package net gives IPv4 answers in this form
	}
	return addrs, err
}

const (
	lookupTimeout = 10 * time.Second
	rememberFor   = 5 * time.Second // short, since package net doesn't tell a record's own time to live
	rememberMax   = 4096            // names
)

// answer is what a name resolved to. It is never changed.
type answer struct {
	addrs []netip.Addr
	id    string // of addrs as a set
	until time.Time
}

func newAnswer(addrs []netip.Addr) *answer {
	sorted := slices.Clone(addrs)
	slices.SortFunc(sorted, netip.Addr.Compare)
	var id strings.Builder
	for _, a := range slices.Compact(sorted) {
		b := a.As16()
		id.Write(b[:])
	}
	return &answer{addrs: addrs, id: id.String()}
}

// names asks a Resolver, once for all who ask for a name at the same time, and remembers what it says for a moment.
// What was remembered is judged again by who asks.
type names struct {
	resolver Resolver
	asking   singleflight.Group

	mu    sync.Mutex
	known map[string]*answer
}

func newNames(r Resolver) *names { return &names{resolver: r, known: make(map[string]*answer)} }

var localhost = newAnswer([]netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})})

func (n *names) lookup(ctx context.Context, name string, deadline time.Time) (*answer, error) {
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return localhost, nil // RFC 6761, section 6.3
	}
	now := time.Now()
	n.mu.Lock()
	known := n.known[name]
	n.mu.Unlock()
	if known != nil && now.Before(known.until) {
		return known, nil
	}
	asked := n.asking.DoChan(name, func() (any, error) {
		patient, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookupTimeout) // others may wait for it, too
		defer cancel()
		addrs, err := n.resolver.Lookup(patient, name)
		if err != nil {
			return nil, err
		}
		if len(addrs) == 0 {
			return nil, errors.New("look up: no address")
		}
		found := newAnswer(addrs)
		found.until = time.Now().Add(rememberFor)
		n.remember(name, found)
		return found, nil
	})
	bound, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	select {
	case result := <-asked:
		if result.Err != nil {
			return nil, result.Err
		}
		return result.Val.(*answer), nil
	case <-bound.Done():
		return nil, bound.Err()
	}
}

func (n *names) remember(name string, found *answer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.known) >= rememberMax {
		now := time.Now()
		for name, a := range n.known {
			if !now.Before(a.until) {
				delete(n.known, name)
			}
		}
		if len(n.known) >= rememberMax {
			clear(n.known)
		}
	}
	n.known[name] = found
}
