package call

import (
	"context"
	"sync"

	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/uds"
)

// Sockets has a socket open for each pack that should have one.
type Sockets struct {
	set *uds.Set

	mu      sync.Mutex
	pending map[string]bool // by pack: is it to have a socket
	due     chan struct{}
}

// NewSockets makes the sockets' owner; they follow what GateChanged is told once Run runs.
func NewSockets(cfg uds.SetConfig) *Sockets {
	return &Sockets{set: uds.NewSet(cfg), pending: make(map[string]bool), due: make(chan struct{}, 1)}
}

// GateChanged takes note of a pack's new state. It returns at once, as gate.View wants it.
func (s *Sockets) GateChanged(c gate.Change) {
	s.want(c.PackID, !c.Removed && c.State.Status.HasSocket())
}

func (s *Sockets) want(packID string, wanted bool) {
	s.mu.Lock()
	s.pending[packID] = wanted
	s.mu.Unlock()
	select {
	case s.due <- struct{}{}:
	default:
	}
}

// Remove takes the socket of a pack that is uninstalled away.
func (s *Sockets) Remove(packID string) {
	s.mu.Lock()
	delete(s.pending, packID)
	s.mu.Unlock()
	s.set.Remove(packID)
}

// Ready is nil where every socket that is to be there is served.
func (s *Sockets) Ready() error { return s.set.Ready() }

// Serving says whether it is this process that answers the socket of a pack.
func (s *Sockets) Serving(packID string) bool { return s.set.Serving(packID) }

// Run makes and removes sockets until ctx ends, then closes them all.
func (s *Sockets) Run(ctx context.Context) error {
	defer s.set.Close()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.due:
		}
		s.mu.Lock()
		batch := s.pending
		s.pending = make(map[string]bool)
		s.mu.Unlock()
		for packID, wanted := range batch {
			if wanted {
				s.set.Ensure(packID)
			} else {
				s.set.Remove(packID)
			}
		}
	}
}
