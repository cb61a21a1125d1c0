// Package packsockets keeps a Unix socket open for each pack that should have one, as approval's gates say. It stands between libs/gate, which
// says which packs those are, and libs/uds, which makes and serves the sockets. egress-proxy and capability-broker each have one Sockets.
package packsockets

import (
	"context"
	"sync"

	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/uds"
)

// Sockets are the sockets of all packs.
//
// Two goroutines share the work. GateChanged runs in that of the gates' stream and only notes what is wanted; Run makes and removes
// sockets. A file system that hangs therefore holds up sockets, but never the news that a gate has closed. What is noted is one
// wish for each pack, the latest: however long Run is held up, the notes are no more than the packs.
type Sockets struct {
	set     *uds.Set
	removed func(packID string)

	// work is held from the moment a note is taken until it is done. Without it Remove could come in between, and the
	// socket of a pack that is uninstalled would be made after it was removed. It is locked before mu.
	work sync.Mutex

	mu      sync.Mutex
	pending map[string]bool // by pack: whether it should have a socket
	due     chan struct{}   // has an element while something may be pending
}

// New makes Sockets with no socket yet. removed, which may be nil, is called after a pack's socket was removed, in the goroutine of Run or of
// Remove.
func New(cfg uds.SetConfig, removed func(packID string)) *Sockets {
	if removed == nil {
		removed = func(string) {}
	}
	return &Sockets{set: uds.NewSet(cfg), removed: removed, pending: make(map[string]bool), due: make(chan struct{}, 1)}
}

// GateChanged notes whether a pack should have a socket (see pack.Status.HasSocket). It is a listener of gate.View and returns at once, without
// any work on files.
func (s *Sockets) GateChanged(c gate.Change) {
	s.mu.Lock()
	s.pending[c.PackID] = !c.Removed && c.State.Status.HasSocket()
	s.mu.Unlock()
	select {
	case s.due <- struct{}{}:
	default:
	}
}

// Run makes and removes sockets until ctx ends. Then it closes them all, and returns once the answers that were under way are out
// (uds.Limits.Drain bounds that).
func (s *Sockets) Run(ctx context.Context) error {
	defer s.set.Close()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.due:
		}
		for ctx.Err() == nil && s.reconcileOne() {
		}
	}
}

// reconcileOne does what is noted of one pack. It reports false if nothing is.
func (s *Sockets) reconcileOne() bool {
	s.work.Lock()
	defer s.work.Unlock()
	packID, wanted, found := s.next()
	switch {
	case !found:
		return false
	case wanted:
		s.set.Ensure(packID)
	default:
		s.set.Remove(packID)
		s.removed(packID)
	}
	return true
}

// next takes one of the notes.
func (s *Sockets) next() (packID string, wanted, found bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for packID, wanted = range s.pending {
		delete(s.pending, packID)
		return packID, wanted, true
	}
	return "", false, false
}

// Remove removes the socket of a pack that is being uninstalled, before it returns. Only a later change of the pack's gate makes the socket
// again.
func (s *Sockets) Remove(packID string) {
	s.work.Lock()
	defer s.work.Unlock()
	s.mu.Lock()
	delete(s.pending, packID)
	s.mu.Unlock()
	s.set.Remove(packID)
	s.removed(packID)
}

// Ready is nil if every socket that Run was to make is served, by this process or by another replica.
func (s *Sockets) Ready() error { return s.set.Ready() }

// Serving reports whether this process answers the socket of a pack.
func (s *Sockets) Serving(packID string) bool { return s.set.Serving(packID) }
