package upstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"maps"
	"math"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/net/http2"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/urlpath"
)

// Bounds on what a server may make of a connection over HTTP/2 (RFC 9113).
const (
	maxShared   = 64        // connections of one pool
	streamAhead = 256 << 10 // bytes of an answer that a server may send before they are read
	connAhead   = 4<<20 - 1 // the same of all answers of a connection; net/http knows no more
	resting     = 512 << 10 // bytes a minute that a server may send unasked: settings, pings, what was under way

	// Overhead is what a server may need beside an answer's body, in bytes: its head, its frames, and what it sends before
	// that is read.
	Overhead = 1 << 20
	// FrameRatio is how many bytes may come for each byte of a body: a server that streams text may send it letter by letter.
	FrameRatio = 32

	// maxTogether is how many exchanges share a connection: so few that answers which wait for Request.Room, unread, don't keep
	// the server from sending those that have it, and give it back when they are whole.
	maxTogether = connAhead / streamAhead

	hoard       = 256 << 20 // bytes that may be granted ahead
	pingAfter   = 15 * time.Second
	pingTimeout = 10 * time.Second
	writeStalls = 30 * time.Second
)

var errFlood = errors.New("read: the server sends more than anybody asked for")

// QuotaConn is a connection of which, once it is bound, only so many bytes may be read as were granted, and a few a minute
// besides. What HTTP/2 lets a server send beside answers (settings, pings, empty frames, header blocks without end) is
// bounded by that, too.
type QuotaConn struct {
	net.Conn
	left  atomic.Int64
	since time.Time // the few bytes were last granted; of the reader
}

// NewQuotaConn makes one that is not bound yet.
func NewQuotaConn(conn net.Conn) *QuotaConn {
	a := &QuotaConn{Conn: conn}
	a.left.Store(math.MaxInt64)
	return a
}

// Bind lets the server send what it may while nothing is asked of it, and no more.
func (a *QuotaConn) Bind() { a.left.Store(resting) }

// Grant lets the server of a bound connection send n more bytes. Grants that were not used don't pile up for ever.
func (a *QuotaConn) Grant(n int) {
	for {
		left := a.left.Load()
		if left >= hoard || a.left.CompareAndSwap(left, min(left+int64(n), hoard)) {
			return
		}
	}
}

// Read implements net.Conn.
func (a *QuotaConn) Read(p []byte) (int, error) {
	n, err := a.Conn.Read(p)
	if a.left.Add(int64(-n)) >= 0 {
		return n, err
	}
	now := time.Now()
	if now.Sub(a.since) < time.Minute {
		return 0, errFlood
	}
	a.since = now
	a.Bind()
	return n, err
}

// granted is a body whose server may send on what is read of it.
type granted struct {
	io.Reader
	wire *QuotaConn
	idle *idle
}

func (g granted) Read(p []byte) (int, error) {
	n, err := g.Reader.Read(p)
	g.wire.Grant(FrameRatio * n)
	g.idle.again()
	return n, err
}

// idle cancels an exchange whose server says nothing for long once it has the request.
type idle struct {
	after time.Duration
	timer *time.Timer // nil for no bound
}

func newIdle(after time.Duration, cancel func()) *idle {
	i := &idle{after: after}
	if after > 0 {
		i.timer = time.AfterFunc(math.MaxInt64, cancel)
	}
	return i
}

// trace begins the first wait when the request was sent.
func (i *idle) trace(ctx context.Context) context.Context {
	if i.timer == nil {
		return ctx
	}
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { i.again() }})
}

// again begins a new wait.
func (i *idle) again() {
	if i.timer != nil {
		i.timer.Reset(i.after)
	}
}

func (i *idle) stop() {
	if i.timer != nil {
		i.timer.Stop()
	}
}

// shared is a connection that many exchanges use at once. Its fields below cc belong to the pool's mutex.
type shared struct {
	cc    *http.ClientConn
	wire  *QuotaConn
	used  int // exchanges begun
	users int // exchanges under way
	spent bool
	rests time.Time // since when there are no users
}

type linkKey struct{}

// newTransport makes what speaks HTTP/2 over connections that others made. It keeps none itself.
func newTransport() *http.Transport {
	t := &http.Transport{
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return ctx.Value(linkKey{}).(*tls.Conn), nil
		},
		DisableCompression: true, MaxResponseHeaderBytes: maxHead, Protocols: new(http.Protocols),
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerStream: streamAhead, MaxReceiveBufferPerConnection: connAhead,
			SendPingTimeout: pingAfter, PingTimeout: pingTimeout, WriteByteTimeout: writeStalls,
		},
	}
	t.Protocols.SetHTTP2(true)
	return t
}

// share begins to speak HTTP/2 over a connection that TLS agreed on it for.
func (c *Config) share(ctx context.Context, conn *tls.Conn, wire *QuotaConn) (*shared, error) {
	c.once.Do(func() { c.transport = newTransport() })
	wire.Bind()
	cc, err := c.transport.NewClientConn(context.WithValue(ctx, linkKey{}, conn), "https", "server:443")
	if err != nil {
		conn.Close()
		return nil, exchangeError(err)
	}
	return &shared{cc: cc, wire: wire}, nil
}

// join makes an exchange one of the connection's, where it takes another one. The pool's mutex must be held.
func (s *shared) join() bool {
	if s.spent || s.users >= maxTogether || s.cc.Reserve() != nil {
		return false
	}
	s.used++
	s.users++
	s.wire.Grant(Overhead)
	return true
}

// leave ends an exchange. A connection that something was wrong with takes no more, and is closed with the last.
func (p *Pool) leave(k key, s *shared, fine bool) {
	p.mu.Lock()
	s.users--
	s.rests = time.Now()
	if !fine || p.closed {
		p.retire(k, s)
	}
	over := s.users == 0 && s.spent
	if s.users == 0 {
		s.wire.Bind()
	}
	p.mu.Unlock()
	if over {
		hangUp(s.cc)
	}
}

// retire takes a connection out of the pool. The mutex must be held.
func (p *Pool) retire(k key, s *shared) {
	if s.spent {
		return
	}
	s.spent = true
	if i := slices.Index(p.shared[k], s); i >= 0 {
		p.shares--
		if p.shared[k] = slices.Delete(p.shared[k], i, i+1); len(p.shared[k]) == 0 {
			delete(p.shared, k)
		}
	}
}

// exchangeShared is exchange over HTTP/2.
func (p *Pool) exchangeShared(ctx context.Context, k key, s *shared, r *Request, buf []byte) (_ *Response, err error, again bool) {
	p.mu.Lock()
	first := s.used == 1
	p.mu.Unlock()
	bound, cancel := context.WithDeadline(ctx, r.Deadline)
	defer cancel()
	idle := newIdle(r.Read, cancel)
	defer idle.stop()
	answer, err := s.cc.RoundTrip(r.shared(idle.trace(bound), k))
	begun := err == nil
	var response *Response
	if begun {
		idle.again()
		response, err = receiveShared(answer, r, buf, s.wire, idle)
	}
	refused := isRefused(err)
	p.leave(k, s, err == nil || err == ErrTooLarge || refused)
	switch {
	case ctx.Err() != nil:
		return nil, &Error{KindEnded, "Access was taken away", context.Cause(ctx)}, false
	case err == nil:
		return response, nil, false
	case bound.Err() != nil:
		return nil, exchangeError(context.DeadlineExceeded), false
	}
	failure := exchangeError(err)
	return nil, failure, refused || !first && !begun && failure.Kind == KindBroken && idempotent(r.Method)
}

// isRefused says whether a server declined a request before it did anything about it (RFC 9113, section 8.7), as it may
// where requests came before it could say how many it takes.
func isRefused(err error) bool {
	var reset http2.StreamError
	return errors.As(err, &reset) && reset.Code == http2.ErrCodeRefusedStream
}

// shared is the request for net/http.
func (r *Request) shared(ctx context.Context, k key) *http.Request {
	q := &http.Request{
		Method: r.Method, URL: urlpath.RequestURL("https", k.host, r.Path), Host: r.Host, Header: make(http.Header, len(r.Fields)+1),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, ContentLength: int64(len(r.Body)),
	}
	for _, f := range r.Fields {
		name := textproto.CanonicalMIMEHeaderKey(f.Name)
		q.Header[name] = append(q.Header[name], f.Value)
	}
	if len(r.Body) > 0 {
		q.Body = io.NopCloser(bytes.NewReader(r.Body))
	}
	return q.WithContext(ctx)
}

// receiveShared reads an answer. HTTP/2 has no spelling of names, and net/http no order: names come in the usual spelling,
// sorted; the values of one name in the server's order.
func receiveShared(answer *http.Response, r *Request, buf []byte, wire *QuotaConn, idle *idle) (*Response, error) {
	defer answer.Body.Close()
	response := &Response{Status: answer.StatusCode, Body: buf, Shared: true}
	for _, name := range slices.Sorted(maps.Keys(answer.Header)) {
		for _, value := range answer.Header[name] {
			if !utf8.ValidString(value) {
				value = fromLatin1(value)
			}
			response.Fields = append(response.Fields, Field{name, value})
		}
	}
	switch {
	case r.Method == http.MethodHead, answer.StatusCode == http.StatusNoContent, answer.StatusCode == http.StatusNotModified:
		return response, nil
	case answer.ContentLength > int64(r.MaxBody):
		return nil, ErrTooLarge
	}
	body, err := readAll(buf, granted{answer.Body, wire, idle}, int(answer.ContentLength), r, response.Fields)
	if err != nil {
		return nil, err
	}
	if answer.ContentLength >= 0 { // a longer one is an error that shows behind its end
		if _, err := answer.Body.Read(make([]byte, 1)); err != io.EOF {
			return nil, broken("Server sent an answer of another length than it said")
		}
	}
	response.Body = body
	return response, nil
}
