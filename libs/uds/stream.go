package uds

import (
	"context"
	"net"
)

// Streamer is a Handler that speaks a second protocol on the same socket, such as HTTP. The first byte of a connection says which
// protocol it speaks.
type Streamer interface {
	Handler

	// Stream serves a connection whose first byte is an ASCII letter; no frame below 1 GiB begins with one. When it returns the
	// connection is closed. ctx ends as that of Handler.Answer does.
	Stream(ctx context.Context, s *Stream)
}

// Stream is a connection in the hands of a Streamer. It is busy until WaitIdle is called.
type Stream struct {
	*net.UnixConn
	in   *reader
	conn *conn
}

// Read reads what was received.
func (s *Stream) Read(p []byte) (int, error) { return s.in.Read(p) }

// Sends returns a context that ends when the client sends nothing more, even while some of what it sent is unread. The cause is
// ErrClientClosed, or ErrHalfClosed if it has closed its own direction only.
func (s *Stream) Sends() context.Context { return s.conn.sends }

// WaitIdle waits for the client's next byte, which stays unread. Meanwhile the connection is idle: it may be closed to admit
// another one, or because the server stops. False means that the connection has ended.
func (s *Stream) WaitIdle() bool {
	c := s.conn
	c.lastUsed.Store(c.server.sequence.Add(1))
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

// Detach returns the connection itself, and the bytes that were received and not read. The Stream must not be read any more.
func (s *Stream) Detach() (*net.UnixConn, []byte) {
	rest, _ := s.in.Peek(s.in.Buffered())
	return s.UnixConn, rest
}

// stream hands the connection to a Streamer if its first byte, which is buffered, is a letter. It says whether it did.
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
