package upstream

import (
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// stuck is a connection whose server reads nothing: TLS can't say goodbye.
type stuck struct {
	net.Conn
	until <-chan struct{}
}

func (s stuck) Close() error { <-s.until; return nil }

// Whoever sweeps and closes pools serves all packs: one pack's servers must not hold it up.
func TestClosingWaitsForNoServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		until := make(chan struct{})
		p := NewPool(t.Context(), &Config{})
		p.put(key{host: "swept"}, newConn(stuck{until: until}, nil))
		time.Sleep(idleFor)
		p.put(key{host: "closed"}, newConn(stuck{until: until}, nil))
		p.Sweep(time.Now())
		if p.idleCount != 1 {
			t.Errorf("%d connections are idle, want 1", p.idleCount)
		}
		p.Close()
		close(until)
	})
}
