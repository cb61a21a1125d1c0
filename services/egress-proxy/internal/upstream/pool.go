package upstream

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	maxIdlePerTarget = 32
	maxIdle          = 128 // of one pool
	idleFor          = 60 * time.Second
)

// Config has the parts that all pools share.
type Config struct {
	// Dial connects to exactly that address.
	Dial func(ctx context.Context, to netip.AddrPort) (net.Conn, error)
	TLS  func() *tls.Config // roots and versions of the next handshake; names and protocols are set by the pool

	once  sync.Once
	http2 *http.Transport // made when it is first needed
}

// Pool keeps the connections of one session of one pack: those of exchanges that are held in memory (Do) and of those that are streamed
// (NewStream). It connects to addresses that were decided on, and reuses a connection for the same address under the same name only. Use NewPool.
type Pool struct {
	cfg *Config
	ctx context.Context // the session's: ends everything that is streamed

	mu        sync.Mutex
	closed    bool
	idleCount int
	idle      map[key][]*conn // of HTTP/1.1; the one used last is at the end, and used next
	h2Count   int
	h2        map[key][]*h2Conn // in use or not
	transport *http.Transport   // of streamed exchanges over HTTP/1.1; made when it is first needed
}

// key is what a connection is good for: one address, under one name.
type key struct {
	tls  bool
	host string
	port uint16
	addr netip.Addr
}

// NewPool returns an empty pool. When ctx ends, so does everything that is streamed; Close does the rest.
func NewPool(ctx context.Context, cfg *Config) *Pool {
	return &Pool{cfg: cfg, ctx: ctx, idle: make(map[key][]*conn), h2: make(map[key][]*h2Conn)}
}

// Close closes the idle connections and those of HTTP/2 at once, and each of the others when its exchange is over. It waits for no server.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, conns := range p.idle {
		for _, c := range conns {
			hangUp(c)
		}
	}
	for _, all := range p.h2 {
		for _, s := range all {
			s.retired = true
			hangUp(s.cc)
		}
	}
	p.idle, p.idleCount, p.h2, p.h2Count = nil, 0, nil, 0
	if p.transport != nil {
		p.transport.CloseIdleConnections()
	}
}

// hangUp closes a connection without waiting: TLS sends an alert first, and crypto/tls waits up to five seconds for a server that doesn't read.
// Pools are closed and swept for all packs by one goroutine, which one pack's servers must not hold up.
func hangUp(c io.Closer) { go c.Close() }

// Sweep closes the connections of Do that have been idle for a minute; those of streams close by themselves. It waits for no server.
func (p *Pool) Sweep(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, conns := range p.idle {
		stale := 0
		for stale < len(conns) && now.Sub(conns[stale].idleSince) >= idleFor {
			hangUp(conns[stale])
			stale++
		}
		p.idleCount -= stale
		if stale == len(conns) {
			delete(p.idle, k)
		} else if stale > 0 {
			p.idle[k] = append([]*conn(nil), conns[stale:]...)
		}
	}
	for k, all := range p.h2 {
		for _, s := range slices.Clone(all) {
			if s.users == 0 && (now.Sub(s.idleSince) >= idleFor || s.cc.Err() != nil) {
				p.retire(k, s)
				hangUp(s.cc)
			}
		}
	}
}

// take returns a connection to one of the target's addresses that its server hasn't closed: an idle one of HTTP/1.1, with the deadline set, or
// one of HTTP/2 that it has joined; or neither.
func (p *Pool) take(t *Target, r *Request) (k key, c *conn, s *h2Conn) {
	for {
		p.mu.Lock()
		for _, addr := range t.Addrs {
			k = key{t.TLS, t.Host, t.Port, addr}
			if conns := p.idle[k]; len(conns) > 0 {
				c = conns[len(conns)-1]
				conns[len(conns)-1] = nil
				p.idle[k] = conns[:len(conns)-1]
				p.idleCount--
				break
			}
			if s = p.joinAny(k); s != nil {
				break
			}
		}
		p.mu.Unlock()
		if c == nil || c.healthy() && c.SetDeadline(r.Deadline) == nil {
			return k, c, s
		}
		c.Close()
		c = nil
	}
}

// joinAny joins a connection of HTTP/2 that takes another exchange; nil for none. The mutex must be held.
func (p *Pool) joinAny(k key) *h2Conn {
	if !k.tls {
		return nil
	}
	for _, s := range p.h2[k] {
		if s.join() {
			return s
		}
	}
	return nil
}

// put takes back a connection of which the exchange came to its end.
func (p *Pool) put(k key, c *conn) {
	c.idleSince = time.Now()
	p.mu.Lock()
	conns := p.idle[k]
	if p.closed || p.idleCount >= maxIdle || len(conns) >= maxIdlePerTarget {
		p.mu.Unlock()
		c.Close()
		return
	}
	p.idle[k] = append(conns, c)
	p.idleCount++
	p.mu.Unlock()
}

// Do sends a request and reads its whole answer into buf, which it grows as needed. Errors are of type *Error.
//
// A server may close an idle connection just when a request is sent over it. Such a request is sent again over a new connection if the method
// allows that (RFC 9110, section 9.2.2), once.
func (p *Pool) Do(ctx context.Context, t *Target, r *Request, buf []byte) (*Response, error) {
	k, c, s := p.take(t, r)
	if c != nil || s != nil {
		response, err, again := p.exchangeOver(ctx, k, c, s, t.Close, r, buf)
		if !again {
			return response, err
		}
	}
	k, c, s, err := p.connect(ctx, t, r)
	if err == nil && c != nil {
		err = c.SetDeadline(r.Deadline)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, &Error{KindCanceled, "Access was taken away", context.Cause(ctx)}
		}
		return nil, exchangeError(err)
	}
	response, err, _ := p.exchangeOver(ctx, k, c, s, t.Close, r, buf)
	return response, err
}

func (p *Pool) exchangeOver(ctx context.Context, k key, c *conn, s *h2Conn, close bool, r *Request, buf []byte) (_ *Response, err error, again bool) {
	if s != nil {
		return p.exchangeHTTP2(ctx, k, s, r, buf)
	}
	return p.exchange(ctx, k, c, close, r, buf)
}

// exchange uses one connection and gives it back or closes it. again says that the server had closed it before it saw
// the request, as far as the connection shows, and that the request may be sent twice. close has the exchange be the connection's last.
func (p *Pool) exchange(ctx context.Context, k key, c *conn, close bool, r *Request, buf []byte) (_ *Response, err error, again bool) {
	stop := context.AfterFunc(ctx, c.interrupt)
	response, reusable, err := c.roundTrip(r, close, buf)
	if !stop() {
		c.Close()
		return nil, &Error{KindCanceled, "Access was taken away", context.Cause(ctx)}, false
	}
	if err != nil {
		c.Close()
		failure := exchangeError(err)
		return nil, failure, c.used > 1 && !c.answered && failure.Kind == KindBroken && idempotent(r.Method)
	}
	if !reusable || close {
		c.Close()
		return response, nil, false
	}
	p.put(k, c)
	return response, nil, false
}

// idempotent methods may be sent twice (RFC 9110, section 9.2.2).
func idempotent(method string) bool {
	switch method {
	case "GET", "HEAD", "PUT", "DELETE":
		return true
	}
	return false
}

// connect makes a connection for a request: of HTTP/1.1, or one of HTTP/2 that it has joined.
func (p *Pool) connect(ctx context.Context, t *Target, r *Request) (k key, c *conn, s *h2Conn, err error) {
	deadline := r.Deadline
	if r.Connect > 0 {
		if d := time.Now().Add(r.Connect); d.Before(deadline) {
			deadline = d
		}
	}
	raw, addr, err := p.cfg.Connect(ctx, t, deadline)
	if err != nil {
		return k, nil, nil, err
	}
	connected(ctx, t, addr)
	k = key{t.TLS, t.Host, t.Port, addr}
	if !t.TLS {
		return k, newConn(raw, raw), nil, nil
	}
	wire := NewQuotaConn(raw)
	secured, err := p.cfg.Handshake(ctx, t, wire, deadline, HTTP2, HTTP1)
	if err != nil {
		return k, nil, nil, err
	}
	securedTLS(ctx, secured)
	if secured.ConnectionState().NegotiatedProtocol != HTTP2 {
		return k, newConn(secured, raw), nil, nil
	}
	s, err = p.adopt(ctx, k, secured, wire)
	return k, nil, s, err
}

// adopt joins a new connection that speaks HTTP/2, or one that another exchange has made meanwhile.
func (p *Pool) adopt(ctx context.Context, k key, secured *tls.Conn, wire *QuotaConn) (*h2Conn, error) {
	p.mu.Lock()
	s := p.joinAny(k)
	p.mu.Unlock()
	if s != nil {
		secured.Close()
		return s, nil
	}
	s, err := p.cfg.newH2Conn(ctx, secured, wire)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !s.join() {
		hangUp(s.cc)
		return nil, broken("Server takes no request")
	}
	if p.closed || p.h2Count >= maxH2Conns {
		s.retired = true // closed after this exchange
		return s, nil
	}
	p.h2[k] = append(p.h2[k], s)
	p.h2Count++
	return s, nil
}
