// Package sockets keeps a socket open for each pack that is approved or modified, following what approval says.
package sockets

import (
	"io/fs"
	"log/slog"

	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/uds"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/egress"
)

// Config says where the sockets lie and who may connect.
type Config struct {
	Dir  string
	Home string // id of the Rumi home that Dir must belong to
	Mode fs.FileMode
	GID  int // negative for the process's own
}

// Sockets are the sockets of all packs.
type Sockets struct {
	set   *uds.Set
	proxy *egress.Proxy
}

// New makes sockets that the proxy answers on. There is none until Change asks for it.
func New(cfg Config, proxy *egress.Proxy, log *slog.Logger) *Sockets {
	return &Sockets{proxy: proxy, set: uds.NewSet(uds.SetConfig{
		Dir: cfg.Dir, Home: cfg.Home, Mode: cfg.Mode, GID: cfg.GID, Handler: proxy.Handler, Limits: uds.Limits{Request: egress.MaxRequest}, Log: log,
	})}
}

// Change follows a change of a pack's gate; it is a listener of gate.View. A modified pack keeps its socket and is told
// there why it is refused.
func (s *Sockets) Change(c gate.Change) {
	if c.Removed || !c.State.Status.HasSocket() {
		s.Remove(c.PackID)
		return
	}
	if !c.State.Open {
		s.proxy.Cut(c.PackID)
	}
	s.set.Ensure(c.PackID)
}

// Remove takes a pack's socket away and ends its requests.
func (s *Sockets) Remove(packID string) {
	s.set.Remove(packID)
	s.proxy.Forget(packID)
}

// Ready is nil where every socket that is to be there is served.
func (s *Sockets) Ready() error { return s.set.Ready() }

// Close closes all sockets and lets answers that are under way out.
func (s *Sockets) Close() { s.set.Close() }
