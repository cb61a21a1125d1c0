// Package upstream speaks HTTP/1.1 (RFC 9112) and HTTP/2 (RFC 9113) to the servers that packs reach: to addresses that were
// decided on, over the connections of one pack's session, with every byte bounded.
//
// There is one stack for all: one way to connect (Config.Connect, Config.Handshake), one pool for each session, and two ways to use it. Pool.Do
// holds a request and its answer in memory, for framed requests. Its HTTP/1.1 is written by hand, over net and crypto/tls: packs are promised
// the order and spelling of header fields, which net/http doesn't keep. Pool.NewStream passes bodies on as they come, for plain HTTP proxying;
// there net/http speaks HTTP/1.1. HTTP/2, of many thousand lines, is net/http's in both, and its connections are the same.
package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// Target is the server of a request.
type Target struct {
	TLS  bool
	Host string // name or address, in hostname's one form: what a certificate must be for
	Port uint16
	// Addrs are the addresses that were decided on. A pooled connection to any of them will do, but none to another: a name may have
	// resolved to an internal address since.
	Addrs []netip.Addr
	// ID names Addrs as a set.
	ID string
	// Close says that a connection over HTTP/1.1 must carry nothing after the request.
	Close bool
}

// Field is one header field.
type Field struct{ Name, Value string }

// Request is a request to send. Method, path and fields must have been validated: they are written as they are.
type Request struct {
	Method   string
	Path     string // the request target: path and query, beginning with /
	Host     string // the Host field
	Fields   []Field
	Body     []byte
	Deadline time.Time     // of the whole exchange
	Connect  time.Duration // for a connection to be made, handshake included; 0 for no bound but the deadline
	Read     time.Duration // longest wait for the next byte of the answer, once the request is sent; 0 for no bound but the deadline
	MaxBody  int           // longest body of an answer, in bytes; none is read of an answer to HEAD
	Budget   Budget        // reserved from before a body over SmallBody is read; nil for no bound
	Received *atomic.Int64 // counts the bytes of the body as they come; nil for nobody who wants to know
}

// SmallBody is the longest body that is read without reserving memory for it, in bytes.
const SmallBody = 64 << 10

// Budget bounds the memory that answers take together.
type Budget interface {
	// Reserve waits until there is memory for an answer with these fields and a body of that many bytes, until the request's deadline at most.
	Reserve(fields []Field, body int) error
}

// errOverBudget is a body for which there was no memory before the request's deadline.
var errOverBudget = &Error{Kind: KindTimeout, Text: "Request timed out"}

// Response is an answer. Body lies in the buffer that Do was given, or in a larger one.
type Response struct {
	Status int
	Fields []Field // in the server's order and spelling; see receiveHTTP2 for HTTP/2
	Body   []byte
	HTTP2  bool // came over HTTP/2
}

// Kind is why an exchange failed.
type Kind uint8

// The kinds.
const (
	KindBroken   Kind = iota // reset, cut short, or not HTTP
	KindTimeout              // the deadline or the connect bound has passed
	KindRefused              // no connection could be made
	KindTLS                  // handshake or certificate
	KindTooLarge             // the answer's body is over MaxBody
	KindCanceled             // the context ended: the session did, or the client left
)

// Error is a failed exchange. Text may be shown to a pack: it has no address in it.
type Error struct {
	Kind  Kind
	Text  string
	cause error
}

func (e *Error) Error() string {
	if e.cause != nil {
		return e.Text + ": " + e.cause.Error()
	}
	return e.Text
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.cause }

// ErrTooLarge is an answer with a body over Request.MaxBody.
var ErrTooLarge = &Error{Kind: KindTooLarge, Text: "Response too large"}

func broken(text string) *Error { return &Error{Kind: KindBroken, Text: text} }

// connectError says why a connection could not be made.
func connectError(err error) *Error {
	switch {
	case isTimeout(err):
		return &Error{KindTimeout, "Connection timed out", err}
	case errors.Is(err, syscall.ECONNREFUSED):
		return &Error{KindRefused, "Connection refused", err}
	default:
		return &Error{KindRefused, "Host is not reachable", err}
	}
}

// handshakeError says why TLS could not be spoken.
func handshakeError(err error) *Error {
	text := "TLS handshake failed"
	var (
		name      x509.HostnameError
		authority x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
		record    tls.RecordHeaderError
		remote    *net.OpError
	)
	switch {
	case isTimeout(err):
		return &Error{KindTimeout, "TLS handshake timed out", err}
	case errors.As(err, &name):
		text = "TLS certificate is for another name"
	case errors.As(err, &authority):
		text = "TLS certificate is signed by an unknown authority"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		text = "TLS certificate has expired or is not valid yet"
	case errors.As(err, &invalid):
		text = "TLS certificate is not valid"
	case errors.As(err, &record):
		text = "Server does not speak TLS"
	case errors.As(err, &remote) && remote.Op == "remote error": // how crypto/tls passes an alert on
		text = fmt.Sprintf("TLS handshake failed: server says %v", remote.Err)
	}
	return &Error{KindTLS, text, err}
}

// exchangeError says why a request could not be sent or an answer not be read.
func exchangeError(err error) *Error {
	var known *Error
	switch {
	case errors.As(err, &known):
		return known
	case isTimeout(err):
		return &Error{KindTimeout, "Request timed out", err}
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return &Error{KindBroken, "Server reset the connection", err}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &Error{KindBroken, "Server closed the connection before the end of its answer", err}
	default:
		return &Error{KindBroken, "Connection to the server failed", err}
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}
