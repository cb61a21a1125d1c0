// Package tlsbatch has crypto/tls read and write several records at a time, on connections over which much is sent.
package tlsbatch

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
)

// crypto/tls reads and writes one record at a time, and has a system call, packets and their acknowledgement for each. Where much
// is on its way, as in an upload, eight at a time save a fifth of the processor time.
const (
	record   = 16 << 10
	bulkSize = 8 * record
	overhead = 22 // of a record: its header, type and tag (RFC 8446, section 5.2)
	header   = 5  // of these, the last two the length of what follows
)

// bulkBuffer holds so many records.
type bulkBuffer [bulkSize + bulkSize/record*overhead]byte

// bulkBuffers are lent to connections while much is on its way, so that the many that are idle have none.
var bulkBuffers = sync.Pool{New: func() any { return new(bulkBuffer) }}

// bulkConn is what lies below TLS. It reads ahead as long as reads come back full, and holds records back while hold says so.
type bulkConn struct {
	net.Conn

	// Of the one goroutine that reads (crypto/tls sees to that).
	ahead    *bulkBuffer // nil as long as little comes
	from, to int         // what of it is read and not taken
	records  framing     // of what was taken
	dry      bool        // nothing is to be had from below

	mu   sync.Mutex
	held []byte // records that wait; nil where they needn't
}

// Read implements net.Conn.
func (c *bulkConn) Read(p []byte) (int, error) {
	n, err := c.take(p)
	c.records.follow(p[:n])
	return n, err
}

func (c *bulkConn) take(p []byte) (int, error) {
	if c.from == c.to {
		if c.dry {
			return 0, os.ErrDeadlineExceeded // crypto/tls goes on after it
		}
		if c.ahead == nil {
			n, err := c.Conn.Read(p)
			if n == len(p) && n >= record {
				c.ahead = bulkBuffers.Get().(*bulkBuffer)
			}
			return n, err
		}
		n, err := c.Conn.Read(c.ahead[:])
		if err != nil || n == 0 {
			return n, err
		}
		c.from, c.to = 0, n
	}
	n := copy(p, c.ahead[c.from:c.to])
	if c.from += n; c.from == c.to && c.to < record {
		bulkBuffers.Put(c.ahead)
		c.ahead, c.from, c.to = nil, 0, 0
	}
	return n, nil
}

// framing knows where in a record a stream of them is.
type framing struct {
	begun [header]byte // of the record's header
	have  int          // of these bytes
	rest  int          // bytes that are still to come of the record
}

func (f *framing) follow(p []byte) {
	for len(p) > 0 {
		if f.rest > 0 {
			n := min(f.rest, len(p))
			f.rest, p = f.rest-n, p[n:]
			continue
		}
		n := copy(f.begun[f.have:], p)
		f.have, p = f.have+n, p[n:]
		if f.have == header {
			f.have, f.rest = 0, int(f.begun[header-2])<<8|int(f.begun[header-1])
		}
	}
}

// between says whether the stream is at the end of a record.
func (f *framing) between() bool { return f.have == 0 && f.rest == 0 }

// Write implements net.Conn.
func (c *bulkConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == nil {
		return c.Conn.Write(p)
	}
	if len(c.held)+len(p) > cap(c.held) {
		if err := c.flush(); err != nil {
			return 0, err
		}
	}
	c.held = append(c.held, p...)
	return len(p), nil
}

func (c *bulkConn) flush() error {
	if len(c.held) == 0 {
		return nil
	}
	_, err := c.Conn.Write(c.held)
	c.held = c.held[:0]
	return err
}

// hold has records wait for each other in buffer, until release.
func (c *bulkConn) hold(buffer []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = buffer[:0]
}

// release sends what waits.
func (c *bulkConn) release() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.flush()
	c.held = nil
	return err
}

// Conn is the client's end of a connection.
type Conn struct {
	*tls.Conn
	below *bulkConn
}

// Drained says whether all that was received has been read: crypto/tls keeps records that came along with the one that was asked for.
// It is for who would read otherwise.
func (c *Conn) Drained() bool {
	c.below.dry = true
	defer func() { c.below.dry = false }()
	var one [1]byte
	_, err := c.Conn.Read(one[:])
	return errors.Is(err, os.ErrDeadlineExceeded) && c.below.records.between()
}

// ReadFrom implements io.ReaderFrom, by which http.Transport sends a body.
func (c *Conn) ReadFrom(r io.Reader) (sent int64, err error) {
	buffer, records := bulkBuffers.Get().(*bulkBuffer), bulkBuffers.Get().(*bulkBuffer)
	defer bulkBuffers.Put(buffer)
	defer bulkBuffers.Put(records)
	for {
		n, failed := r.Read(buffer[:bulkSize])
		if n > 0 {
			c.below.hold(records[:])
			n, err := c.Conn.Write(buffer[:n])
			sent += int64(n)
			if held := c.below.release(); err == nil {
				err = held
			}
			if err != nil {
				return sent, err
			}
		}
		if failed == io.EOF {
			return sent, nil
		}
		if failed != nil {
			return sent, failed
		}
	}
}

// Client makes raw, which is open, a connection to the service that cfg names. It returns after the handshake, which ctx bounds; if
// that fails, raw is closed.
func Client(ctx context.Context, raw net.Conn, cfg *tls.Config) (*Conn, error) {
	below := &bulkConn{Conn: raw}
	conn := tls.Client(below, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, fmt.Errorf("connect: %w", err)
	}
	return &Conn{Conn: conn, below: below}, nil
}

// Listener accepts the connections of l for crypto/tls to stand on.
func Listener(l net.Listener) net.Listener { return bulkListener{l} }

type bulkListener struct{ net.Listener }

func (l bulkListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &bulkConn{Conn: conn}, nil
}
