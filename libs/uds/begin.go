package uds

import (
	"context"
	"encoding/binary"
)

// maxBegun is how many requests of a connection are begun before the first of them is answered.
const maxBegun = 64

// Beginner is a Handler whose answers may have to wait for something that is no matter of the request any more, such as
// a disk. While one waits, the requests that the client has sent already are begun, too. A client that sends requests
// without waiting for answers has them decided in order, and gets the answers in this order, in one write.
type Beginner interface {
	Handler

	// Begin decides a request as far as that takes no time. It may use the slice request until it returns. The server calls
	// Finish of each Pending that it returns exactly once, unless a handler panics.
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

// begin begins the first request and those behind it that have arrived whole, and answers them in order. It says whether the
// connection goes on.
func (c *conn) begin(h Beginner, in *reader, b *buffers) bool {
	pending := append(b.pending[:0], h.Begin(c.ctx, b.request))
	for pending[len(pending)-1].Decided() && len(pending) < maxBegun && c.nextIsValid(in) {
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
		if !p.Decided() && len(out) > 0 { // its Finish may take long; the answers before it needn't wait for that
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

// nextIsValid says whether a whole frame of an allowed length has arrived. One of another length is left for exchange, which
// refuses it after those before it are answered.
func (c *conn) nextIsValid(in *reader) bool {
	if !buffered(in) {
		return false
	}
	header, _ := in.Peek(headerSize)
	length := binary.BigEndian.Uint32(header)
	return length > 0 && uint64(length) <= uint64(c.server.limits.Request)
}
