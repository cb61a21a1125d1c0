package client

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/rumi-ai/rumi/libs/idleconn"
)

const (
	idleTimeout = 90 * time.Second // after which an unused connection is closed; servers wait longer
	maxIdle     = 256              // unused connections to an instance
	connBuffer  = 32 << 10         // bytes, each way
	maxHeader   = 1 << 20          // bytes of an answer's header
)

// direct sends requests to one instance over HTTP/1.1 and reads the answers, both in the goroutine of the caller.
//
// http.Transport has two goroutines of its own for each connection, which is right for what it can't know: bodies that are
// slower than their answer, upgrades. A request that is in memory needs neither, so that handing it to those goroutines and its answer
// back is for nothing. BenchmarkUnaryCall measures a whole call, caller and service, over mutual TLS. direct takes
// 19 to 28 % less processor time for it than http.Transport does (2026-11-30, Go 1.26, 2 virtual cores). If that falls below a tenth, direct is to
// be removed: see docs/adr/own-http-client.md.
type direct struct {
	host   *host
	secure securing

	mu     sync.Mutex
	idle   []*directConn // the one used last is the last
	sweeps *time.Timer   // closes what has been idle for too long; nil while nothing is idle
	closed bool
}

// directConn is a connection. It is used by one request at a time.
type directConn struct {
	*tls.Conn
	to    netip.AddrPort
	raw   watched // below TLS
	probe *idleconn.Probe
	in    *bufio.Reader
	out   *bufio.Writer
	left  int       // how many bytes of a header may still come; negative while a body is read
	used  bool      // an answer was read from it
	since time.Time // when it became idle
}

// watched is what directConn needs of an identity.Conn.
type watched interface {
	Close() error
	Retired() bool
}

// Read counts what header there is.
func (c *directConn) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, fmt.Errorf("header is longer than %d bytes", maxHeader)
	}
	n, err := c.Conn.Read(p)
	if c.left > 0 {
		c.left = max(0, c.left-n)
	}
	return n, err
}

func newDirect(to *host, secure securing) *direct { return &direct{host: to, secure: secure} }

// takes says whether r can be sent by direct. Its body must be in memory and fit the buffers of both sides: direct reads no answer while it
// writes, so that a longer body could wait for ever for a server that answers before it has read everything. The answer must be an
// ordinary one: no upgrade, no 100 Continue.
func takes(r *http.Request) bool {
	switch {
	case r.Close, r.Header["Upgrade"] != nil, r.Header["Expect"] != nil, len(r.Trailer) > 0, len(r.TransferEncoding) > 0:
		return false
	case r.Body == nil || r.Body == http.NoBody:
		return true
	}
	return r.GetBody != nil && r.ContentLength > 0 && r.ContentLength <= connBuffer
}

// RoundTrip implements http.RoundTripper for requests that takes accepts. An idle connection is checked before it is used (libs/idleconn). The
// other end may still close it in the moment after the check: then the request is sent again on another connection, if it may be
// repeated and no byte of an answer has come.
func (d *direct) RoundTrip(r *http.Request) (*http.Response, error) {
	for {
		c, err := d.get(r.Context())
		if err != nil {
			closeBody(r)
			if over := r.Context().Err(); over != nil {
				err = over // who gave up says nothing about the instance
			}
			return nil, err
		}
		reused := c.used
		response, begun, err := d.exchange(c, r)
		if err == nil {
			return response, nil
		}
		if over := r.Context().Err(); over != nil {
			return nil, over
		}
		if begun || !reused || !repeatable(r) {
			return nil, err
		}
	}
}

// exchange sends r and reads the header of its answer; begun says whether any of that has come.
func (d *direct) exchange(c *directConn, r *http.Request) (response *http.Response, begun bool, err error) {
	ctx := r.Context()
	forget := context.AfterFunc(ctx, func() { c.raw.Close() })
	defer func() {
		if err != nil {
			forget()
			c.raw.Close()
		}
	}()
	c.left = maxHeader
	if err := writeRequest(c.out, r); err != nil {
		return nil, false, fmt.Errorf("send request: %w", err)
	}
	if err := c.out.Flush(); err != nil {
		return nil, false, fmt.Errorf("send request: %w", err)
	}
	sent(ctx)
	if _, err := c.in.Peek(1); err != nil {
		return nil, false, fmt.Errorf("read answer: %w", err)
	}
	for {
		if response, err = http.ReadResponse(c.in, r); err != nil {
			return nil, true, fmt.Errorf("read answer: %w", err)
		}
		if response.StatusCode == http.StatusSwitchingProtocols {
			return nil, true, errors.New("read answer: nobody asked for another protocol")
		}
		if response.StatusCode/100 != 1 { // there may be others before it
			break
		}
	}
	c.left, c.used = -1, true
	body := &directBody{owner: d, conn: c, ctx: ctx, forget: forget, body: response.Body, keep: !response.Close}
	if response.Body == http.NoBody {
		// The answer to HEAD is whole with its head, whatever its handler still does: the next request would wait for that.
		body.end(r.Method != http.MethodHead)
	} else {
		response.Body = body
	}
	return response, true, nil
}

// get gives a connection to the address whose turn it is: the one used last, since the others may become idle for long enough to be
// closed, or a new one.
func (d *direct) get(ctx context.Context) (*directConn, error) {
	addresses, err := d.host.inTurn(ctx)
	if err != nil {
		return nil, err
	}
	for {
		c := d.take(addresses)
		if c == nil {
			return d.connect(ctx, addresses)
		}
		if time.Since(c.since) < idleTimeout && !c.raw.Retired() && c.probe.Healthy() {
			return c, nil
		}
		c.raw.Close()
	}
}

// take gives the idle connection to the first of addresses that was used last, nil for none.
func (d *direct) take(addresses []netip.AddrPort) *directConn {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := len(d.idle) - 1; i >= 0; i-- {
		if c := d.idle[i]; len(addresses) == 1 || c.to == addresses[0] {
			d.idle = slices.Delete(d.idle, i, i+1)
			return c
		}
	}
	return nil
}

func (d *direct) connect(ctx context.Context, addresses []netip.AddrPort) (*directConn, error) {
	dialed, to, err := d.host.dial(ctx, addresses)
	if err != nil {
		return nil, err
	}
	secured, below, err := d.secure.handshake(ctx, dialed)
	if err != nil {
		return nil, err
	}
	probe, err := idleconn.New(secured, below)
	if err != nil {
		below.Close()
		return nil, fmt.Errorf("connect: %w", err)
	}
	c := &directConn{Conn: secured, to: to, raw: below, probe: probe}
	c.in, c.out = bufio.NewReaderSize(c, connBuffer), bufio.NewWriterSize(secured, connBuffer)
	return c, nil
}

// put keeps a connection for the next request.
func (d *direct) put(c *directConn) {
	c.since = time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || len(d.idle) >= maxIdle {
		c.raw.Close()
		return
	}
	d.idle = append(d.idle, c)
	if d.sweeps == nil {
		d.sweeps = time.AfterFunc(idleTimeout, d.sweep)
	}
}

// sweep closes what has been idle for too long.
func (d *direct) sweep() {
	d.mu.Lock()
	defer d.mu.Unlock()
	old := 0
	for old < len(d.idle) && time.Since(d.idle[old].since) >= idleTimeout {
		d.idle[old].raw.Close()
		old++
	}
	d.idle = append(d.idle[:0], d.idle[old:]...)
	clear(d.idle[len(d.idle):cap(d.idle)])
	if len(d.idle) == 0 || d.closed {
		d.sweeps = nil
		return
	}
	d.sweeps = time.AfterFunc(idleTimeout-time.Since(d.idle[0].since), d.sweep)
}

// Close closes idle connections now and the others after their answers. It is called when discovery no longer has the instance.
func (d *direct) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for _, c := range d.idle {
		c.raw.Close()
	}
	d.idle = nil
	if d.sweeps != nil {
		d.sweeps.Stop()
	}
	return nil
}

// directBody is an answer's body. Its connection is free once it has been read to its end. Close may be called while
// another goroutine reads.
type directBody struct {
	owner  *direct
	conn   *directConn
	ctx    context.Context // of the request: its end cuts the body off
	forget func() bool
	body   io.ReadCloser
	keep   bool // the other side does, too
	once   sync.Once
}

// Read implements io.Reader.
func (b *directBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if err == nil {
		return n, nil
	}
	if errors.Is(err, io.EOF) {
		b.end(true)
		return n, io.EOF
	}
	if over := b.ctx.Err(); over != nil {
		err = over
	}
	b.end(false)
	return n, err
}

// Close implements io.Closer. What is left of the body is not waited for.
func (b *directBody) Close() error {
	b.end(false)
	return nil
}

func (b *directBody) end(whole bool) {
	b.once.Do(func() {
		live := b.forget()
		if whole && live && b.keep && b.conn.in.Buffered() == 0 {
			b.owner.put(b.conn)
			return
		}
		b.conn.raw.Close()
	})
}

func closeBody(r *http.Request) {
	if r.Body != nil {
		r.Body.Close()
	}
}

type sentKey struct{}

// OnceSent has f called when a request made with the context is on its way, before its answer is waited for, in the
// goroutine that made it: time that the caller may use for something that has to be done anyhow. It is called once, or
// not at all where there was no sending the request or no way to tell.
func OnceSent(ctx context.Context, f func()) context.Context {
	return context.WithValue(ctx, sentKey{}, &f)
}

func sent(ctx context.Context) {
	if f, ok := ctx.Value(sentKey{}).(*func()); ok && *f != nil {
		do := *f
		*f = nil
		do()
	}
}
