package upstream

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
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
	TLS  *tls.Config // roots and versions; names and protocols are set by the pool
}

// Pool keeps one pack's connections for as long as its access lasts. Use NewPool.
type Pool struct {
	cfg *Config

	mu     sync.Mutex
	closed bool
	count  int
	idle   map[key][]*conn // the one used last is at the end, and used next
}

// key is what a connection is good for.
type key struct {
	tls  bool
	host string
	port uint16
	id   string
}

// NewPool makes an empty pool.
func NewPool(cfg *Config) *Pool { return &Pool{cfg: cfg, idle: make(map[key][]*conn)} }

// Close closes the idle connections, and each of the others when its exchange is over.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, conns := range p.idle {
		for _, c := range conns {
			c.Close()
		}
	}
	p.idle, p.count = nil, 0
}

// Sweep closes what has been idle for a minute.
func (p *Pool) Sweep(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, conns := range p.idle {
		stale := 0
		for stale < len(conns) && now.Sub(conns[stale].idleSince) >= idleFor {
			conns[stale].Close()
			stale++
		}
		p.count -= stale
		if stale == len(conns) {
			delete(p.idle, k)
		} else if stale > 0 {
			p.idle[k] = append([]*conn(nil), conns[stale:]...)
		}
	}
}

// take gives an idle connection that the server has not closed, with the deadline set, or nil.
func (p *Pool) take(k key, deadline time.Time) *conn {
	for {
		p.mu.Lock()
		conns := p.idle[k]
		if len(conns) == 0 {
			p.mu.Unlock()
			return nil
		}
		c := conns[len(conns)-1]
		conns[len(conns)-1] = nil
		p.idle[k] = conns[:len(conns)-1]
		p.count--
		p.mu.Unlock()
		if c.SetDeadline(deadline) == nil && c.alive() {
			return c
		}
		c.Close()
	}
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
// an idle connection turned out to be dead for is sent again on a new one if it may be.
func (p *Pool) Do(ctx context.Context, t *Target, r *Request, buf []byte) (*Response, error) {
	k := key{t.TLS, t.Host, t.Port, t.ID}
	if c := p.take(k, r.Deadline); c != nil {
		response, err, again := p.exchange(ctx, k, c, r, buf)
		if !again {
			return response, err
		}
	}
	c, err := p.connect(ctx, t, r)
	if err == nil {
		err = c.SetDeadline(r.Deadline)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, &Error{KindEnded, "Access was taken away", context.Cause(ctx)}
		}
		return nil, exchangeError(err)
	}
	response, err, _ := p.exchange(ctx, k, c, r, buf)
	return response, err
}

// exchange uses one connection and gives it back or closes it. again says that the server had closed it before it saw
// the request, as far as can be told, and that the request does no harm twice.
func (p *Pool) exchange(ctx context.Context, k key, c *conn, r *Request, buf []byte) (_ *Response, err error, again bool) {
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	response, reusable, err := c.roundTrip(r, buf)
	if !stop() {
		c.Close()
		return nil, &Error{KindEnded, "Access was taken away", context.Cause(ctx)}, false
	}
	if err != nil {
		c.Close()
		failure := exchangeError(err)
		return nil, failure, c.used > 1 && !c.answered && failure.Kind == KindBroken && idempotent(r.Method)
	}
	if !reusable {
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

// connect makes a connection for a request.
func (p *Pool) connect(ctx context.Context, t *Target, r *Request) (*conn, error) {
	deadline := r.Deadline
	if r.Connect > 0 {
		if d := time.Now().Add(r.Connect); d.Before(deadline) {
			deadline = d
		}
	}
	secured, tcp, err := p.cfg.Connect(ctx, t, deadline)
	if err != nil {
		return nil, err
	}
	return newConn(secured, tcp), nil
}
