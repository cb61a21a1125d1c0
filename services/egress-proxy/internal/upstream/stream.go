package upstream

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/urlpath"
)

const (
	streamConnect   = 10 * time.Second // for a connection to be made, handshake included
	streamIdleConns = 64               // of HTTP/1.1, for exchanges that are streamed
)

// Stream is one exchange whose bodies are passed on as they come, in both directions, instead of being held in memory as Pool.Do does. Use
// Pool.NewStream.
//
// It is net/http's transport that speaks HTTP for it: header fields are passed on in its order and spelling, which is what HTTP promises
// between proxies, while framed requests were promised their own (see the package comment).
type Stream struct {
	pool *Pool
	to   dialTarget
	conn atomic.Pointer[boundConn] // over TLS: the connection that the exchange was given
}

// dialTarget is what the transport's dial functions need to know of the exchange that they are called for.
type dialTarget struct {
	*Target
	http1 bool // no other version of HTTP
}

type dialTargetKey struct{}

// NewStream begins an exchange with a target. http1 keeps it to HTTP/1.1, which alone has upgrades.
func (p *Pool) NewStream(t *Target, http1 bool) *Stream {
	return &Stream{pool: p, to: dialTarget{t, http1}}
}

// URL is the URL that a request for RoundTrip must have. path is the request target.
//
// The transport reuses connections by the URL's scheme, host and port, and a name's addresses change: its connections must not be used for
// addresses that were never decided on. The host is therefore a digest of the name and the set of its addresses. The server sees neither: it
// sees the request's Host, and the name in the TLS handshake.
func (s *Stream) URL(path string) *url.URL {
	scheme := "http"
	if s.to.TLS {
		scheme = "https"
	}
	digest := sha256.Sum256([]byte(s.to.Host + "\n" + s.to.ID))
	return urlpath.RequestURL(scheme, hex.EncodeToString(digest[:16])+":"+strconv.Itoa(int(s.to.Port)), path)
}

// RoundTrip sends a request and returns its server's answer, of which the body is still to be read. Errors are net/http's; see Failure. The
// exchange ends with the request's context and with the pool's.
func (s *Stream) RoundTrip(r *http.Request) (*http.Response, error) {
	t, err := s.pool.streams()
	if err != nil {
		return nil, err
	}
	ctx := context.WithValue(r.Context(), dialTargetKey{}, s.to)
	if s.to.TLS {
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: s.gotConn})
	}
	return t.RoundTrip(r.WithContext(ctx))
}

func (s *Stream) gotConn(got httptrace.GotConnInfo) {
	if secured, ok := got.Conn.(*tls.Conn); ok {
		if b, ok := secured.NetConn().(*boundConn); ok {
			b.Allow(Overhead)
			s.conn.Store(b)
		}
	}
}

// Allow lets the server send what goes with n bytes of a body, the request's or its answer's. See QuotaConn.
func (s *Stream) Allow(n int) {
	if c := s.conn.Load(); c != nil {
		c.Allow(FrameRatio * n)
	}
}

// streams returns the transport of streamed exchanges, which is made for the first of them: most pools never need it.
func (p *Pool) streams() (*http.Transport, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, context.Canceled
	}
	if p.transport == nil {
		p.transport = p.newStreamTransport()
	}
	return p.transport, nil
}

func (p *Pool) newStreamTransport() *http.Transport {
	t := newTransport()
	t.DialContext, t.DialTLSContext = p.dialPlain, p.dialTLS
	t.ExpectContinueTimeout = time.Second
	t.IdleConnTimeout, t.MaxIdleConns, t.MaxIdleConnsPerHost = idleFor, streamIdleConns, streamIdleConns/2
	t.ReadBufferSize, t.WriteBufferSize = 16<<10, 16<<10
	t.Protocols.SetHTTP1(true)
	return t
}

// boundConn is a connection that ends with the pool's context.
type boundConn struct {
	*QuotaConn
	stop func() bool
}

// Write implements net.Conn. A server that takes nothing of a request for long is given up. Without that, a client that has left would go
// unnoticed: that it left shows only behind what it had sent, which waits for the server. HTTP/2 has such a bound of its own.
func (c *boundConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(streamStalls)); err != nil {
		return 0, err
	}
	return c.QuotaConn.Write(p)
}

func (c *boundConn) Close() error {
	c.stop()
	return c.QuotaConn.Close()
}

// dialPlain makes a connection to the target of the exchange that the transport has it made for. Another exchange may be given it, too: one
// whose URL is the same, and so its target.
func (p *Pool) dialPlain(ctx context.Context, _, _ string) (net.Conn, error) {
	c, err := p.dialBound(ctx.Value(dialTargetKey{}).(dialTarget), time.Now().Add(streamConnect))
	if err != nil {
		return nil, err
	}
	return c, nil
}

// dialTLS is dialPlain with TLS. The transport goes by the protocol that was agreed on in the handshake.
func (p *Pool) dialTLS(ctx context.Context, _, _ string) (net.Conn, error) {
	to, deadline := ctx.Value(dialTargetKey{}).(dialTarget), time.Now().Add(streamConnect)
	conn, err := p.dialBound(to, deadline)
	if err != nil {
		return nil, err
	}
	protocols := []string{HTTP2, HTTP1}
	if to.http1 {
		protocols = protocols[1:]
	}
	secured, err := p.cfg.Handshake(p.ctx, to.Target, conn, deadline, protocols...)
	if err != nil {
		return nil, err
	}
	if secured.ConnectionState().NegotiatedProtocol == HTTP2 {
		conn.Limit()
	}
	return secured, nil
}

// dialBound connects under the pool's context, not the exchange's: the transport may use the connection for another exchange.
func (p *Pool) dialBound(to dialTarget, deadline time.Time) (*boundConn, error) {
	conn, _, err := p.cfg.Connect(p.ctx, to.Target, deadline)
	if err != nil {
		return nil, err
	}
	return &boundConn{NewQuotaConn(conn), context.AfterFunc(p.ctx, func() { conn.Close() })}, nil
}
