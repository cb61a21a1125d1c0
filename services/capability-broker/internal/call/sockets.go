package call

import (
	"context"
	"sync"

	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/uds"
)

// Sockets opens and closes the capability sockets as gates change. It is safe for concurrent use.
type Sockets struct {
	set *uds.Set

	mu      sync.Mutex
	pending map[string]bool // by pack: whether it should have a socket; what Run has still to do
	due     chan struct{}
}

// NewSockets makes Sockets without any; Run opens them.
func NewSockets(cfg uds.SetConfig) *Sockets {
	return &Sockets{set: uds.NewSet(cfg), pending: make(map[string]bool), due: make(chan struct{}, 1)}
}

// GateChanged is called by gate.View with each change. It returns at once: it runs in the goroutine that reads the stream of gates, and files
// may be slow. Run does the work.
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

// Remove closes the socket of a pack that is uninstalled. When it returns, the pack can make no call.
func (s *Sockets) Remove(packID string) {
	s.mu.Lock()
	delete(s.pending, packID)
	s.mu.Unlock()
	s.set.Remove(packID)
}

// Ready is nil if every socket that should be there is served.
func (s *Sockets) Ready() error { return s.set.Ready() }

// Serving says whether this process answers the socket of a pack. Of several replicas on a host one does.
func (s *Sockets) Serving(packID string) bool { return s.set.Serving(packID) }

// Run opens and closes sockets as gates change, until ctx ends; then it closes them all.
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
