package client

import (
	"context"
	"crypto/x509"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/rumi-ai/rumi/libs/identity"
)

// retiredShare is the part of a certificate's life for which http.Transport may keep a connection that nobody uses. A server answers with
// "Connection: close" once 5/6 of a certificate's life is over (identity.Conn.Retired), but http.Transport can't be asked before it uses a
// connection again. With a twelfth, one that was used before that moment ends another twelfth before the certificate.
const retiredShare = 12

// pool has the connections of the requests that direct doesn't take. It is another http.Transport for each certificate of ours: connections
// that stand on an old one take no further request, and end when they have answered.
type pool struct {
	id   *identity.Identity
	dial func(ctx context.Context, network, address string) (net.Conn, error)

	mu   sync.Mutex
	leaf *x509.Certificate
	now  *http.Transport
}

func (p *pool) transport() *http.Transport {
	p.mu.Lock()
	defer p.mu.Unlock()
	if leaf := p.id.Certificate(); leaf != p.leaf {
		if p.now != nil {
			p.now.CloseIdleConnections()
		}
		p.leaf, p.now = leaf, &http.Transport{
			DialTLSContext:        p.dial,
			MaxIdleConnsPerHost:   maxIdle,
			IdleConnTimeout:       min(idleTimeout, identity.Life(leaf)/retiredShare),
			ExpectContinueTimeout: time.Second,
			DisableCompression:    true,
			WriteBufferSize:       connBuffer,
			ReadBufferSize:        connBuffer,
		}
	}
	return p.now
}
