package uds

import (
	"context"
	"net"
)

// Streamer is a Handler that speaks a second protocol on the same socket, told from frames by a connection's first byte.
type Streamer interface {
	Handler

	// Stream serves a connection that begins with an ASCII letter, which no frame below 1 GiB does, and returns when
	// it is done with it; the connection is closed then. ctx ends as that of Handler.Answer does.
	Stream(ctx context.Context, s *Stream)
}

// Stream is a connection in the hands of a Streamer. It is busy until Rest is called.
type Stream struct {
	*net.UnixConn
	in   *reader
	conn *conn
}

// Read reads what was received.
func (s *Stream) Read(p []byte) (int, error) { return s.in.Read(p) }

// Sends gives a context that ends when the client says nothing more, whatever of it is still unread: it has closed the
// connection or its own direction of it (ErrHalfClosed).
func (s *Stream) Sends() context.Context { return s.conn.sends }

// Rest waits for the client's next byte, which stays unread, as an idle connection: one that may be closed to make room
// for another or because the server stops. False means that the connection is at its end.
func (s *Stream) Rest() bool {
	c := s.conn
	c.used.Store(c.server.turn.Add(1))
	if !c.state.CompareAndSwap(busy, idle) {
		return false
	}
	if c.server.waiting.Load() {
		c.server.signal()
	}
	if c.server.stopping.Load() {
		return false
	}
	if _, err := s.in.Peek(1); err != nil {
		return false
	}
	return c.state.CompareAndSwap(idle, busy)
}

// Detach gives the connection itself and what was received of it and not read. The stream must not be read any more.
func (s *Stream) Detach() (*net.UnixConn, []byte) {
	rest, _ := s.in.Peek(s.in.Buffered())
	return s.UnixConn, rest
}

// stream hands the connection over if its first byte, which is there, says so.
func (c *conn) stream(in *reader) bool {
	streamer, ok := c.server.handler.(Streamer)
	if !ok {
		return false
	}
	first, err := in.Peek(1)
	if err != nil || first[0]|0x20 < 'a' || first[0]|0x20 > 'z' {
		return false
	}
	if c.state.CompareAndSwap(idle, busy) {
		c.watch()
		streamer.Stream(c.ctx, &Stream{UnixConn: c.UnixConn, in: in, conn: c})
	}
	return true
}
