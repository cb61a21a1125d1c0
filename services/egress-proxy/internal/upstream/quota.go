package upstream

import (
	"errors"
	"io"
	"math"
	"net"
	"sync/atomic"
	"time"
)

// How much a server may send over HTTP/2. See QuotaConn.
const (
	// Overhead is what a server may need for an exchange beside the body of its answer, in bytes: its head, its frames, and what it sends
	// before that is read.
	Overhead = 1 << 20
	// FrameRatio is how many bytes may come for each byte of a body: a server that streams text may send it letter by letter, each in a frame.
	FrameRatio = 32

	idleQuota = 512 << 10 // bytes a minute that a server may send unasked: settings, pings, what was under way
	maxUnused = 256 << 20 // bytes of quota that may be left; more is never added
)

var errFlood = errors.New("read: the server sends more than anybody asked for")

// QuotaConn is a connection from which, once it is limited, only so many bytes may be read as were allowed, and a few a minute besides.
//
// HTTP/2 lets a server send a client any number of bytes beside answers: settings, pings, empty frames, header blocks without end. Each costs
// us processor time and none is counted by flow control, so that a hostile server could keep us busy with one connection (the floods of
// CVE-2019-9511 and those after it). The bytes on the wire are what bounds them all.
type QuotaConn struct {
	net.Conn
	left  atomic.Int64
	since time.Time // when idleQuota was last given; belongs to the reader
}

// NewQuotaConn returns one that isn't limited yet.
func NewQuotaConn(conn net.Conn) *QuotaConn {
	c := &QuotaConn{Conn: conn}
	c.left.Store(math.MaxInt64)
	return c
}

// Limit lets the server send what it may while nothing is asked of it, and no more.
func (c *QuotaConn) Limit() { c.left.Store(idleQuota) }

// Allow lets the server of a limited connection send n more bytes, up to maxUnused bytes ahead.
func (c *QuotaConn) Allow(n int) {
	for {
		left := c.left.Load()
		if left >= maxUnused || c.left.CompareAndSwap(left, min(left+int64(n), maxUnused)) {
			return
		}
	}
}

// Read implements net.Conn.
func (c *QuotaConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.left.Add(int64(-n)) >= 0 {
		return n, err
	}
	now := time.Now()
	if now.Sub(c.since) < time.Minute {
		return 0, errFlood
	}
	c.since = now
	c.Limit()
	return n, err
}

// quotaBody is an answer's body. With each read its server may send more, and has its time to do so anew.
type quotaBody struct {
	io.Reader
	wire *QuotaConn
	idle *idleTimer
}

func (b quotaBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	b.wire.Allow(FrameRatio * n)
	b.idle.reset()
	return n, err
}
