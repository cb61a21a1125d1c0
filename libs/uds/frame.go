// Package uds is the wire between a pack and the services outside its container: Unix sockets, one directory to a
// pack, that carry frames of a 4-byte big-endian length and that many bytes (contract.md, "Sockets").
//
// A service knows a caller by nothing but the socket on which its request came (design.md, decision 4): a pack that reached
// another pack's socket would have that pack's rights. So the package makes sure that a socket lies in its own directory
// and follows no link there, has its mode from the first instant anybody can connect, is served by one replica at a
// time, and only in a folder that belongs to this Rumi home.
//
// The clients are hostile. Limits bound what one socket's clients can make the process spend: connections, memory of
// requests (requests.go) and of answers (Budget), time.
//
// Read first frame.go and reader.go (the protocol), then listen.go (how a socket is made), serve.go with requests.go, budget.go
// and watch.go (how it is served), and last set.go and owner.go (the sockets of all packs).
package uds

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
)

// headerSize is the length prefix, in bytes.
const headerSize = 4

// initialAlloc is how much is allocated for a frame before any of it has arrived, in bytes. The length prefix is the client's claim:
// four bytes must not make the process allocate a MiB.
const initialAlloc = 16 << 10

// ErrEmpty is a frame of length 0, which no message is.
var ErrEmpty = errors.New("read frame: it is empty")

// TooLargeError is a frame over the reader's bound. None of its payload has been read.
type TooLargeError struct {
	Length uint32 // what the prefix claims, in bytes
	Max    int    // the bound, in bytes
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("read frame: %d bytes are over the limit of %d", e.Length, e.Max)
}

// ReadFrame reads one frame of at most max bytes. The error is io.EOF where r ends before a frame begins,
// io.ErrUnexpectedEOF where it ends inside one, ErrEmpty, a *TooLargeError, or r's own. Memory grows with what
// has arrived, not with what the prefix claims.
func ReadFrame(r io.Reader, max int) ([]byte, error) {
	frame, err := AppendFrame(nil, r, max)
	if err != nil {
		return nil, err
	}
	return frame, nil
}

// AppendFrame is ReadFrame into dst's spare capacity. It returns the extended slice; on an error it has dst's contents.
func AppendFrame(dst []byte, r io.Reader, max int) ([]byte, error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return dst, err
	}
	claim := binary.BigEndian.Uint32(header[:])
	if claim == 0 {
		return dst, ErrEmpty
	}
	if uint64(claim) > uint64(max) {
		return dst, &TooLargeError{Length: claim, Max: max}
	}
	start, left := len(dst), int(claim)
	out := dst
	for step := initialAlloc; left > 0; step *= 2 {
		n := min(step, left)
		out = slices.Grow(out, n)[:len(out)+n]
		if _, err := io.ReadFull(r, out[len(out)-n:]); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return out[:start], err
		}
		left -= n
	}
	return out, nil
}

// WriteFrame writes payload, of 1 byte to 4 GiB, as one frame. It calls w.Write once: a writer that is stopped between two calls would leave
// half a frame.
func WriteFrame(w io.Writer, payload []byte) error {
	if len(payload) == 0 || uint64(len(payload)) > math.MaxUint32 {
		return fmt.Errorf("write frame: %d bytes can't be a frame", len(payload))
	}
	frame := make([]byte, headerSize, headerSize+len(payload))
	binary.BigEndian.PutUint32(frame, uint32(len(payload)))
	if _, err := w.Write(append(frame, payload...)); err != nil {
		return fmt.Errorf("write frame: %w", err)
	}
	return nil
}
