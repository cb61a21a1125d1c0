package staging

import "time"

// Elapse has the area have known of a staging for longer, as if so much time had gone by.
func (a *Area) Elapse(id string, d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.knownSince[id]
	s.first = s.first.Add(-d)
	a.knownSince[id] = s
}
