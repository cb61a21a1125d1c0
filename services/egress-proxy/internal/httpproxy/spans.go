package httpproxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/decision"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/packspans"
)

// spansTimeout bounds the time from the first byte of a body with spans to its last.
const spansTimeout = 10 * time.Second

// Spans takes the spans that packs make themselves: see packspans.Intake.
type Spans interface {
	Serve(ctx context.Context, packID string, gate func() *decision.Failure, in *http.Request) packspans.Answer
}

// The targets and hosts of a request with spans. Its target has no host (origin form), as one to a web server: a request to a proxy names the server
// in the target (RFC 9112, section 3.2.2), so no request to a server can be taken for spans. PID 1 relays 127.0.0.1:4318 in a pack's container to
// its socket; asking for that host, too, refuses as before what a client has sent to the proxy by mistake.
var (
	spanTargets = []string{"/v1/traces", "/v1/metrics", "/v1/logs"}
	spanHosts   = []string{"127.0.0.1:4318", "localhost:4318"}
)

// hasSpans says whether a head is one of a request to this proxy itself, with spans or what else OpenTelemetry sends. It is asked before anything is
// decided on, and costs other requests one comparison.
func hasSpans(head []byte) bool {
	if !bytes.HasPrefix(head, []byte("POST /v1/")) {
		return false
	}
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(head)))
	return err == nil && slices.Contains(spanTargets, r.RequestURI) && slices.Contains(spanHosts, r.Host)
}

// takeSpans answers such a request. It isn't recorded as a request of the pack's to a server: there is none. It says whether the connection goes on.
func (c *clientConn) takeSpans() bool {
	request, err := http.ReadRequest(c.in)
	if err != nil {
		return false // hasSpans has read the same head
	}
	c.closeAfter = request.Close || !request.ProtoAtLeast(1, 1)
	c.responding = false
	body := &spansBody{client: c, Reader: request.Body, length: request.ContentLength, awaitsContinue: request.Header.Get("Expect") != ""}
	request.Body = io.NopCloser(body)
	answer := packspans.Answer{Status: http.StatusServiceUnavailable, RetryAfter: time.Second}
	if c.pack.AcquireStream() {
		defer c.pack.ReleaseStream()
		answer = c.spans.Serve(c.stream.Sends(), c.pack.ID, c.pack.Gate, request)
	}
	ended := body.end()
	c.closeAfter = c.closeAfter || !ended
	c.answerSpans(answer)
	if !ended {
		c.linger()
	}
	return !c.closeAfter
}

func (c *clientConn) answerSpans(a packspans.Answer) {
	c.beginResponse()
	c.out.WriteString("HTTP/1.1 " + strconv.Itoa(a.Status) + " " + http.StatusText(a.Status) + "\r\n")
	if a.ContentType != "" {
		c.out.WriteString("Content-Type: " + a.ContentType + "\r\n")
	}
	if a.RetryAfter > 0 {
		c.out.WriteString("Retry-After: " + strconv.Itoa(int(math.Ceil(a.RetryAfter.Seconds()))) + "\r\n")
	}
	if c.closeAfter {
		c.out.WriteString("Connection: close\r\n")
	}
	c.out.WriteString("Content-Length: " + strconv.Itoa(len(a.Body)) + "\r\n\r\n")
	c.out.Write(a.Body)
	if c.out.Flush() != nil {
		c.closeAfter = true
	}
}

// spansBody is the body of a request with spans.
type spansBody struct {
	client         *clientConn
	io.Reader            // of net/http
	length         int64 // -1 for one that isn't known
	awaitsContinue bool
	begun          bool
	err            error // io.EOF once it was read to its end
}

// Read implements io.Reader. The time for the body begins when it is first asked for: until then others' turns may come first.
func (b *spansBody) Read(p []byte) (int, error) {
	if !b.begun {
		b.begun = true
		b.client.stream.SetReadDeadline(time.Now().Add(spansTimeout))
		if b.awaitsContinue && b.client.sendContinue() != nil {
			b.err = errClient
		}
	}
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.Reader.Read(p)
	b.err = err
	return n, err
}

// end reads a short rest of the body, and says whether all of it was read, so that another request may follow.
func (b *spansBody) end() bool {
	if b.begun || !b.awaitsContinue && b.length <= drainBytes {
		_, _ = io.CopyN(io.Discard, b, drainBytes)
	}
	b.client.stream.SetReadDeadline(time.Time{})
	return errors.Is(b.err, io.EOF)
}
