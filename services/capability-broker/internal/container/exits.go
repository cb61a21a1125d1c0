package container

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/sandbox"
)

// engineGrace is how long an engine that is about to go may take to stop containers; Docker's own default is 15 s.
const engineGrace = 20 * time.Second

// exitTracker finds out why containers ended: by themselves, with the engine, or for lack of memory. The engine's own answer
// isn't enough:
//
//   - An engine that restarts stops its containers, with exit codes like those of an operator's stop. Such packs are to run again
//     whatever their restart policy is, while a pack that ended by itself a moment before is not.
//   - The times that the engine writes beside an end are the host's clock, which may be set meanwhile. They decide nothing here.
//   - An engine may report that the kernel killed something for its memory after it has reported, and stored, an end
//     that doesn't mention it.
//
// So the order in which events reached this process decides. All times here are this process's own and monotonic.
type exitTracker struct {
	mu        sync.Mutex          // guards all of the following
	lifetimes map[string]lifetime // by container id: the containers that this process has seen alive
	oomSeen   map[string]bool     // by container id: the kernel has killed something in it for its memory
	outage    struct {
		from, to time.Time // the engine's last absence; to is zero until it is back
	}
}

// lifetime is what this process has seen of a container.
type lifetime struct {
	alive time.Time // last seen alive
	ended time.Time // the engine reported its end, or it was found ended; zero for neither
}

func newExitTracker() exitTracker {
	return exitTracker{lifetimes: make(map[string]lifetime), oomSeen: make(map[string]bool)}
}

// engineLost notes that the engine can't be reached any more. Ends of up to engineGrace before that count as the engine's doing: it stops
// containers before it closes its stream of events.
func (t *exitTracker) engineLost() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.outage.from, t.outage.to = time.Now().Add(-engineGrace), time.Time{}
}

// engineBack notes that the engine answers again.
func (t *exitTracker) engineBack() {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.outage.to.IsZero() {
		t.outage.to = now
	}
}

// markAlive notes that this process sees a container alive.
func (t *exitTracker) markAlive(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lifetimes[id] = lifetime{alive: time.Now()}
}

// markEnded notes that a container has ended, unless that is noted already or this process never saw it alive.
func (t *exitTracker) markEnded(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l, seen := t.lifetimes[id]; seen && l.ended.IsZero() {
		l.ended = time.Now()
		t.lifetimes[id] = l
	}
}

// markOOM notes that the kernel killed something in a container for its memory.
func (t *exitTracker) markOOM(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.oomSeen[id] = true
}

// forget drops what is noted of a container that was removed.
func (t *exitTracker) forget(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.oomSeen, id)
	delete(t.lifetimes, id)
}

// killedForMemory says whether the kernel ended a container for its memory, as far as the engine has reported. The exit code
// distinguishes it from a container that lost a child process only and ended later for another reason.
func (t *exitTracker) killedForMemory(id string, exit sandbox.Exit) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.oomSeen[id] && exit.Code == 128+int(unix.SIGKILL)
}

// endedInOutage says whether a container ended while the engine didn't run, or while it stopped containers in order to go:
// it was seen alive before the outage and not after, and its end was reported either not at all or within the outage.
func (t *exitTracker) endedInOutage(id string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	l, seen := t.lifetimes[id]
	switch {
	case !seen, t.outage.from.IsZero(), t.outage.to.IsZero():
		return false
	case !l.ended.IsZero():
		return l.ended.After(t.outage.from) && !l.ended.After(t.outage.to)
	}
	return l.alive.Before(t.outage.to)
}

// endedWithEngine says whether a container ended because its engine or host did. If no broker was watching, an end by a signal
// counts as that, since packs end by an exit.
func (t *exitTracker) endedWithEngine(c sandbox.Container) bool {
	if t.endedInOutage(c.ID) {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	_, seen := t.lifetimes[c.ID]
	return !seen && c.Exit.Code >= 128 && !c.Exit.OOMKilled
}
