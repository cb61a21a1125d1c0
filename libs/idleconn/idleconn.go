// Package idleconn finds out whether a connection that waits for its next request is healthy: whether its other end has neither closed
// it nor sent anything since the last answer. Both HTTP/1.1 clients of the suite ask before they use a connection again: that of
// services (libs/rpc/client) and that of packs (egress-proxy/internal/upstream).
//
// A closed connection costs a request that may not be repeated. What was sent without a request is worse: the next request would take
// it for its own answer. The check can't see what is on its way still, so a client must also send a request again, if it may be
// repeated, when its connection breaks before the first byte of the answer.
package idleconn

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"
)

// Probe checks one connection. It is for the one goroutine that may read from it.
type Probe struct {
	secured *tls.Conn       // nil for a connection without TLS
	raw     syscall.RawConn // of the TCP connection
}

// New makes the probe of conn, which is the TCP connection tcp itself or a *tls.Conn over it. It is an error if tcp has no descriptor.
func New(conn, tcp net.Conn) (*Probe, error) {
	descriptor, ok := tcp.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("check idle connections: %T has no descriptor", tcp)
	}
	raw, err := descriptor.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("check idle connections: %w", err)
	}
	secured, _ := conn.(*tls.Conn)
	return &Probe{secured: secured, raw: raw}, nil
}

// Healthy reports whether nothing has arrived that wasn't read: no data and no end. It doesn't wait. A connection that isn't healthy can
// only be closed, since what had arrived may be lost. The connection has no read deadline afterwards.
func (p *Probe) Healthy() bool { return p.nothingDecrypted() && p.nothingReceived() }

// longAgo is a deadline at which every wait is over.
var longAgo = time.Unix(1, 0)

// nothingDecrypted reports whether crypto/tls holds no data of its own. It reads what the kernel has, so that records may lie in its
// buffer which came along with the last one of an answer. With a deadline that has passed, Read returns what is there and
// never asks the kernel; crypto/tls goes on after a time-out. Session tickets and key updates, which are no data, are dealt with on the way.
func (p *Probe) nothingDecrypted() bool {
	if p.secured == nil {
		return true
	}
	if p.secured.SetReadDeadline(longAgo) != nil {
		return false
	}
	var one [1]byte
	_, err := p.secured.Read(one[:])
	return errors.Is(err, os.ErrDeadlineExceeded) && p.secured.SetReadDeadline(time.Time{}) == nil
}

// nothingReceived reports whether the kernel holds nothing for the connection, neither data nor its end.
func (p *Probe) nothingReceived() bool {
	nothing := false
	err := p.raw.Control(func(fd uintptr) {
		var one [1]byte
		for {
			_, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
			if err != syscall.EINTR {
				nothing = err == syscall.EAGAIN
				return
			}
		}
	})
	return err == nil && nothing
}
