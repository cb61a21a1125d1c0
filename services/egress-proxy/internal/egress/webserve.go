package egress

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

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/decision"

	"github.com/rumi-ai/rumi/libs/uds"
)

// lingering bounds what is read of a request that was answered before its end, so that its sender gets to reading the
// answer.
const (
	lingerBytes = 16 << 20
	lingerTime  = 5 * time.Second
	drainBytes  = 256 << 10 // of a body that is read to its end, to keep the connection
)

// past is a deadline that ends what is under way.
var past = time.Unix(1, 0)

// client is a connection that speaks HTTP/1.1 to its proxy (RFC 9110, section 3.7; RFC 9112, sections 3.2.2 and 3.2.3).
type client struct {
	pack   *pack
	ctx    context.Context // ends when the client is gone, and with its socket
	stream *uds.Stream
	inside *decision.Destination // of a tunnel in which HTTP/1.1 is spoken: where its requests go; nil outside of one
	in     *bufio.Reader
	out    *bufio.Writer
	closes bool // after the answer

	mu        sync.Mutex
	answering bool // an answer has begun: it is too late for 100 (Continue)
}

// webBuffers are what a request needs; resting connections hold none.
type webBuffers struct {
	in  *bufio.Reader
	out *bufio.Writer
}

var webPool = sync.Pool{New: func() any {
	return &webBuffers{bufio.NewReaderSize(nil, maxHead), bufio.NewWriterSize(nil, copyBuffer+64)}
}}

// Stream implements uds.Streamer.
func (h *handler) Stream(ctx context.Context, s *uds.Stream) {
	c := &client{pack: h.pack(ctx), ctx: ctx, stream: s}
	for {
		b := webPool.Get().(*webBuffers)
		b.in.Reset(s)
		b.out.Reset(s)
		c.in, c.out = b.in, b.out
		for again := true; again; again = c.in.Buffered() > 0 {
			if !c.exchange() {
				return // with the buffers, which somebody may still read into
			}
		}
		b.in.Reset(nil)
		b.out.Reset(nil)
		webPool.Put(b)
		if !s.Rest() {
			return
		}
	}
}

// exchange reads one request, of which the first byte is there, and answers it. It says whether to go on.
func (c *client) exchange() bool {
	began := time.Now()
	r := &result{overHTTP: true}
	head, err := c.head()
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		r.failure = errHeadTooLong
	case errors.Is(err, os.ErrDeadlineExceeded):
		r.failure = errHeadTooSlow
	case err != nil:
		return false
	default:
		r.call.method, r.destination, r.failure = checkHead(head, c.inside)
	}
	if r.failure != nil { // where it ends is anybody's guess
		c.closes = true
		c.refuse(r, began)
		c.linger()
		return false
	}
	maskPercents(head)
	request, err := http.ReadRequest(c.in)
	if err != nil {
		r.failure = errNotHTTP
		c.closes = true
		c.refuse(r, began)
		c.linger()
		return false
	}
	r.traceContext = traceContextOf(request.Header)
	c.closes = request.Close || !request.ProtoAtLeast(1, 1)
	c.answering = false
	select {
	case c.pack.streams <- struct{}{}:
		defer func() { <-c.pack.streams }()
	default:
		r.failure, c.closes = decision.TooManyStreams, true
		c.refuse(r, began)
		c.linger()
		return false
	}
	if request.Method == http.MethodConnect {
		return c.tunnel(r, began)
	}
	c.forward(r, request, began)
	return !c.closes
}

// finish writes down what came of a request that was answered as far as it could be.
func (c *client) finish(r *result, began time.Time) error {
	r.latency = time.Since(began)
	return c.pack.record(r)()
}

// statusLine is the server's, with its own reason phrase.
func (c *client) statusLine(response *http.Response) {
	c.out.WriteString("HTTP/1.1 ")
	c.out.WriteString(strconv.Itoa(response.StatusCode))
	c.out.WriteByte(' ')
	_, reason, _ := strings.Cut(response.Status, " ")
	c.out.WriteString(printable(reason))
	c.out.WriteString("\r\n")
}

// begin must be called before anything of an answer is written.
func (c *client) begin() {
	c.mu.Lock()
	c.answering = true
	c.mu.Unlock()
}

// proceed tells a client that waits for it to send its body.
func (c *client) proceed() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.answering {
		return nil
	}
	_, err := io.WriteString(c.stream, "HTTP/1.1 100 Continue\r\n\r\n")
	return err
}

// linger takes what a client still sends, for a while.
func (c *client) linger() {
	c.stream.CloseWrite()
	c.stream.SetReadDeadline(time.Now().Add(lingerTime))
	io.CopyN(io.Discard, c.in, lingerBytes)
}
