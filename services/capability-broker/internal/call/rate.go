package call

import (
	"sync"
	"time"
)

// window counts what each principal did within the last minute, exactly: a token bucket would let nearly twice the
// limit through in the first minute.
type window struct {
	limit int // 0 is off
	mu    sync.Mutex
	past  map[string]*ring
}

// ring holds the times of the last limit events.
type ring struct {
	at   []time.Time
	next int // where the oldest is, once the ring is full
}

func newWindow(limit int) *window { return &window{limit: limit, past: make(map[string]*ring)} }

// take counts one event and says whether it is within the limit. One that isn't is not counted, so that a caller who
// goes on trying is let through again as soon as the window has room.
func (w *window) take(principal string, now time.Time) bool {
	if w.limit == 0 {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.past[principal]
	if r == nil {
		r = &ring{}
		w.past[principal] = r
	}
	if len(r.at) < w.limit {
		r.at = append(r.at, now)
		return true
	}
	if now.Sub(r.at[r.next]) < time.Minute {
		return false
	}
	r.at[r.next] = now
	r.next = (r.next + 1) % len(r.at)
	return true
}
