package egress

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

// Resolver finds a name's addresses, of both families. The name is in hostname's one form. The error is a
// *dns.NotFoundError for a name that has none.
type Resolver interface {
	Lookup(ctx context.Context, name string) (dns.Answer, error)
}

const (
	lookupTimeout  = 10 * time.Second
	lookupsPerPack = 16 // at the same time

	// How long an answer is remembered, whatever its records say: no name costs more than a query a second, and none
	// outlives a change by more than five minutes. Failures count as answers (RFC 9520).
	rememberMin     = time.Second
	rememberMax     = 5 * time.Minute
	rememberNothing = 30 * time.Second // at most, that there is no such name

	namesMax     = 8192 // remembered, of all packs
	namesPerPack = 512
)

// answer is what a name resolved to, or why it didn't. It is never changed.
type answer struct {
	addrs []netip.Addr
	id    string // of addrs as a set
	err   error
	until time.Time
}

// names asks a Resolver, once for all who ask for a name at the same time, and remembers what it says for as long as that
// holds. What was remembered is judged again by who asks. A pack that asks for very many names displaces its own only: each
// name counts for the pack that asked first.
type names struct {
	resolver Resolver

	mu      sync.Mutex
	known   map[string]*list.Element // of *remembered
	flights map[string]*flight
	shares  map[string]*share // by pack
}

// share is what one pack has remembered, and may ask for.
type share struct {
	pack   string
	recent list.List     // of *remembered, the one asked for last in front
	slots  chan struct{} // one for each lookup under way
}

type remembered struct {
	name  string
	share *share
	answer
}

// flight is a lookup under way.
type flight struct {
	done   chan struct{}
	answer *answer // when done
}

func newNames(r Resolver) *names {
	return &names{resolver: r, known: map[string]*list.Element{}, flights: map[string]*flight{}, shares: map[string]*share{}}
}

var localhost = &answer{addrs: []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}, id: "localhost"}

// lookup finds a name's addresses for a pack.
func (n *names) lookup(ctx context.Context, pack, name string, deadline time.Time) (*answer, error) {
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return localhost, nil // RFC 6761, section 6.3
	}
	n.mu.Lock()
	if known := n.recall(name, time.Now()); known != nil {
		n.mu.Unlock()
		return known, known.err
	}
	f, s := n.flights[name], n.shareOf(pack)
	if f == nil {
		select {
		case s.slots <- struct{}{}:
			f = n.start(s, name)
		default:
		}
	}
	n.mu.Unlock()

	bound, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	if f == nil {
		select {
		case s.slots <- struct{}{}:
		case <-bound.Done():
			return nil, bound.Err()
		}
		n.mu.Lock()
		known := n.recall(name, time.Now())
		if f = n.flights[name]; known != nil || f != nil {
			<-s.slots // somebody else has asked meanwhile
		} else {
			f = n.start(s, name)
		}
		n.mu.Unlock()
		if known != nil {
			return known, known.err
		}
	}
	select {
	case <-f.done:
		return f.answer, f.answer.err
	case <-bound.Done():
		return nil, bound.Err()
	}
}

// recall gives what is remembered of a name.
func (n *names) recall(name string, now time.Time) *answer {
	e := n.known[name]
	if e == nil {
		return nil
	}
	r := e.Value.(*remembered)
	if !now.Before(r.until) {
		n.drop(e)
		return nil
	}
	r.share.recent.MoveToFront(e)
	return &r.answer
}

func (n *names) shareOf(pack string) *share {
	s := n.shares[pack]
	if s == nil {
		s = &share{pack: pack, slots: make(chan struct{}, lookupsPerPack)}
		n.shares[pack] = s
	}
	return s
}

// start looks a name up with one of s's slots. It goes on when who asked has gone: others may wait for it, too.
func (n *names) start(s *share, name string) *flight {
	f := &flight{done: make(chan struct{})}
	n.flights[name] = f
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
		defer cancel()
		found, err := n.resolver.Lookup(ctx, name)
		if err == nil && len(found.Addrs) == 0 {
			err = errors.New("look up: no address")
		}
		f.answer = newAnswer(found, err)
		n.mu.Lock()
		delete(n.flights, name)
		n.keep(&remembered{name, s, *f.answer})
		n.mu.Unlock()
		close(f.done)
		if found.Late != nil {
			n.complete(name, s, found.Late)
		}
		<-s.slots
	}()
	return f
}

func newAnswer(found dns.Answer, err error) *answer {
	return &answer{addrs: found.Addrs, id: setID(found.Addrs), err: err, until: time.Now().Add(remember(found, err))}
}

// complete remembers the whole answer when one family was answered late: it is judged from then on, and may forbid the name.
func (n *names) complete(name string, s *share, late <-chan dns.Answer) {
	whole, ok := <-late
	if !ok {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.keep(&remembered{name, s, *newAnswer(whole, nil)})
}

// remember is how long an answer is kept.
func remember(found dns.Answer, err error) time.Duration {
	var nothing *dns.NotFoundError
	switch {
	case errors.As(err, &nothing):
		return min(max(nothing.TTL, rememberMin), rememberNothing)
	case err != nil:
		return rememberMin
	}
	return min(max(found.TTL, rememberMin), rememberMax)
}

// keep remembers, and forgets what there is no room for any more: first what the same pack asked for, and last what those
// did who asked for most.
func (n *names) keep(r *remembered) {
	if n.shares[r.share.pack] != r.share {
		return // the pack is gone
	}
	if e := n.known[r.name]; e != nil {
		n.drop(e)
	}
	if r.share.recent.Len() >= namesPerPack {
		n.drop(r.share.recent.Back())
	} else if len(n.known) >= namesMax {
		var most *share
		for _, s := range n.shares {
			if most == nil || s.recent.Len() > most.recent.Len() {
				most = s
			}
		}
		n.drop(most.recent.Back())
	}
	n.known[r.name] = r.share.recent.PushFront(r)
}

func (n *names) drop(e *list.Element) {
	r := e.Value.(*remembered)
	r.share.recent.Remove(e)
	delete(n.known, r.name)
}

// forget drops all that a pack asked for.
func (n *names) forget(pack string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.shares[pack]
	if s == nil {
		return
	}
	for s.recent.Len() > 0 {
		n.drop(s.recent.Back())
	}
	delete(n.shares, pack)
}

// setID names addresses as a set, in whatever order.
func setID(addrs []netip.Addr) string {
	sorted := slices.SortedFunc(slices.Values(addrs), netip.Addr.Compare)
	var id strings.Builder
	for _, a := range slices.Compact(sorted) {
		b := a.As16()
		id.Write(b[:])
	}
	return id.String()
}
