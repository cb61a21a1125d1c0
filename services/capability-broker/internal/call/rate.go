package call

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// window counts what was done within the last minute, exactly: a token bucket would let nearly twice the limit through
// in the first minute.
type window struct {
	began time.Time // all other times are counted from here, by the monotonic clock: setting the clock lets nobody through and keeps nobody out
	mu    sync.Mutex
	past  map[quotaKey]*ring
}

// quota is how many calls of a permission a minute count for a principal.
type quota struct {
	principal, permission string
	limit                 int // at least 1
}

type quotaKey struct{ principal, permission string }

// ring holds the times of the last events, since the window began, as many as the limit is.
type ring struct {
	limit int
	at    []time.Duration
	next  int // where the oldest is, once the ring is full
}

func newWindow() *window { return &window{began: time.Now(), past: make(map[quotaKey]*ring)} }

// take counts one event of every quota and says whether all are within their limits. One that isn't is not counted in
// any, so that a caller who goes on trying is let through again as soon as the window has room. Quotas of one principal
// and permission with another limit than last time start anew.
func (w *window) take(now time.Time, quotas ...quota) bool {
	at := now.Sub(w.began)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, q := range quotas {
		if !w.ring(q).room(at) {
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
	r := w.past[key]
	if r == nil || r.limit != q.limit {
		r = &ring{limit: q.limit}
		w.past[key] = r
	}
	return r
}

func (r *ring) room(at time.Duration) bool {
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

// usualBurst is how many calls of a principal may follow each other at once, a minute's at most.
const usualBurst = 100

// usual bounds the calls of a principal that no other rate bounds: each leaves an entry in the audit log, and what a pack may
// write there must have a bound.
type usual struct {
	limit rate.Limit // a second; 0 for no bound
	burst int

	mu   sync.Mutex
	past map[string]*rate.Limiter // by principal
}

func newUsual(perMinute int) *usual {
	return &usual{limit: rate.Limit(float64(perMinute) / 60), burst: min(usualBurst, perMinute), past: make(map[string]*rate.Limiter)}
}

// take counts a call and says whether it is within the bound.
func (u *usual) take(principal string, now time.Time) bool {
	if u.limit == 0 {
		return true
	}
	u.mu.Lock()
	l := u.past[principal]
	if l == nil {
		l = rate.NewLimiter(u.limit, u.burst)
		u.past[principal] = l
	}
	u.mu.Unlock()
	return l.AllowN(now, 1)
}
