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

// Config is what all pools share.
type Config struct {
	// Dial connects to exactly that address.
	Dial func(ctx context.Context, to netip.AddrPort) (net.Conn, error)
	TLS  func() *tls.Config // roots and versions of the next handshake; names and protocols are set by the pool

	once      sync.Once
	transport *http.Transport // of HTTP/2, made when it is first needed
}

// Pool keeps one pack's connections for as long as its access lasts. Use NewPool.
type Pool struct {
	cfg *Config

	mu     sync.Mutex
	closed bool
	count  int
	idle   map[key][]*conn // the one used last is at the end, and used next
	shares int
	shared map[key][]*shared // of HTTP/2, in use or not
}

// key is what a connection is good for: one address, under one name.
type key struct {
	tls  bool
	host string
	port uint16
	addr netip.Addr
}

// NewPool makes an empty pool.
func NewPool(cfg *Config) *Pool {
	return &Pool{cfg: cfg, idle: make(map[key][]*conn), shared: make(map[key][]*shared)}
}

// Close closes the idle connections and those that are shared, and each of the others when its exchange is over. It
// waits for no server.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, conns := range p.idle {
		for _, c := range conns {
			hangUp(c)
		}
	}
	for _, all := range p.shared {
		for _, s := range all {
			s.spent = true
			hangUp(s.cc)
		}
	}
	p.idle, p.count, p.shared, p.shares = nil, 0, nil, 0
}

// hangUp closes a connection behind the caller's back: TLS says goodbye first, for which it waits five seconds where the
// server doesn't read.
func hangUp(c io.Closer) { go c.Close() }

// Sweep closes what has been idle for a minute. It waits for no server.
func (p *Pool) Sweep(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, conns := range p.idle {
		stale := 0
		for stale < len(conns) && now.Sub(conns[stale].idleSince) >= idleFor {
			hangUp(conns[stale])
			stale++
		}
		p.count -= stale
		if stale == len(conns) {
			delete(p.idle, k)
		} else if stale > 0 {
			p.idle[k] = append([]*conn(nil), conns[stale:]...)
		}
	}
	for k, all := range p.shared {
		for _, s := range slices.Clone(all) {
			if s.users == 0 && (now.Sub(s.rests) >= idleFor || s.cc.Err() != nil) {
				p.retire(k, s)
				hangUp(s.cc)
			}
		}
	}
}

// take gives a connection to one of the target's addresses that the server has not closed: an idle one, with the deadline
// set, or a shared one; or neither.
func (p *Pool) take(t *Target, r *Request) (k key, c *conn, s *shared) {
	for {
		p.mu.Lock()
		for _, addr := range t.Addrs {
			k = key{t.TLS, t.Host, t.Port, addr}
			if conns := p.idle[k]; len(conns) > 0 {
				c = conns[len(conns)-1]
				conns[len(conns)-1] = nil
				p.idle[k] = conns[:len(conns)-1]
				p.count--
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

// joinAny makes an exchange one of those of a shared connection. The mutex must be held.
func (p *Pool) joinAny(k key) *shared {
	if !k.tls {
		return nil
	}
	for _, s := range p.shared[k] {
		if s.join() {
			return s
		}
	}
	return nil
}

// put takes a connection back whose exchange came to its end.
func (p *Pool) put(k key, c *conn) {
	c.idleSince = time.Now()
	p.mu.Lock()
	conns := p.idle[k]
	if p.closed || p.count >= maxIdle || len(conns) >= maxIdlePerTarget {
		p.mu.Unlock()
		c.Close()
		return
	}
	p.idle[k] = append(conns, c)
	p.count++
	p.mu.Unlock()
}

// Do sends a request and reads its answer into buf, which it grows as needed. Errors are of type *Error. A request that
// a connection of before turned out to be dead for is sent again on a new one if it may be.
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
			return nil, &Error{KindEnded, "Access was taken away", context.Cause(ctx)}
		}
		return nil, exchangeError(err)
	}
	response, err, _ := p.exchangeOver(ctx, k, c, s, t.Close, r, buf)
	return response, err
}

func (p *Pool) exchangeOver(ctx context.Context, k key, c *conn, s *shared, close bool, r *Request, buf []byte) (_ *Response, err error, again bool) {
	if s != nil {
		return p.exchangeShared(ctx, k, s, r, buf)
	}
	return p.exchange(ctx, k, c, close, r, buf)
}

// exchange uses one connection and gives it back or closes it. again says that the server had closed it before it saw
// the request, as far as can be told, and that the request does no harm twice. close has the exchange be the connection's last.
func (p *Pool) exchange(ctx context.Context, k key, c *conn, close bool, r *Request, buf []byte) (_ *Response, err error, again bool) {
	stop := context.AfterFunc(ctx, c.end)
	response, reusable, err := c.roundTrip(r, close, buf)
	if !stop() {
		c.Close()
		return nil, &Error{KindEnded, "Access was taken away", context.Cause(ctx)}, false
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

// connect makes a connection for a request: of its own, or a shared one that it has joined.
func (p *Pool) connect(ctx context.Context, t *Target, r *Request) (k key, c *conn, s *shared, err error) {
	deadline := r.Deadline
	if r.Connect > 0 {
		if d := time.Now().Add(r.Connect); d.Before(deadline) {
			deadline = d
		}
	}
	raw, addr, err := p.cfg.Reach(ctx, t, deadline)
	if err != nil {
		return k, nil, nil, err
	}
	k = key{t.TLS, t.Host, t.Port, addr}
	if !t.TLS {
		return k, newConn(raw, raw), nil, nil
	}
	wire := NewQuotaConn(raw)
	secured, err := p.cfg.Secure(ctx, t, wire, deadline, HTTP2, HTTP1)
	if err != nil {
		return k, nil, nil, err
	}
	if secured.ConnectionState().NegotiatedProtocol != HTTP2 {
		return k, newConn(secured, raw), nil, nil
	}
	s, err = p.adopt(ctx, k, secured, wire)
	return k, nil, s, err
}

// adopt joins a new connection that speaks HTTP/2, or one that somebody else has made meanwhile.
func (p *Pool) adopt(ctx context.Context, k key, secured *tls.Conn, wire *QuotaConn) (*shared, error) {
	p.mu.Lock()
	s := p.joinAny(k)
	p.mu.Unlock()
	if s != nil {
		secured.Close()
		return s, nil
	}
	s, err := p.cfg.share(ctx, secured, wire)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !s.join() {
		hangUp(s.cc)
		return nil, broken("Server takes no request")
	}
	if p.closed || p.shares >= maxShared {
		s.spent = true // closed after this exchange
		return s, nil
	}
	p.shared[k] = append(p.shared[k], s)
	p.shares++
	return s, nil
}
