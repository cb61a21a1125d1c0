package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/rumi-ai/rumi/libs/origin"
)

// HTTPS is a listener for clients that hold no certificate of the suite: TLS with cfg on l. A client that speaks plain HTTP to it is answered in
// the envelope, with the code https_required, and its connection is closed.
func HTTPS(l net.Listener, cfg *tls.Config, log *slog.Logger) net.Listener {
	return httpsListener{l, cfg, log}
}

type httpsListener struct {
	net.Listener
	cfg *tls.Config
	log *slog.Logger
}

func (l httpsListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &httpsConn{Conn: tls.Server(&sniffedConn{Conn: conn, log: l.log}, l.cfg), log: l.log}, nil
}

// httpsConn says of a handshake that fails only that the connection has ended. http.Server would answer the error otherwise, over a connection
// that can carry no answer, and log what any port scanner causes.
type httpsConn struct {
	*tls.Conn
	log     *slog.Logger
	greeted bool
}

// Read implements net.Conn. http.Server reads before it writes; its first Read makes the handshake, within the time that a header may take.
func (c *httpsConn) Read(p []byte) (int, error) {
	if !c.greeted {
		if err := c.HandshakeContext(context.Background()); err != nil { // bounded by the read deadline
			c.log.Debug("could not make a TLS connection", "address", c.RemoteAddr().String(), "error", err)
			return 0, io.EOF
		}
		c.greeted = true
	}
	return c.Conn.Read(p)
}

// sniffedConn answers a client that begins with the name of a method instead of a TLS record.
type sniffedConn struct {
	net.Conn
	log  *slog.Logger
	read bool
}

const (
	// drainBytes and drainTime bound what is read after the answer to such a client: a connection that is closed with unread bytes is reset,
	// and a reset takes the answer away.
	drainBytes = 1 << 20
	drainTime  = time.Second
)

// Read implements net.Conn.
func (c *sniffedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.read || n == 0 {
		return n, err
	}
	c.read = true
	if !plainHTTP(p[:n]) {
		return n, err
	}
	c.refuse()
	return 0, io.EOF
}

// plainHTTP says whether a connection's first bytes are those of a plain request: capital letters, the rest may still come. A TLS record begins
// with the byte 22.
func plainHTTP(p []byte) bool {
	method, _, _ := bytes.Cut(p, []byte(" "))
	for _, b := range method {
		if b < 'A' || b > 'Z' {
			return false
		}
	}
	return len(method) > 0
}

func (c *sniffedConn) refuse() {
	id := origin.NewRequestID()
	c.log.Info("refused plain HTTP: this port speaks HTTPS", "address", c.RemoteAddr().String(), "request_id", id)
	answer, err := envelope(400, failure{"https_required", "HTTPS required", "this port speaks HTTPS: write https:// instead of http://"}, id)
	if err != nil || c.SetDeadline(time.Now().Add(drainTime)) != nil {
		return
	}
	if _, err := c.Write(answer); err != nil {
		return
	}
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_, _ = io.CopyN(io.Discard, c.Conn, drainBytes)
	}
}
