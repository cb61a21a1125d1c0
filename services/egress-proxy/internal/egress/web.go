package egress

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/upstream"
)

const (
	firstAnswer  = 120 * time.Second // a server must begin its answer within
	webIdle      = 60 * time.Second
	webIdleConns = 64
)

// web is the transport of what comes as HTTP, for as long as an access lasts. Its connections are told apart by what was
// judged, not by name alone: the URL's host is a digest of both.
type web struct {
	pools *upstream.Config

	mu        sync.Mutex
	closed    bool
	transport *http.Transport // made when it is first needed
}

// judged is what a request brings to the connection that is made for it.
type judged struct {
	target *upstream.Target
	access *access
}

type judgedKey struct{}

func (w *web) roundTrip(r *http.Request) (*http.Response, error) {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil, context.Canceled
	}
	if w.transport == nil {
		w.transport = &http.Transport{
			DialContext: w.dial, DialTLSContext: w.dial,
			DisableCompression: true, ResponseHeaderTimeout: firstAnswer, ExpectContinueTimeout: time.Second,
			IdleConnTimeout: webIdle, MaxIdleConns: webIdleConns, MaxIdleConnsPerHost: webIdleConns / 2,
			MaxResponseHeaderBytes: 256 << 10, ReadBufferSize: 16 << 10, WriteBufferSize: 16 << 10,
		}
	}
	t := w.transport
	w.mu.Unlock()
	return t.RoundTrip(r)
}

// dial makes a connection to where a request with the same digest was judged to go.
func (w *web) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	j := ctx.Value(judgedKey{}).(judged)
	conn, _, err := w.pools.Connect(j.access.ctx, j.target, time.Now().Add(defaultConnect))
	return conn, err
}

func (w *web) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	if w.transport != nil {
		w.transport.CloseIdleConnections()
	}
}

// webURL is a place for the transport.
func webURL(to place, t *upstream.Target) *url.URL {
	digest := sha256.Sum256([]byte(t.Host + "\n" + t.ID))
	escaped, query, asked := strings.Cut(to.path, "?")
	decoded, err := url.PathUnescape(escaped)
	if err != nil {
		decoded = escaped // which the caller sees, since it is then escaped anew
	}
	u := &url.URL{
		Scheme: "http", Host: hex.EncodeToString(digest[:16]) + ":" + strconv.Itoa(int(to.port)),
		Path: decoded, RawPath: escaped, RawQuery: query, ForceQuery: asked && query == "",
	}
	if to.tls {
		u.Scheme = "https"
	}
	return u
}
