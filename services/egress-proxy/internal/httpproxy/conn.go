// Package httpproxy serves packs that speak to the proxy as HTTP clients do to any: requests in absolute form, CONNECT tunnels, and WebSocket
// (contract.md, "Egress"). Bodies are passed on as they come, in both directions.
//
// A tunnel isn't opaque: it must begin with TLS for the name that was decided on, or with HTTP/1.1, of which each request is then decided on.
package httpproxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rumi-ai/rumi/libs/uds"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/decision"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/record"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/session"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/upstream"
)

// What is read of a request that was answered before its end. A connection that is closed with bytes unread is reset, and the reset may reach
// the client before it has read the answer.
const (
	lingerBytes = 16 << 20
	lingerTime  = 5 * time.Second
	drainBytes  = 256 << 10 // of a body that is read to its end, to keep the connection
)

// authorizeTimeout bounds the look-up of a request's name, and with it the decision.
const authorizeTimeout = 30 * time.Second

// past is a deadline that ends the read or write under way.
var past = time.Unix(1, 0)

// clientConn is a connection of a pack's that speaks HTTP/1.1 to us as its proxy (RFC 9110, section 3.7; RFC 9112, sections 3.2.2 and 3.2.3).
type clientConn struct {
	pack       *session.Pack
	recorder   *record.Recorder
	spans      Spans
	ctx        context.Context // ends when the client disconnects, and with its socket
	stream     *uds.Stream
	tunnelTo   *decision.Destination // in a tunnel in which HTTP/1.1 is spoken: where its requests go; nil outside of one
	in         *bufio.Reader
	out        *bufio.Writer
	closeAfter bool      // after the answer
	read       time.Time // when the head of the request was: decisions are measured from here, not from its first byte, after which a pack may dawdle

	mu         sync.Mutex
	responding bool // an answer has begun: it is too late for 100 (Continue)
}

// buffers are what a request needs; idle connections have none.
type buffers struct {
	in  *bufio.Reader
	out *bufio.Writer
}

var bufferPool = sync.Pool{New: func() any {
	return &buffers{bufio.NewReaderSize(nil, maxHead), bufio.NewWriterSize(nil, copyBuffer+64)}
}}

// Serve answers the requests that come over a stream of a pack's, one after the other, until the stream ends. ctx is of the stream; see
// uds.Streamer.
func Serve(ctx context.Context, pack *session.Pack, recorder *record.Recorder, spans Spans, s *uds.Stream) {
	c := &clientConn{pack: pack, recorder: recorder, spans: spans, ctx: ctx, stream: s}
	for {
		b := bufferPool.Get().(*buffers)
		b.in.Reset(s)
		b.out.Reset(s)
		c.in, c.out = b.in, b.out
		for again := true; again; again = c.in.Buffered() > 0 {
			if !c.exchange() {
				return // with the buffers: net/http's transport may still read the request's body from them
			}
		}
		b.in.Reset(nil)
		b.out.Reset(nil)
		bufferPool.Put(b)
		if !s.WaitIdle() {
			return
		}
	}
}

// exchange reads one request, of which the first byte is there, and answers it. It says whether the connection goes on.
func (c *clientConn) exchange() bool {
	began := time.Now()
	head, err := c.head()
	if err == nil && c.tunnelTo == nil && hasSpans(head) {
		return c.takeSpans()
	}
	r := &record.Result{OverHTTP: true}
	request, err := c.readRequest(r, head, err)
	switch {
	case err != nil:
		return false
	case r.Failure != nil: // where the request ends is unknown, and so where another one begins
		return c.refuseAndClose(r, began)
	}
	c.read = time.Now()
	r.Trace = record.TraceOfHeader(request.Header)
	c.closeAfter = request.Close || !request.ProtoAtLeast(1, 1)
	c.responding = false
	if !c.pack.AcquireStream() {
		r.Failure = decision.TooManyStreams
		return c.refuseAndClose(r, began)
	}
	defer c.pack.ReleaseStream()
	if request.Method == http.MethodConnect {
		return c.tunnel(r, began)
	}
	c.forward(r, request, began)
	return !c.closeAfter
}

// readRequest reads a request up to its body, and what it asks for into r. head and err are of method head. What is wrong with the request is
// r.Failure; the error is the connection's.
func (c *clientConn) readRequest(r *record.Result, head []byte, err error) (*http.Request, error) {
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		r.Failure = errHeadTooLong
		return nil, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		r.Failure = errHeadTooSlow
		return nil, nil
	case err != nil:
		return nil, err
	}
	if r.Method, r.Destination, r.Failure = checkHead(head, c.tunnelTo); r.Failure != nil {
		return nil, nil
	}
	maskPercents(head)
	request, err := http.ReadRequest(c.in)
	if err != nil {
		r.Failure = errNotHTTP
	}
	return request, nil
}

// authorize decides on a request, and resolves its name. ctx is of s.With.
func (c *clientConn) authorize(ctx context.Context, s *session.Session, r *record.Result, hasBody bool, began time.Time) (*upstream.Target, *decision.Failure) {
	target, f := c.pack.Decide(r.Request(hasBody))
	c.recorder.Decided(r, time.Since(c.read))
	if f != nil || target.Addrs != nil {
		return target, f
	}
	return c.pack.Resolve(ctx, s, target, r.Destination, began.Add(authorizeTimeout))
}

// refuseAndClose refuses a request behind which no other can be read. It returns false: the connection doesn't go on.
func (c *clientConn) refuseAndClose(r *record.Result, began time.Time) bool {
	c.closeAfter = true
	c.refuse(r, began)
	c.linger()
	return false
}

// finish records a request that was answered as far as it could be.
func (c *clientConn) finish(r *record.Result, began time.Time) error {
	r.Latency = time.Since(began)
	return c.recorder.Record(c.pack.ID, r)()
}

// statusLine writes the server's status, with its own reason phrase.
func (c *clientConn) statusLine(response *http.Response) {
	c.out.WriteString("HTTP/1.1 ")
	c.out.WriteString(strconv.Itoa(response.StatusCode))
	c.out.WriteByte(' ')
	_, reason, _ := strings.Cut(response.Status, " ")
	c.out.WriteString(printable(reason))
	c.out.WriteString("\r\n")
}

// beginResponse must be called before anything of an answer is written: from then on no interim answer may be.
func (c *clientConn) beginResponse() {
	c.mu.Lock()
	c.responding = true
	c.mu.Unlock()
}

// sendContinue sends 100 (Continue) to a client that waits for it before it sends its body.
func (c *clientConn) sendContinue() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.responding {
		return nil
	}
	_, err := io.WriteString(c.stream, "HTTP/1.1 100 Continue\r\n\r\n")
	return err
}

// linger reads and drops what a client still sends, for a while, so that it gets to reading its answer.
func (c *clientConn) linger() {
	c.stream.CloseWrite()
	c.stream.SetReadDeadline(time.Now().Add(lingerTime))
	io.CopyN(io.Discard, c.in, lingerBytes)
}

// errClient marks an error of the pack's connection.
var errClient = errors.New("write answer")

func (c *clientConn) flush() error {
	if err := c.out.Flush(); err != nil {
		return errClient
	}
	return nil
}
