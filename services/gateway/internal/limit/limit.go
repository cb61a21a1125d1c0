// Package limit counts events by address in a sliding window.
package limit

import (
	"net/netip"
	"sync"
	"time"
)

// maxAddresses bounds how many addresses are counted apart; those beyond share one count.
const maxAddresses = 16384

// Window admits a number of events of one address in any span of a length. It keeps the time of each event admitted
// in the last span, so it is exact. An IPv6 address counts as its /64, the least that one customer has. The nil Window
// admits everything.
type Window struct {
	events int
	span   time.Duration
	start  time.Time

	mu        sync.Mutex
	addresses map[netip.Addr]*times
	swept     time.Duration
}

// New makes a Window of so many events a span; nil where events is 0.
func New(events int, span time.Duration) *Window {
	if events <= 0 {
		return nil
	}
	return &Window{events: events, span: span, start: time.Now(), addresses: map[netip.Addr]*times{}}
}

// Allow counts an event of the address and says whether it is within the limit; if not, it isn't counted, and wait is
// how long it takes until one will be.
func (w *Window) Allow(address netip.Addr) (ok bool, wait time.Duration) {
	if w == nil {
		return true, 0
	}
	address = group(address)
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Since(w.start)
	if now-w.swept >= w.span {
		w.sweep(now)
	}
	seen := w.addresses[address]
	if seen == nil {
		if len(w.addresses) >= maxAddresses {
			address = netip.Addr{}
			seen = w.addresses[address]
		}
		if seen == nil {
			seen = &times{}
			w.addresses[address] = seen
		}
	}
	seen.dropUntil(now - w.span)
	if seen.count >= w.events {
		return false, seen.oldest() + w.span - now
	}
	seen.add(now, w.events)
	return true, 0
}

// sweep forgets addresses without an event in the last span.
func (w *Window) sweep(now time.Duration) {
	w.swept = now
	for address, seen := range w.addresses {
		if seen.dropUntil(now - w.span); seen.count == 0 {
			delete(w.addresses, address)
		}
	}
}

func group(a netip.Addr) netip.Addr {
	a = a.Unmap()
	if a.Is4() || !a.IsValid() {
		return a
	}
	prefix, err := a.WithZone("").Prefix(64)
	if err != nil {
		return a
	}
	return prefix.Addr()
}

// times is a ring of times since the start, the oldest first. It grows as it is needed.
type times struct {
	ring  []time.Duration
	head  int
	count int
}

func (t *times) oldest() time.Duration { return t.ring[t.head] }

func (t *times) dropUntil(then time.Duration) {
	for t.count > 0 && t.ring[t.head] <= then {
		t.head = (t.head + 1) % len(t.ring)
		t.count--
	}
}

func (t *times) add(now time.Duration, most int) {
	if t.count == len(t.ring) {
		grown := make([]time.Duration, min(max(8, 2*len(t.ring)), most))
		n := copy(grown, t.ring[t.head:])
		copy(grown[n:], t.ring[:t.head])
		t.ring, t.head = grown, 0
	}
	t.ring[(t.head+t.count)%len(t.ring)] = now
	t.count++
}
