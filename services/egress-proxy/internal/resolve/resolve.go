// Package resolve looks names up for packs, through a cache that all packs share.
//
// Packs may be hostile to each other. One must not fill the cache or use all look-ups that can be under way: each pack has a share of both. The
// cache has the answers of DNS, not whether packs may be connected to them: that is decided anew for each request.
package resolve

import (
	"container/list"
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/dns"
)

// Resolver finds a name's addresses, of both families. The name is in hostname's one form. The error is a *dns.NotFoundError for a name that
// has no addresses.
type Resolver interface {
	Lookup(ctx context.Context, name string) (dns.Answer, error)
}

const (
	lookupTimeout  = 10 * time.Second
	lookupsPerPack = 16 // under way at the same time

	// How long an answer is cached, whatever its records say: no name costs more than a query a second, and no cached answer outlives a change
	// by more than five minutes. Failures are cached, too (RFC 9520).
	minTTL      = time.Second
	maxTTL      = 5 * time.Minute
	maxNegative = 30 * time.Second // that there is no such name

	maxNames     = 8192 // cached, of all packs
	namesPerPack = 512
)

// Answer is the result of looking up a name. It is never changed.
type Answer struct {
	Addrs []netip.Addr
	ID    string // the same for the same set of addresses, in whatever order they came
}

// result is an Answer, or why there is none, until it expires.
type result struct {
	Answer
	err     error
	expires time.Time
}

// Cache asks a Resolver, once for all callers that need a name at the same time, and caches the answer. Use New.
//
// Each cached name counts for the pack that asked for it first. A pack that asks for very many names therefore evicts its own only.
type Cache struct {
	resolver Resolver

	mu      sync.Mutex
	entries map[string]*list.Element // of *entry, by name
	flights map[string]*flight       // by name
	shares  map[string]*share        // by pack
}

// share is one pack's part of the cache and of the look-ups under way.
type share struct {
	pack   string
	recent list.List     // of *entry, the one used last in front
	slots  chan struct{} // holds one element for each look-up under way
}

type entry struct {
	name  string
	share *share
	result
}

// flight is a look-up under way.
type flight struct {
	done   chan struct{}
	result *result // once done is closed
}

// New returns an empty cache in front of r.
func New(r Resolver) *Cache {
	return &Cache{resolver: r, entries: map[string]*list.Element{}, flights: map[string]*flight{}, shares: map[string]*share{}}
}

var localhost = Answer{Addrs: []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}, ID: "localhost"}

// Lookup finds a name's addresses for a pack. It waits until the deadline at most, or until ctx ends, for a slot of the pack's and for the
// answer. The error is the Resolver's or ctx's.
func (c *Cache) Lookup(ctx context.Context, pack, name string, deadline time.Time) (Answer, error) {
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return localhost, nil // RFC 6761, section 6.3: never asked of DNS
	}
	c.mu.Lock()
	if r := c.cached(name, time.Now()); r != nil {
		c.mu.Unlock()
		return r.Answer, r.err
	}
	f, s := c.flights[name], c.shareOf(pack)
	if f == nil {
		select {
		case s.slots <- struct{}{}:
			f = c.start(s, name)
		default:
		}
	}
	c.mu.Unlock()

	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	if f == nil {
		r, started, err := c.waitAndStart(ctx, s, name)
		switch {
		case err != nil:
			return Answer{}, err
		case r != nil:
			return r.Answer, r.err
		}
		f = started
	}
	select {
	case <-f.done:
		return f.result.Answer, f.result.err
	case <-ctx.Done():
		return Answer{}, ctx.Err()
	}
}

// waitAndStart waits for one of s's slots, and looks the name up, unless another caller has begun to meanwhile.
func (c *Cache) waitAndStart(ctx context.Context, s *share, name string) (*result, *flight, error) {
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r, f := c.cached(name, time.Now()), c.flights[name]
	if r != nil || f != nil {
		<-s.slots
		return r, f, nil
	}
	return nil, c.start(s, name), nil
}

// cached returns what is cached of a name; nil for nothing that still holds. The mutex must be held.
func (c *Cache) cached(name string, now time.Time) *result {
	e := c.entries[name]
	if e == nil {
		return nil
	}
	r := e.Value.(*entry)
	if !now.Before(r.expires) {
		c.remove(e)
		return nil
	}
	r.share.recent.MoveToFront(e)
	return &r.result
}

func (c *Cache) shareOf(pack string) *share {
	s := c.shares[pack]
	if s == nil {
		s = &share{pack: pack, slots: make(chan struct{}, lookupsPerPack)}
		c.shares[pack] = s
	}
	return s
}

// start looks a name up with one of s's slots, which the caller has taken. The look-up isn't bound to the caller's context: it goes on when the
// caller has left, since others may wait for it, too. The mutex must be held.
func (c *Cache) start(s *share, name string) *flight {
	f := &flight{done: make(chan struct{})}
	c.flights[name] = f
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
		defer cancel()
		found, err := c.resolver.Lookup(ctx, name)
		if err == nil && len(found.Addrs) == 0 {
			err = errors.New("look up: no address")
		}
		f.result = newResult(found, err)
		c.mu.Lock()
		delete(c.flights, name)
		c.add(&entry{name, s, *f.result})
		c.mu.Unlock()
		close(f.done)
		if found.Late != nil {
			c.complete(name, s, found.Late)
		}
		<-s.slots
	}()
	return f
}

func newResult(found dns.Answer, err error) *result {
	return &result{Answer: Answer{found.Addrs, setID(found.Addrs)}, err: err, expires: time.Now().Add(ttl(found, err))}
}

// complete replaces an answer of one address family by that of both, once the late one has come. From then on both are decided on: an internal
// address in the late family closes the name.
func (c *Cache) complete(name string, s *share, late <-chan dns.Answer) {
	whole, ok := <-late
	if !ok {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.add(&entry{name, s, *newResult(whole, nil)})
}

// ttl is how long an answer is cached.
func ttl(found dns.Answer, err error) time.Duration {
	var nothing *dns.NotFoundError
	switch {
	case errors.As(err, &nothing):
		return min(max(nothing.TTL, minTTL), maxNegative)
	case err != nil:
		return minTTL
	}
	return min(max(found.TTL, minTTL), maxTTL)
}

// add caches an entry, and evicts one where there are too many: the least recently used of the same pack where that pack has its share, else of
// the pack that has the most. The mutex must be held.
func (c *Cache) add(r *entry) {
	if c.shares[r.share.pack] != r.share {
		return // the pack was forgotten during the look-up
	}
	if e := c.entries[r.name]; e != nil {
		c.remove(e)
	}
	if r.share.recent.Len() >= namesPerPack {
		c.remove(r.share.recent.Back())
	} else if len(c.entries) >= maxNames {
		var most *share
		for _, s := range c.shares {
			if most == nil || s.recent.Len() > most.recent.Len() {
				most = s
			}
		}
		c.remove(most.recent.Back())
	}
	c.entries[r.name] = r.share.recent.PushFront(r)
}

// Len is how many names are cached, and max how many may be.
func (c *Cache) Len() (cached, max int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.entries), maxNames
}

func (c *Cache) remove(e *list.Element) {
	r := e.Value.(*entry)
	r.share.recent.Remove(e)
	delete(c.entries, r.name)
}

// Forget removes everything that a pack asked for: it was uninstalled.
func (c *Cache) Forget(pack string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.shares[pack]
	if s == nil {
		return
	}
	for s.recent.Len() > 0 {
		c.remove(s.recent.Back())
	}
	delete(c.shares, pack)
}

// setID is a text that is the same for the same set of addresses.
func setID(addrs []netip.Addr) string {
	sorted := slices.SortedFunc(slices.Values(addrs), netip.Addr.Compare)
	var id strings.Builder
	for _, a := range slices.Compact(sorted) {
		b := a.As16()
		id.Write(b[:])
	}
	return id.String()
}
