package uds

import (
	"context"
	"encoding/binary"
)

// maxBegun is how many requests of a connection are begun before the first of them is answered.
const maxBegun = 64

// Beginner is a Handler whose answers may have to wait for something that is no matter of the request any more, such as
// a disk. While one waits, what the client has sent already is begun: a client that sends without waiting for
// answers has them decided together, in order, and answered together.
type Beginner interface {
	Handler

	// Begin decides a request as far as that takes no time. The slice request is its until it returns. Finish is
	// called of what it returns, unless the process is in a panic.
	Begin(ctx context.Context, request []byte) Pending
}

// Pending is a request that was begun.
type Pending interface {
	// Decided says that nothing more is to be done for the request than to wait, so that requests that were sent after
	// it may be begun before its answer is there.
	Decided() bool

	// Finish appends the answer to dst, as Handler.Answer does.
	Finish(dst []byte) []byte
}

// begin begins the first request and those behind it that have arrived whole, and answers them in order. It says whether
// to go on.
func (c *conn) begin(h Beginner, in *reader, b *buffers) bool {
	pending := append(b.pending[:0], h.Begin(c.ctx, b.request))
	for pending[len(pending)-1].Decided() && len(pending) < maxBegun && c.sound(in) {
		request, err := AppendFrame(b.request[:0], in, c.server.limits.Request)
		if err != nil {
			return false
		}
		b.request = request
		pending = append(pending, h.Begin(c.ctx, request))
	}
	b.pending = pending
	out := b.response[:0]
	for i, p := range pending {
		if !p.Decided() && len(out) > 0 { // it may take long
			if !c.send(out) {
				return false
			}
			out = out[:0]
		}
		start := len(out)
		out = p.Finish(append(out, make([]byte, headerSize)...))
		pending[i], b.response = nil, out
		if len(out) == start+headerSize {
			c.send(out[:start])
			return false
		}
		binary.BigEndian.PutUint32(out[start:], uint32(len(out)-start-headerSize))
	}
	return c.send(out)
}

// sound says whether a whole frame has arrived that nothing is wrong with. What is wrong with one is told when those
// before it are answered.
func (c *conn) sound(in *reader) bool {
	if !buffered(in) {
		return false
	}
	header, _ := in.Peek(headerSize)
	length := binary.BigEndian.Uint32(header)
	return length > 0 && uint64(length) <= uint64(c.server.limits.Request)
}
