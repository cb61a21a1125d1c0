package httpproxy

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/session"
)

const (
	// afterEnd is how long one direction may go on without a byte once the other has ended. Its receiver may have disconnected: that shows only when
	// something is sent to it, and the sender may never send again.
	afterEnd = 30 * time.Second
	// afterEndPoll is how often the bytes are compared.
	afterEndPoll = 5 * time.Second
)

// join copies in both directions until both have ended, and returns the bytes of each.
//
// When one direction has ended, the other ends, too: at once if the first ended by an error, else afterEnd after its last byte. disconnected ends
// when the client disconnects: then the bytes that it had sent still go to the server, within the same time, and the answer is dropped. bytes
// returns the numbers of bytes that went to the server and came from it so far. Closing both connections from elsewhere ends the join at once.
func join(disconnected context.Context, client, server io.ReadWriteCloser, bytes func() (sent, received int64)) (sent, received int64) {
	closeBoth := func() { client.Close(); server.Close() }
	copyTo := func(to, from io.ReadWriteCloser, n *int64) chan struct{} {
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			var err error
			if *n, err = io.Copy(to, from); err != nil {
				closeBoth()
			} else {
				closeWrite(to)
			}
		}()
		return ended
	}
	up, down := copyTo(server, client, &sent), copyTo(client, server, &received)
	left := disconnected.Done()
	select { // while both directions are open, nothing bounds how long they are idle: that is a tunnel's right
	case <-up:
		up = nil
	case <-down:
		down = nil
	case <-left:
		left = nil
	}
	tick := time.NewTicker(afterEndPoll)
	defer tick.Stop()
	last, since := total(bytes()), time.Now()
	for up != nil || down != nil {
		if up == nil && left == nil {
			closeBoth()
		}
		select {
		case <-up:
			up = nil
		case <-down:
			down = nil
		case <-left:
			left = nil
		case now := <-tick.C:
			if n := total(bytes()); n != last {
				last, since = n, now
			} else if now.Sub(since) >= afterEnd {
				closeBoth()
			}
		}
	}
	return sent, received
}

func total(sent, received int64) int64 { return sent + received }

// closeWrite closes the direction to the other end, which reads an end of file then. A connection that can't be half closed is closed.
func closeWrite(c io.Closer) {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
		return
	}
	c.Close()
}

// countBytes returns a function that returns how many bytes went over a connection to a server so far, and the connection to use: TCP itself, of
// which the kernel counts the bytes, so that they need not pass through this process (splice(2)), or one that counts around any other.
func countBytes(conn net.Conn) (net.Conn, func() (sent, received int64)) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		c := &countingConn{Conn: conn}
		return c, c.bytes
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		c := &countingConn{Conn: conn}
		return c, c.bytes
	}
	var mu sync.Mutex
	var sent, received int64
	return conn, func() (int64, int64) {
		mu.Lock()
		defer mu.Unlock()
		_ = raw.Control(func(fd uintptr) { // of a closed connection the last known counts
			if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
				sent, received = int64(info.Bytes_sent-info.Bytes_retrans), int64(info.Bytes_received)
			}
		})
		return sent, received
	}
}

// countingConn counts what goes over a connection.
type countingConn struct {
	net.Conn
	sent, received atomic.Int64
}

func (c *countingConn) bytes() (sent, received int64) { return c.sent.Load(), c.received.Load() }

func (c *countingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.received.Add(int64(n))
	return n, err
}

func (c *countingConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.sent.Add(int64(n))
	return n, err
}

// CloseWrite passes an end on.
func (c *countingConn) CloseWrite() error {
	closeWrite(c.Conn)
	return nil
}

// errQuotaExceeded ends what is sent to a server when the pack's daily bytes are used up.
var errQuotaExceeded = errors.New("write to server: the pack's daily bytes are used up")

// quotaConn is a connection to a server on which what is sent is taken from the pack's daily quota.
type quotaConn struct {
	net.Conn
	pack     *session.Pack
	exceeded atomic.Bool // by what was written last: it wasn't sent
}

func (c *quotaConn) Write(p []byte) (int, error) {
	if c.pack.Spend(len(p)) != nil {
		c.exceeded.Store(true)
		return 0, errQuotaExceeded
	}
	return c.Conn.Write(p)
}

// CloseWrite passes an end on.
func (c *quotaConn) CloseWrite() error {
	closeWrite(c.Conn)
	return nil
}
