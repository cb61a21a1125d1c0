package staging

import (
	"maps"
	"time"
)

// knownSince is when this process first saw each staging, by the monotonic clock, which nobody sets. The times in records are
// the wall clock's. A machine without a battery, or with another time zone in its hardware clock, sets that by hours or years
// when it starts.
type knownSince map[string]firstSeen

type firstSeen struct {
	first time.Time // with its monotonic reading
	made  bool      // this process made the staging at that moment, so its age is known
}

// observe notes a staging, unless it is known already; made says that it has just been made.
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

// expired says whether a staging is older than limit. A staging of this process is judged by the monotonic clock alone: a wall
// clock that jumps ahead must not remove what was imported a minute ago. A staging of another process has expired if the wall
// clock says so, or if this process has known it for longer than limit: a wall clock that jumps back must not keep it forever.
func (a *Area) expired(id string, created time.Time, limit time.Duration) bool {
	s := a.observe(id, false)
	known := time.Since(s.first) > limit
	if s.made {
		return known
	}
	return known || time.Since(created) > limit
}

// forgetExcept forgets the stagings that are not in ids.
func (a *Area) forgetExcept(ids map[string]bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	maps.DeleteFunc(a.knownSince, func(id string, s firstSeen) bool { return !ids[id] && time.Since(s.first) > orphanAge })
}
