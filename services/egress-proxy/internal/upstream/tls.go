package upstream

import (
	"context"
	"crypto/tls"
	"net"
	"time"
)

// Protocols that are offered in a TLS handshake (RFC 7301).
const (
	HTTP1 = "http/1.1"
	HTTP2 = "h2"
)

// Handshake begins TLS with the target over a connection to it, which it closes if that fails. The certificate must be for Target.Host. Errors
// are of type *Error.
func (c *Config) Handshake(ctx context.Context, t *Target, raw net.Conn, deadline time.Time, protocols ...string) (*tls.Conn, error) {
	cfg := c.TLS().Clone()
	cfg.ServerName = t.Host
	cfg.NextProtos = protocols
	secured := tls.Client(raw, cfg)
	bound, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	if err := secured.HandshakeContext(bound); err != nil {
		raw.Close()
		return nil, handshakeError(err)
	}
	return secured, nil
}

// Failure says, as an *Error, why a request could not be sent or an answer not be read in a Stream or over a connection of Connect.
func Failure(err error) *Error { return exchangeError(err) }
