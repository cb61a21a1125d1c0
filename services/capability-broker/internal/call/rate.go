package call

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// window counts the events of the last minute exactly. A token bucket would let nearly twice the limit through in the first minute, and
// what an operator writes as "max. 10 a minute" must be that. It takes 8 bytes for each event of the limit (at most 60,000; grant.Terms).
type window struct {
	began  time.Time // all other times count from here, by the monotonic clock: setting the clock of the host changes no rate
	mu     sync.Mutex
	events map[quotaKey]*ring
}

// quota is how many calls of a permission a principal may make in a minute.
type quota struct {
	principal, permission string
	limit                 int // at least 1
}

type quotaKey struct{ principal, permission string }

// ring holds the times of the last events, at most as many as the limit: if the oldest of these is a minute old, one more is allowed.
type ring struct {
	limit int
	at    []time.Duration // since window.began
	next  int             // the index of the oldest, once the ring is full
}

func newWindow() *window { return &window{began: time.Now(), events: make(map[quotaKey]*ring)} }

// take counts one event in every quota and says whether all are within their limits. An event that isn't is counted in none, so that a
// caller that goes on trying is let through again as soon as a minute has passed. A quota whose limit has changed since its last event
// starts anew.
func (w *window) take(now time.Time, quotas ...quota) bool {
	at := now.Sub(w.began)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, q := range quotas {
		if !w.ring(q).allows(at) {
			return false
		}
	}
	for _, q := range quotas {
		w.ring(q).add(at)
	}
	return true
}

func (w *window) ring(q quota) *ring {
	key := quotaKey{q.principal, q.permission}
	r := w.events[key]
	if r == nil || r.limit != q.limit {
		r = &ring{limit: q.limit}
		w.events[key] = r
	}
	return r
}

func (r *ring) allows(at time.Duration) bool {
	return len(r.at) < r.limit || at-r.at[r.next] >= time.Minute
}

func (r *ring) add(at time.Duration) {
	if len(r.at) < r.limit {
		r.at = append(r.at, at)
		return
	}
	r.at[r.next] = at
	r.next = (r.next + 1) % len(r.at)
}

// maxBurst is how many calls of a principal may follow each other at once under the default rate; never more than a minute's.
const maxBurst = 100

// defaultRate bounds the calls of a principal for which neither a grant nor the permission sets a rate: each leaves an entry in the audit
// log, and what a pack may write there must have a bound. It is a token bucket: unlike the exact window it costs the same whatever the rate.
type defaultRate struct {
	limit rate.Limit // a second; 0 for no bound
	burst int

	mu      sync.Mutex
	buckets map[string]*rate.Limiter // by principal
}

func newDefaultRate(perMinute int) *defaultRate {
	return &defaultRate{limit: rate.Limit(float64(perMinute) / 60), burst: min(maxBurst, perMinute), buckets: make(map[string]*rate.Limiter)}
}

// take counts a call and says whether it is within the bound.
func (d *defaultRate) take(principal string, now time.Time) bool {
	if d.limit == 0 {
		return true
	}
	d.mu.Lock()
	l := d.buckets[principal]
	if l == nil {
		l = rate.NewLimiter(d.limit, d.burst)
		d.buckets[principal] = l
	}
	d.mu.Unlock()
	return l.AllowN(now, 1)
}
