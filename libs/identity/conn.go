package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"syscall"
	"time"
)

// Conn is a connection below TLS that stands on two certificates, ours and the peer's. It ends with the first of them to end, and at once
// when the peer's is revoked. Use Identity.Watch, then Admit once the handshake is over.
type Conn struct {
	net.Conn
	id *Identity

	// Of our certificate; Admit adds the peer's.
	retire, end time.Time
	peer        *x509.Certificate // nil until Admit
}

// Watch begins to watch a connection that is about to make its handshake, either way.
func (id *Identity) Watch(raw net.Conn) *Conn {
	ours := id.Certificate()
	return &Conn{Conn: raw, id: id, retire: retire(ours, time.Now()), end: ours.NotAfter}
}

// retire is when a connection that is made now takes no further request because of a certificate: after 5/6 of its life. If these are over
// already, it could not be renewed; then it is after half of what is left, so that connections serve for more than one request.
func retire(cert *x509.Certificate, now time.Time) time.Time {
	if from := at(cert, retireFrom); now.Before(from) {
		return from
	}
	return now.Add(cert.NotAfter.Sub(now) / 2)
}

// Admit is to be called with the state of the handshake, once. If the peer's certificate was revoked while the handshake ended, the
// connection is closed, and that is the error.
func (c *Conn) Admit(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("admit connection: the peer showed no certificate")
	}
	peer := state.PeerCertificates[0]
	if from := retire(peer, time.Now()); from.Before(c.retire) {
		c.retire = from
	}
	if peer.NotAfter.Before(c.end) {
		c.end = peer.NotAfter
	}
	c.id.mu.Lock()
	defer c.id.mu.Unlock()
	if err := c.id.deniedError(peer); err != nil {
		c.Conn.Close()
		return err
	}
	c.peer = peer
	c.id.conns[c] = struct{}{}
	return nil
}

// Retired says whether no further request may begin on the connection, so that none is cut off when a certificate ends. That is from 5/6 of
// the life of either certificate on: what began before has at least as long as a sixth of it. See retire for certificates that are older.
func (c *Conn) Retired() bool { return time.Now().After(c.retire) }

// Close implements net.Conn.
func (c *Conn) Close() error {
	c.id.mu.Lock()
	delete(c.id.conns, c)
	c.id.mu.Unlock()
	return c.Conn.Close()
}

// SyscallConn implements syscall.Conn, if the connection below does.
func (c *Conn) SyscallConn() (syscall.RawConn, error) {
	if below, ok := c.Conn.(syscall.Conn); ok {
		return below.SyscallConn()
	}
	return nil, errors.New("the connection has no descriptor")
}

// CutEnded closes the connections of which a certificate has ended, and says how many. It is to be called several times a second.
func (id *Identity) CutEnded(now time.Time) int {
	return id.cutIf(func(c *Conn) bool { return now.After(c.end) })
}

// cutIf closes the connections that fit. It closes what is below TLS, at once: a closing alert would wait for a write that is under way.
func (id *Identity) cutIf(fits func(*Conn) bool) int {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.cutLocked(fits)
}

// cutLocked is cutIf with id.mu held.
func (id *Identity) cutLocked(fits func(*Conn) bool) int {
	cut := 0
	for c := range id.conns {
		if fits(c) {
			c.Conn.Close()
			delete(id.conns, c)
			cut++
		}
	}
	return cut
}
