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
	"time"
	"unicode/utf8"

	"golang.org/x/net/http2"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/urlpath"
)

// Bounds on what a server may make of a connection over HTTP/2 (RFC 9113).
const (
	maxH2Conns  = 64        // of one pool
	streamAhead = 256 << 10 // bytes of an answer that a server may send before they are read
	connAhead   = 4<<20 - 1 // the same of all answers of a connection; net/http knows no more

	// maxPerH2Conn is how many exchanges share a connection. They are so few that answers which wait for Request.Budget, unread, don't fill the
	// connection's window: that would keep the server from sending the answers that have their budget, which only they can give back (deadlock).
	maxPerH2Conn = connAhead / streamAhead

	pingAfter      = 15 * time.Second
	pingTimeout    = 10 * time.Second
	frameStalls    = 30 * time.Second // for a server to take the next byte over HTTP/2
	streamStalls   = time.Minute      // for a server to take the next 16 KiB of a streamed request over HTTP/1.1
	expectContinue = time.Second      // for a server to say 100 (Continue) to a streamed request that asks for it, before its body is sent
)

// idleTimer cancels an exchange whose server sends nothing for long once it has the request.
type idleTimer struct {
	after time.Duration
	timer *time.Timer // nil for no bound
}

func newIdleTimer(after time.Duration, cancel func()) *idleTimer {
	i := &idleTimer{after: after}
	if after > 0 {
		i.timer = time.AfterFunc(math.MaxInt64, cancel)
	}
	return i
}

// trace returns a context with which the first wait begins once the request is sent.
func (i *idleTimer) trace(ctx context.Context) context.Context {
	if i.timer == nil {
		return ctx
	}
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { i.reset() }})
}

// reset begins a new wait.
func (i *idleTimer) reset() {
	if i.timer != nil {
		i.timer.Reset(i.after)
	}
}

func (i *idleTimer) stop() {
	if i.timer != nil {
		i.timer.Stop()
	}
}

// h2Conn is a connection over HTTP/2, which many exchanges use at once. The pool's mutex guards its fields from used on.
type h2Conn struct {
	cc        *http.ClientConn
	wire      *QuotaConn
	used      int       // exchanges begun
	users     int       // exchanges under way
	retired   bool      // takes no more exchanges: out of the pool, closed with the last of those under way
	idleSince time.Time // since when there are no users
}

type tlsConnKey struct{}

// newHTTP2 returns what speaks HTTP/2 over connections that were made before, with bounds on what a server may make of them. It keeps none.
func newHTTP2() *http.Transport {
	t := &http.Transport{
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return ctx.Value(tlsConnKey{}).(*tls.Conn), nil
		},
		DisableCompression: true, ExpectContinueTimeout: expectContinue, MaxResponseHeaderBytes: maxHead, Protocols: new(http.Protocols),
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerStream: streamAhead, MaxReceiveBufferPerConnection: connAhead,
			SendPingTimeout: pingAfter, PingTimeout: pingTimeout, WriteByteTimeout: frameStalls,
		},
	}
	t.Protocols.SetHTTP2(true)
	return t
}

// newH2Conn begins to speak HTTP/2 over a connection on which the TLS handshake agreed on it.
func (c *Config) newH2Conn(ctx context.Context, conn *tls.Conn, wire *QuotaConn) (*h2Conn, error) {
	c.once.Do(func() { c.http2 = newHTTP2() })
	wire.Limit()
	cc, err := c.http2.NewClientConn(context.WithValue(ctx, tlsConnKey{}, conn), "https", "server:443")
	if err != nil {
		conn.Close()
		return nil, exchangeError(err)
	}
	return &h2Conn{cc: cc, wire: wire}, nil
}

// join adds an exchange to the connection; false where it takes no more. The pool's mutex must be held.
func (s *h2Conn) join() bool {
	if s.retired || s.users >= maxPerH2Conn || s.cc.Reserve() != nil {
		return false
	}
	s.used++
	s.users++
	s.wire.Allow(Overhead)
	return true
}

// leave ends an exchange. A connection that something was wrong with takes no more, and is closed with the last.
func (p *Pool) leave(k key, s *h2Conn, fine bool) {
	p.mu.Lock()
	s.users--
	s.idleSince = time.Now()
	if !fine || p.closed {
		p.retire(k, s)
	}
	over := s.users == 0 && s.retired
	if s.users == 0 {
		s.wire.Limit()
	}
	p.mu.Unlock()
	if over {
		hangUp(s.cc)
	}
}

// retire takes a connection out of the pool: it takes no more exchanges. The mutex must be held.
func (p *Pool) retire(k key, s *h2Conn) {
	if s.retired {
		return
	}
	s.retired = true
	if i := slices.Index(p.h2[k], s); i >= 0 {
		p.h2Count--
		if p.h2[k] = slices.Delete(p.h2[k], i, i+1); len(p.h2[k]) == 0 {
			delete(p.h2, k)
		}
	}
}

// exchangeHTTP2 is exchange over HTTP/2.
func (p *Pool) exchangeHTTP2(ctx context.Context, k key, s *h2Conn, r *Request, buf []byte) (_ *Response, err error, again bool) {
	p.mu.Lock()
	first := s.used == 1
	p.mu.Unlock()
	bound, cancel := context.WithDeadline(ctx, r.Deadline)
	defer cancel()
	idle := newIdleTimer(r.Read, cancel)
	defer idle.stop()
	answer, err := s.cc.RoundTrip(r.forHTTP2(idle.trace(bound), k))
	answered := err == nil
	var response *Response
	if answered {
		idle.reset()
		response, err = receiveHTTP2(answer, r, buf, s.wire, idle)
	}
	refused := isRefused(err)
	p.leave(k, s, err == nil || errors.Is(err, ErrTooLarge) || refused)
	switch {
	case ctx.Err() != nil:
		return nil, &Error{KindCanceled, "Access was taken away", context.Cause(ctx)}, false
	case err == nil:
		return response, nil, false
	case bound.Err() != nil:
		return nil, exchangeError(context.DeadlineExceeded), false
	}
	failure := exchangeError(err)
	return nil, failure, refused || !first && !answered && failure.Kind == KindBroken && idempotent(r.Method)
}

// isRefused says whether a server declined a request before it did anything about it (RFC 9113, section 8.7). That happens where requests arrive
// before the server's first settings, with how many it takes at once, have.
func isRefused(err error) bool {
	var reset http2.StreamError
	return errors.As(err, &reset) && reset.Code == http2.ErrCodeRefusedStream
}

// forHTTP2 is the request as net/http takes it.
func (r *Request) forHTTP2(ctx context.Context, k key) *http.Request {
	q := &http.Request{
		Method: r.Method, URL: urlpath.RequestURL("https", k.host, r.Path), Host: r.Host, Header: make(http.Header, len(r.Fields)+1),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, ContentLength: int64(len(r.Body)),
	}
	for _, f := range r.Fields {
		name := textproto.CanonicalMIMEHeaderKey(f.Name)
		if name == "Expect" {
			name = "expect" // as HTTP/2 has it on the wire; net/http knows it by the other spelling only, and would wait for 100 (Continue)
		}
		q.Header[name] = append(q.Header[name], f.Value)
	}
	if len(r.Body) > 0 {
		q.Body = io.NopCloser(bytes.NewReader(r.Body))
	}
	return q.WithContext(ctx)
}

// receiveHTTP2 reads an answer. HTTP/2 has no spelling of names, and net/http no order: names come in the usual spelling,
// sorted; the values of one name in the server's order.
func receiveHTTP2(answer *http.Response, r *Request, buf []byte, wire *QuotaConn, idle *idleTimer) (*Response, error) {
	defer answer.Body.Close()
	response := &Response{Status: answer.StatusCode, Body: buf, HTTP2: true}
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
	body, err := readAll(buf, quotaBody{answer.Body, wire, idle}, int(answer.ContentLength), r, response.Fields)
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
