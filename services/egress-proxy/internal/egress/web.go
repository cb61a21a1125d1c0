package egress

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
	"sync"
	"sync/atomic"
	"time"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/decision"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/urlpath"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/upstream"
)

const (
	webIdle      = 60 * time.Second
	writeStalls  = time.Minute // for a server to take the next 16 KiB of a request
	webIdleConns = 64
	streamAhead  = 256 << 10 // bytes of an answer over HTTP/2 that are there before the pack reads them
)

// web is the transport of what comes as HTTP, for as long as a session lasts. Its connections are told apart by what was
// judged, not by name alone: the URL's host is a digest of both.
type web struct {
	pools *upstream.Config

	mu        sync.Mutex
	closed    bool
	transport *http.Transport // made when it is first needed
}

// dialTarget is what a request brings to the connection that is made for it.
type dialTarget struct {
	target  *upstream.Target
	session *session
	upgrade bool // asks for WebSocket, which HTTP/1.1 alone has here
}

type dialTargetKey struct{}

func (w *web) roundTrip(r *http.Request) (*http.Response, error) {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil, context.Canceled
	}
	if w.transport == nil {
		w.transport = w.newTransport()
	}
	t := w.transport
	w.mu.Unlock()
	return t.RoundTrip(r)
}

func (w *web) newTransport() *http.Transport {
	t := &http.Transport{
		DialContext: w.dial, DialTLSContext: w.dialTLS,
		DisableCompression: true, ExpectContinueTimeout: time.Second,
		IdleConnTimeout: webIdle, MaxIdleConns: webIdleConns, MaxIdleConnsPerHost: webIdleConns / 2,
		MaxResponseHeaderBytes: 256 << 10, ReadBufferSize: 16 << 10, WriteBufferSize: 16 << 10,
		Protocols: new(http.Protocols),
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerStream: streamAhead, MaxReceiveBufferPerConnection: 4<<20 - 1,
			SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second, WriteByteTimeout: 30 * time.Second,
		},
	}
	t.Protocols.SetHTTP1(true)
	t.Protocols.SetHTTP2(true)
	return t
}

// boundConn is a connection that ends with the session that it was made in.
type boundConn struct {
	*upstream.QuotaConn
	stop func() bool
}

// Write implements net.Conn. A server that takes nothing of a request for long is given up: the client may have left, which
// shows behind what it had sent only. HTTP/2 has such a bound of its own.
func (l *boundConn) Write(p []byte) (int, error) {
	if err := l.SetWriteDeadline(time.Now().Add(writeStalls)); err != nil {
		return 0, err
	}
	return l.QuotaConn.Write(p)
}

func (l *boundConn) Close() error {
	l.stop()
	return l.QuotaConn.Close()
}

// withQuota is ctx for a request over TLS. grant lets its server send what goes with n bytes of its body.
func withQuota(ctx context.Context) (_ context.Context, grant func(n int)) {
	var used atomic.Pointer[boundConn]
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) {
		if secured, ok := got.Conn.(*tls.Conn); ok {
			if l, ok := secured.NetConn().(*boundConn); ok {
				l.Grant(upstream.Overhead)
				used.Store(l)
			}
		}
	}})
	return ctx, func(n int) {
		if l := used.Load(); l != nil {
			l.Grant(upstream.FrameRatio * n)
		}
	}
}

// dial makes a connection to where a request with the same digest was judged to go.
func (w *web) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	conn, err := w.reach(ctx.Value(dialTargetKey{}).(dialTarget), time.Now().Add(defaultConnect))
	if err != nil {
		return nil, err
	}
	return conn, nil
}

func (w *web) reach(j dialTarget, deadline time.Time) (*boundConn, error) {
	conn, _, err := w.pools.Reach(j.session.ctx, j.target, deadline)
	if err != nil {
		return nil, err
	}
	return &boundConn{upstream.NewQuotaConn(conn), context.AfterFunc(j.session.ctx, func() { conn.Close() })}, nil
}

// dialTLS is dial with TLS. The transport goes by the protocol that was agreed on there.
func (w *web) dialTLS(ctx context.Context, _, _ string) (net.Conn, error) {
	j, deadline := ctx.Value(dialTargetKey{}).(dialTarget), time.Now().Add(defaultConnect)
	conn, err := w.reach(j, deadline)
	if err != nil {
		return nil, err
	}
	protocols := []string{upstream.HTTP2, upstream.HTTP1}
	if j.upgrade {
		protocols = protocols[1:]
	}
	secured, err := w.pools.Secure(j.session.ctx, j.target, conn, deadline, protocols...)
	if err != nil {
		return nil, err
	}
	if secured.ConnectionState().NegotiatedProtocol == upstream.HTTP2 {
		conn.Bind()
	}
	return secured, nil
}

func (w *web) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	if w.transport != nil {
		w.transport.CloseIdleConnections()
	}
}

// webURL is a destination as a URL for the transport.
func webURL(to decision.Destination, t *upstream.Target) *url.URL {
	digest := sha256.Sum256([]byte(t.Host + "\n" + t.ID))
	return urlpath.RequestURL(to.Scheme(), hex.EncodeToString(digest[:16])+":"+strconv.Itoa(int(to.Port)), to.Path)
}
