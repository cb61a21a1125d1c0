package server

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rumi-ai/rumi/libs/identity"
)

// handshakeTimeout is as long as a header may take. A peer that says nothing holds a goroutine for this long.
const handshakeTimeout = 5 * time.Second

// Refused is called for each connection that is refused in its handshake because of what the peer showed. It is called in the goroutine
// of the connection, which ends only after it.
type Refused func(peer net.Addr, r identity.Refusal)

// Listener admits holders of a certificate of the same authority and home on l. A connection ends with the certificates that it stands on.
// refused may be nil.
//
// The handshakes are made here and not by net/http, which only logs the text of their errors: who was refused, and why, belongs into the
// audit log. A connection whose handshake failed is passed on like the others, since net/http answers plain HTTP with a text that says
// what is wrong; it makes no second handshake.
func Listener(l net.Listener, id *identity.Identity, refused Refused) net.Listener {
	ctx, cancel := context.WithCancel(context.Background())
	s := &listener{Listener: l, id: id, refused: refused, ctx: ctx, cancel: cancel, accepted: make(chan accepted)}
	go s.run()
	return s
}

type listener struct {
	net.Listener
	id       *identity.Identity
	refused  Refused
	ctx      context.Context // ends with Close
	cancel   context.CancelFunc
	accepted chan accepted
	once     sync.Once
	closing  error
}

// accepted is a result of Accept.
type accepted struct {
	conn net.Conn
	err  error
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case a := <-l.accepted:
		return a.conn, a.err
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. It ends handshakes that are under way.
func (l *listener) Close() error {
	l.once.Do(func() {
		l.cancel()
		l.closing = l.Listener.Close()
	})
	return l.closing
}

// run accepts until the listener is closed. An error goes to who accepts: net/http waits before it calls again where files are used up.
func (l *listener) run() {
	for {
		raw, err := l.Listener.Accept()
		switch {
		case err == nil:
			go l.admit(raw)
		case !l.pass(accepted{err: err}), errors.Is(err, net.ErrClosed):
			return
		}
	}
}

// pass hands a result to Accept; false where the listener was closed.
func (l *listener) pass(a accepted) bool {
	select {
	case l.accepted <- a:
		return true
	case <-l.ctx.Done():
		return false
	}
}

// admit makes the handshake of a connection and passes it on.
func (l *listener) admit(raw net.Conn) {
	watched := l.id.Watch(raw)
	conn := tls.Server(watched, l.id.Server())
	ctx, cancel := context.WithTimeout(l.ctx, handshakeTimeout)
	err := conn.HandshakeContext(ctx)
	cancel()
	admitted := err == nil
	if admitted {
		err = watched.Admit(conn.ConnectionState())
		admitted = err == nil
	}
	if r, ok := identity.RefusalOf(err); ok && l.refused != nil {
		l.refused(raw.RemoteAddr(), r)
	}
	if !admitted && conn.ConnectionState().HandshakeComplete || !l.pass(accepted{conn: conn}) {
		watched.Close()
	}
}

type connKey struct{}

// conn is what is known of a request's connection. The requests of a connection come one after another (HTTP/1.1).
type conn struct {
	watched  *identity.Conn // nil where it isn't one of a service
	extended atomic.Int64   // when ExtendWrite has moved the deadline last, as uptime says; 0 where it has to
}

// begun is in the past, so that uptime is never near 0.
var begun = time.Now().Add(-time.Hour)

// uptime is a time in nanoseconds that no change of the clock moves.
func uptime() int64 { return int64(time.Since(begun)) }

// ConnContext is for http.Server: it lets a handler know the connection of its request.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	known := &conn{}
	if secured, ok := c.(*tls.Conn); ok {
		known.watched, _ = secured.NetConn().(*identity.Conn)
	}
	return context.WithValue(ctx, connKey{}, known)
}

// Retired says whether the connection of a request's context takes no further request, because a certificate that it stands on ends soon. The
// last answer before a connection's end says so, so that no request is cut off. A stream that its reader opens again should end then, before
// it is cut.
func Retired(ctx context.Context) bool {
	c, ok := ctx.Value(connKey{}).(*conn)
	return ok && c.watched != nil && c.watched.Retired()
}

// ExtendWrite gives the client d, of a second at least, to take what is written to w next; ctx is that of the request. It is called by the
// request's goroutine before each write. A connection's deadline is moved once a second at most: a second less costs nobody anything, and
// moving it costs as much as the rest of a small write.
func ExtendWrite(ctx context.Context, w http.ResponseWriter, d time.Duration) {
	if c, ok := ctx.Value(connKey{}).(*conn); ok {
		now := uptime()
		if now-c.extended.Load() < int64(time.Second) {
			return
		}
		c.extended.Store(now)
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(d))
}

// CutWrite ends a write to w that waits for the client. It may be called from any goroutine. What is written after it has its time again.
func CutWrite(ctx context.Context, w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now())
	if c, ok := ctx.Value(connKey{}).(*conn); ok {
		c.extended.Store(0)
	}
}
