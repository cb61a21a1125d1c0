package upstream

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
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
// Over HTTP/2 it shares the pool's connections with Do. HTTP/1.1 is net/http's there, over connections of its own: header fields are passed on in
// net/http's order and spelling, which is all that HTTP promises between proxies, while framed requests were promised their own.
type Stream struct {
	pool   *Pool
	target *Target
	http1  bool

	mu   sync.Mutex
	over bool    // RoundTrip has returned: no connection can be handed over any more
	key  key     // of h2
	h2   *h2Conn // the connection that the exchange has joined; nil for HTTP/1.1
}

// errHTTP2 is what the dial function of net/http's transport returns for a server that speaks HTTP/2: the exchange then goes over the pool's
// connection, which it was handed.
var errHTTP2 = errors.New("the server speaks HTTP/2")

type streamKey struct{}

// NewStream begins an exchange with a target. http1 keeps it to HTTP/1.1, which alone has upgrades.
func (p *Pool) NewStream(t *Target, http1 bool) *Stream {
	return &Stream{pool: p, target: t, http1: http1}
}

// URL is the URL that a request for RoundTrip must have. path is the request target.
//
// net/http's transport reuses connections by the URL's scheme, host and port, and a name's addresses change: its connections must not be used for
// addresses that were never decided on. The host is therefore a digest of the name and the set of its addresses. The server sees neither: it
// sees the request's Host, and the name in the TLS handshake.
func (s *Stream) URL(path string) *url.URL {
	scheme := "http"
	if s.target.TLS {
		scheme = "https"
	}
	digest := sha256.Sum256([]byte(s.target.Host + "\n" + s.target.ID))
	return urlpath.RequestURL(scheme, hex.EncodeToString(digest[:16])+":"+strconv.Itoa(int(s.target.Port)), path)
}

// RoundTrip sends a request and returns its server's answer, of which the body is still to be read, and closed. Errors are net/http's; see
// Failure. The exchange ends with the request's context and with the pool's.
func (s *Stream) RoundTrip(r *http.Request) (*http.Response, error) {
	for first := true; ; first = false {
		h := s.joinIdle()
		if h == nil {
			response, err := s.roundTripHTTP1(r)
			if h = s.take(); h == nil {
				return response, err
			}
		}
		response, err, again := s.roundTripHTTP2(r, h)
		if !again || !first {
			return response, err
		}
	}
}

// joinIdle joins one of the pool's connections over HTTP/2; nil where none takes the exchange.
func (s *Stream) joinIdle() *h2Conn {
	if s.http1 {
		return nil
	}
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	for _, addr := range s.target.Addrs {
		k := key{s.target.TLS, s.target.Host, s.target.Port, addr}
		if h := s.pool.joinAny(k); h != nil {
			s.mu.Lock()
			s.key, s.h2 = k, h
			s.mu.Unlock()
			return h
		}
	}
	return nil
}

// roundTripHTTP1 sends the request over HTTP/1.1. If its server turns out to speak HTTP/2, nothing was sent, and take returns the connection.
func (s *Stream) roundTripHTTP1(r *http.Request) (*http.Response, error) {
	t, err := s.pool.streams()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.over = false
	s.mu.Unlock()
	response, err := t.RoundTrip(r.WithContext(context.WithValue(r.Context(), streamKey{}, s)))
	if h := s.take(); h != nil && !errors.Is(err, errHTTP2) { // an idle connection came free during the dial, or the client left
		s.leave(h, true)
	}
	return response, err
}

// handOver gives the exchange a connection over HTTP/2 that it has joined. It says whether the exchange still waits for one.
func (s *Stream) handOver(k key, h *h2Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || s.h2 != nil {
		return false
	}
	s.key, s.h2 = k, h
	return true
}

// take returns the connection that was handed over, if any, and refuses any other from now on.
func (s *Stream) take() *h2Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	return s.h2
}

// roundTripHTTP2 sends the request over a connection that the exchange has joined, which it leaves with the end of the answer's body. again says
// that the server has not acted on the request, as far as the connection shows, and that it can be sent again.
func (s *Stream) roundTripHTTP2(r *http.Request, h *h2Conn) (_ *http.Response, err error, again bool) {
	s.pool.mu.Lock()
	first := h.used == 1
	s.pool.mu.Unlock()
	q := r.WithContext(r.Context())
	q.Close = false // what Target.Close guards against doesn't exist in HTTP/2, and others share the connection
	response, err := h.cc.RoundTrip(q)
	if err != nil {
		refused := isRefused(err)
		s.leave(h, refused || r.Context().Err() != nil)
		bodiless := r.Body == nil || r.Body == http.NoBody
		return nil, err, bodiless && r.Context().Err() == nil && (refused || !first && idempotent(r.Method) && exchangeErrorKind(err) == KindBroken)
	}
	response.Body = &h2Body{ReadCloser: response.Body, ctx: r.Context(), leave: func(healthy bool) { s.leave(h, healthy) }}
	return response, nil, false
}

// leave ends the exchange's use of a connection; healthy as in Pool.leave.
func (s *Stream) leave(h *h2Conn, healthy bool) {
	s.mu.Lock()
	s.h2 = nil
	s.mu.Unlock()
	s.pool.leave(s.key, h, healthy)
}

func exchangeErrorKind(err error) Kind {
	var e *Error
	errors.As(exchangeError(err), &e)
	return e.Kind
}

// h2Body is the body of an answer over HTTP/2. Its exchange leaves the connection at its end, or when it is closed.
type h2Body struct {
	io.ReadCloser
	ctx   context.Context // of the exchange
	once  sync.Once
	leave func(healthy bool)
}

func (b *h2Body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil { // what ends because the client left says nothing against the connection
		b.once.Do(func() { b.leave(err == io.EOF || b.ctx.Err() != nil) })
	}
	return n, err
}

func (b *h2Body) Close() error {
	err := b.ReadCloser.Close()
	b.once.Do(func() { b.leave(true) })
	return err
}

// Allow lets the server send what goes with n bytes of a body, the request's or its answer's. See QuotaConn.
func (s *Stream) Allow(n int) {
	s.mu.Lock()
	h := s.h2
	s.mu.Unlock()
	if h != nil {
		h.wire.Allow(FrameRatio * n)
	}
}

// streams returns the transport of exchanges over HTTP/1.1 that are streamed. It is made for the first of them: most pools never need it.
func (p *Pool) streams() (*http.Transport, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, context.Canceled
	}
	if p.transport == nil {
		p.transport = &http.Transport{
			DialContext: p.dialPlain, DialTLSContext: p.dialTLS,
			DisableCompression: true, ExpectContinueTimeout: expectContinue, MaxResponseHeaderBytes: maxHead, ReadBufferSize: 16 << 10, WriteBufferSize: 16 << 10,
			IdleConnTimeout: idleFor, MaxIdleConns: streamIdleConns, MaxIdleConnsPerHost: streamIdleConns / 2, Protocols: new(http.Protocols),
		}
		p.transport.Protocols.SetHTTP1(true)
	}
	return p.transport, nil
}

// boundConn is a connection that ends with the pool's context.
type boundConn struct {
	*QuotaConn
	stop func() bool
}

// Write implements net.Conn. A server that takes nothing of a request for long is given up. Without that, a client that has left would go
// unnoticed: that it left shows only behind what it had sent, which waits for the server.
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

// dialPlain makes a connection to the target of the exchange for which the transport asks for it. Another exchange may be given it, too: one
// whose URL is the same, and so its target.
func (p *Pool) dialPlain(ctx context.Context, _, _ string) (net.Conn, error) {
	target := ctx.Value(streamKey{}).(*Stream).target
	c, addr, err := p.dialBound(target, time.Now().Add(streamConnect))
	if err != nil {
		return nil, err
	}
	connected(ctx, target, addr)
	return c, nil
}

// dialTLS is dialPlain with TLS. A connection over HTTP/2 goes to the pool, and the error is errHTTP2.
func (p *Pool) dialTLS(ctx context.Context, _, _ string) (net.Conn, error) {
	s, deadline := ctx.Value(streamKey{}).(*Stream), time.Now().Add(streamConnect)
	conn, addr, err := p.dialBound(s.target, deadline)
	if err != nil {
		return nil, err
	}
	connected(ctx, s.target, addr)
	protocols := []string{HTTP2, HTTP1}
	if s.http1 {
		protocols = protocols[1:]
	}
	secured, err := p.cfg.Handshake(p.ctx, s.target, conn, deadline, protocols...)
	if err != nil {
		return nil, err
	}
	securedTLS(ctx, secured)
	if secured.ConnectionState().NegotiatedProtocol != HTTP2 {
		return secured, nil
	}
	k := key{s.target.TLS, s.target.Host, s.target.Port, addr}
	h, err := p.adopt(p.ctx, k, secured, conn.QuotaConn)
	if err != nil {
		return nil, err
	}
	if !s.handOver(k, h) {
		p.leave(k, h, true)
	}
	return nil, errHTTP2
}

// dialBound connects under the pool's context, not the exchange's: the transport may use the connection for another exchange.
func (p *Pool) dialBound(t *Target, deadline time.Time) (*boundConn, netip.Addr, error) {
	conn, addr, err := p.cfg.Connect(p.ctx, t, deadline)
	if err != nil {
		return nil, addr, err
	}
	return &boundConn{NewQuotaConn(conn), context.AfterFunc(p.ctx, func() { conn.Close() })}, addr, nil
}
