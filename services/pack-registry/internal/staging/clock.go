package staging

import (
	"maps"
	"time"
)

// ages knows for how long this process has known of stagings, by a clock that nobody sets. The times of records are those of the wall
// clock, which a machine without a battery, or with another time zone in its hardware clock, sets by hours or years.
type knownSince map[string]firstSeen

type firstSeen struct {
	first time.Time // with its monotonic reading
	made  bool      // this process made it then, so its age is known
}

// sight remembers a staging from now on, unless it is known; made says that it has just been made.
func (a *Area) observe(id string, made bool) firstSeen {
	a.mu.Lock()
	defer a.mu.Unlock()
	s, known := a.knownSince[id]
	if !known {
		s = firstSeen{time.Now(), made}
		a.knownSince[id] = s
	}
	return s
}

// over says whether a staging is older than limit: by the time since it was made where this process made it, so that a clock that is
// set ahead takes nothing fresh away. Any other is that old where the wall clock says so, or where it has been known for so long, so
// that a clock that is set back keeps none for ever.
func (a *Area) expired(id string, created time.Time, limit time.Duration) bool {
	s := a.observe(id, false)
	known := time.Since(s.first) > limit
	if s.made {
		return known
	}
	return known || time.Since(created) > limit
}

// unsight forgets the stagings that are not among ids.
func (a *Area) forgetExcept(ids map[string]bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	maps.DeleteFunc(a.knownSince, func(id string, s firstSeen) bool { return !ids[id] && time.Since(s.first) > orphanAge })
}
