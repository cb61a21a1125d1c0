package uds

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// readBuffer is how much is received at once, in bytes.
const readBuffer = 4 << 10

var readBuffers = sync.Pool{New: func() any { return new([readBuffer]byte) }}

// reader is a buffered reader of a connection that has a buffer only while something is in it. An idle connection costs its
// goroutine and little else: a pack may keep a thousand of them, and bufio.Readers would take 4 MiB for these.
type reader struct {
	raw     syscall.RawConn
	receive func(fd uintptr) bool // reader.tryReceive, made once
	buf     *[readBuffer]byte     // nil while nothing is buffered
	from    int                   // buf[from:to] is what was received and not read
	to      int
	direct  []byte // where the next receive puts things, nil for buf
	n       int    // what the last receive got
	err     error
}

func newReader(c *net.UnixConn) (*reader, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	r := &reader{raw: raw}
	r.receive = r.tryReceive
	return r, nil
}

// tryReceive receives once. If nothing has arrived it gives the buffer back and returns false, so that the runtime's poller waits.
func (r *reader) tryReceive(fd uintptr) bool {
	into := r.direct
	if into == nil {
		if r.buf == nil {
			r.buf = readBuffers.Get().(*[readBuffer]byte)
		}
		into = r.buf[r.to:]
	}
	for {
		n, err := unix.Read(int(fd), into)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			r.release()
			return false
		case err != nil:
			r.n, r.err = 0, os.NewSyscallError("read", err)
		case n == 0:
			r.n, r.err = 0, io.EOF
		default:
			r.n, r.err = n, nil
		}
		return true
	}
}

// release gives the buffer back if nothing is in it.
func (r *reader) release() {
	if r.buf != nil && r.from == r.to {
		readBuffers.Put(r.buf)
		r.buf, r.from, r.to = nil, 0, 0
	}
}

// fill receives once, into the buffer.
func (r *reader) fill() error {
	if r.from > 0 {
		r.to = copy(r.buf[:], r.buf[r.from:r.to])
		r.from = 0
	}
	if err := r.raw.Read(r.receive); err != nil {
		return err
	}
	r.to += r.n
	err := r.err
	r.release()
	return err
}

// Buffered is how many bytes can be read without waiting.
func (r *reader) Buffered() int { return r.to - r.from }

// Peek returns the next n bytes, at most readBuffer, without reading them. They are valid until the next call.
func (r *reader) Peek(n int) ([]byte, error) {
	for r.Buffered() < n {
		if err := r.fill(); err != nil {
			return nil, err
		}
	}
	if n == 0 {
		return nil, nil
	}
	return r.buf[r.from : r.from+n], nil
}

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if r.Buffered() == 0 {
		if len(p) >= readBuffer {
			r.direct = p
			err := r.raw.Read(r.receive)
			r.direct = nil
			if err == nil {
				err = r.err
			}
			if err != nil {
				return 0, err
			}
			return r.n, nil
		}
		if err := r.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.buf[r.from:r.to])
	r.from += n
	r.release()
	return n, nil
}
