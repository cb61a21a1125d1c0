package httpproxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/decision"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/headers"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/record"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/session"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/upstream"
)

const (
	copyBuffer = 32 << 10
	maxInterim = 256 << 10 // bytes of the interim answers before one answer
	longBody   = 64 << 10  // bytes; a request with a longer body, or one of unknown length, has an entry of its beginning
)

// upload is a request's body on its way to the server.
type upload struct {
	client         *clientConn
	body           io.Reader
	awaitsContinue bool // the client sends nothing before 100 (Continue)
	server         *upstream.Stream
	trailer        http.Header // is complete when the body came to its end

	transfer *record.Transfer // whose bytes it counts; nil for a request that was refused

	mu        sync.Mutex
	closed    bool  // nothing more may be read: the exchange is over
	complete  bool  // the body was read to its end
	err       error // the client's
	overQuota bool  // the pack may send no more today
}

// Read implements io.Reader for the transport. The transport may still read once it has returned an answer, from a goroutine of its own: a server
// may answer before the body has come to its end. closed keeps it from the client's next request then.
func (u *upload) Read(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return 0, errors.New("read request body: the exchange is over")
	}
	if u.awaitsContinue {
		u.awaitsContinue = false
		if err := u.client.sendContinue(); err != nil {
			u.err = err
			return 0, err
		}
	}
	n, err := u.body.Read(p)
	if u.client.pack.Spend(n) != nil { // before the bytes go out: what isn't sent isn't spent, but nothing is sent unspent
		u.overQuota = true
		return 0, errQuotaExceeded
	}
	u.transfer.AddSent(n)
	u.server.Allow(n) // for the window updates with which the server acknowledges it
	switch {
	case err == io.EOF:
		u.complete = true
		headers.Strip(u.trailer) // of fields that weren't announced, too
	case err != nil:
		u.err = err
	}
	return n, err
}

// Close implements io.Closer. What is left of the body is dealt with when the exchange is over.
func (u *upload) Close() error { return nil }

// stop ends reading, and says whether the body was read to its end. net/http's transport may still be in Read, and would otherwise take bytes of
// the client's next request for the rest of this body.
func (u *upload) stop() bool {
	u.mu.Lock()
	ended := u.complete
	u.mu.Unlock()
	if ended {
		return true
	}
	u.client.stream.SetReadDeadline(past) // a Read that waits
	u.mu.Lock()
	u.closed = true
	ended = u.complete
	u.mu.Unlock()
	u.client.stream.SetReadDeadline(time.Time{})
	return ended
}

// forwarding is a plain HTTP request under way.
type forwarding struct {
	*clientConn
	result  *record.Result
	session *session.Session
	bound   context.Context // ends with the session, and when the client leaves
	request *http.Request
	body    *upload
	began   time.Time
}

// forward sends a request to its server and streams the answer back. A client that closes its connection, or its sending half, before it has the
// answer is taken to have left, as by net/http's server. The server then sees the end of its own connection.
func (c *clientConn) forward(r *record.Result, in *http.Request, began time.Time) {
	s := c.pack.Session() // before anything is decided on; see package session
	ctx, cancel := context.WithCancel(s.Context())
	defer cancel()
	unwatch := context.AfterFunc(c.stream.Sends(), cancel)
	defer unwatch()
	f := &forwarding{clientConn: c, result: r, session: s, bound: ctx, request: in, began: began, body: &upload{
		client: c, body: in.Body, awaitsContinue: in.Header.Get("Expect") != "", complete: in.ContentLength == 0,
	}}
	f.bound = c.recorder.Open(f.bound, c.pack.ID, r, began)
	if parent := r.Upstream(); parent != "" {
		in.Header["Traceparent"] = []string{parent}
	}
	out, response, failure := f.roundTrip()
	if failure != nil {
		r.Failure = failure
		c.refuseWithBody(r, f.body, began)
		return
	}
	defer response.Body.Close()
	r.Status = response.StatusCode
	// From here on there is an answer under way: that the session ended can be shown only by the connection's end.
	stop := s.AfterEnd(func() { c.stream.Close() })
	defer stop()
	if response.StatusCode == http.StatusSwitchingProtocols {
		unwatch() // it may half close now
		c.upgrade(s, r, out, response, f.body, began)
		return
	}
	f.respond(response)
}

// roundTrip decides on the request and sends it to its server. out is the request that was sent. The answer's body is still to be read.
func (f *forwarding) roundTrip() (out *http.Request, response *http.Response, failure *decision.Failure) {
	r := f.result
	target, failure := f.authorize(f.bound, f.session, r, f.request.ContentLength != 0, f.began)
	if failure == nil {
		failure = f.startTransfer(r, f.request, f.began)
	}
	if failure != nil {
		return nil, nil, failure
	}
	f.body.transfer = r.Transfer
	f.body.server = f.session.Pool.NewStream(target, headers.IsWebSocket(f.request.Header))
	ctx := httptrace.WithClientTrace(f.bound, &httptrace.ClientTrace{Got1xxResponse: f.interim(f.request)})
	out = outgoing(ctx, f.request, r.Destination, target, f.body)
	if out.URL.RequestURI() != r.Destination.Path { // what is sent must be what was decided on
		return nil, nil, decision.Invalid("Invalid path in URL")
	}
	response, err := f.body.server.RoundTrip(out)
	switch {
	case err != nil:
		return nil, nil, f.roundTripFailure(err)
	case response.StatusCode < 100: // which net/http lets pass, and no client understands
		response.Body.Close()
		return nil, nil, f.roundTripFailure(&upstream.Error{Kind: upstream.KindBroken, Text: "Server sent an invalid status"})
	case isEvents(response) && f.recorder.Begin(r.Transfer) != nil:
		response.Body.Close()
		f.closeAfter = true
		return nil, nil, decision.Internal
	}
	return out, response, nil
}

// respond streams the answer to the client, and records what came of the request.
func (f *forwarding) respond(response *http.Response) {
	r := f.result
	err := f.answer(r, response, f.request, f.body.server)
	ended := f.body.stop()
	r.Sent, r.Received = r.Transfer.Bytes()
	switch {
	case f.session.Ended():
		r.Failure = f.pack.EndedFailure()
	case f.body.exceededQuota():
		r.Failure = decision.DailyQuota
	case errors.Is(err, errClient), err != nil && f.bound.Err() != nil:
		r.Failure = decision.ClientClosed
	case err != nil:
		r.Failure = f.pack.UpstreamFailure(f.session, upstream.Failure(err))
	}
	if r.Failure != nil {
		f.closeAfter = true
	}
	f.finish(r, f.began)
	if r.Failure == nil && !ended {
		f.closeAfter = true
		f.linger()
	}
}

// startTransfer begins the transfer of an allowed request, and writes it down at once if it may last.
func (c *clientConn) startTransfer(r *record.Result, in *http.Request, began time.Time) *decision.Failure {
	c.recorder.Start(new(record.Transfer), record.KindHTTP, c.pack.ID, r, began)
	if in.ContentLength >= 0 && in.ContentLength <= longBody && !headers.IsWebSocket(in.Header) {
		return nil
	}
	if c.recorder.Begin(r.Transfer) != nil {
		return decision.Internal
	}
	return nil
}

// isEvents says whether an answer is a stream of server-sent events.
func isEvents(response *http.Response) bool {
	kind, _, _ := strings.Cut(response.Header.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(kind), "text/event-stream")
}

// roundTripFailure is why a request got no answer.
func (f *forwarding) roundTripFailure(err error) *decision.Failure {
	switch {
	case f.session.Ended():
		return f.pack.EndedFailure()
	case f.body.exceededQuota():
		f.closeAfter = true
		return decision.DailyQuota
	case f.bound.Err() != nil:
		f.closeAfter = true
		return decision.ClientClosed
	case f.body.failed() != nil:
		f.closeAfter = true
		return bodyFailure(f.body.failed())
	}
	return f.pack.UpstreamFailure(f.session, upstream.Failure(err))
}

// interim returns a function that passes a server's interim answers on (RFC 9110, section 15.2), but for 100 (Continue), which this proxy sends
// itself, and 101. net/http calls it for one after the other, before the answer. Their number has no limit in HTTP: without maxInterim a server
// could keep a request busy for ever.
func (c *clientConn) interim(in *http.Request) func(code int, header textproto.MIMEHeader) error {
	left := maxInterim
	return func(code int, header textproto.MIMEHeader) error {
		fields := http.Header(header).Clone()
		headers.Strip(fields)
		var b bytes.Buffer
		fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\n", code, http.StatusText(code))
		fields.Write(&b)
		b.WriteString("\r\n")
		if left -= b.Len(); left < 0 {
			return &upstream.Error{Kind: upstream.KindBroken, Text: "Server sent too many interim answers"}
		}
		if code == http.StatusContinue || code == http.StatusSwitchingProtocols || !in.ProtoAtLeast(1, 1) {
			return nil
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.responding {
			return nil
		}
		_, err := c.stream.Write(b.Bytes())
		return err
	}
}

func (u *upload) exceededQuota() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.overQuota
}

func (u *upload) failed() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.err
}

// bodyFailure is why a body can't be read: it isn't well-formed, or the client has left.
func bodyFailure(err error) *decision.Failure {
	var op *net.OpError
	var call *os.SyscallError
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF), errors.As(err, &op), errors.As(err, &call):
		return decision.ClientClosed
	}
	return decision.BadBody.WithDetail(err.Error())
}

// refuseWithBody is refuse for a request of which the body is still to come, or a part of it.
func (c *clientConn) refuseWithBody(r *record.Result, body *upload, began time.Time) {
	ended := body.stop()
	if r.Transfer != nil {
		r.Sent, _ = r.Transfer.Bytes()
	}
	if !ended && !body.awaitsContinue && body.failed() == nil {
		c.stream.SetReadDeadline(time.Now().Add(lingerTime))
		_, err := io.CopyN(io.Discard, body.body, drainBytes)
		c.stream.SetReadDeadline(time.Time{})
		ended = errors.Is(err, io.EOF)
	}
	if !ended {
		c.closeAfter = true
	}
	c.refuse(r, began)
	if !ended {
		c.linger()
	}
}

// outgoing is the request as the server gets it. Nothing of the client's header is trusted that says where a body ends, or what happens to the
// connection: net/http writes those fields anew from what it has read.
func outgoing(ctx context.Context, in *http.Request, to decision.Destination, t *upstream.Target, body *upload) *http.Request {
	upgrade, trailers := headers.IsWebSocket(in.Header), headers.HasToken(in.Header["Te"], "trailers")
	headers.Strip(in.Header)
	headers.Strip(in.Trailer)
	body.trailer = in.Trailer
	if upgrade {
		in.Header["Connection"], in.Header["Upgrade"] = []string{"Upgrade"}, []string{"websocket"}
	}
	if trailers {
		in.Header["Te"] = []string{"trailers"}
	}
	if in.Header["User-Agent"] == nil {
		in.Header["User-Agent"] = []string{""} // keeps net/http from adding its own
	}
	out := &http.Request{
		Method: in.Method, URL: body.server.URL(to.Path), Host: to.HostPort(), Header: in.Header, Trailer: in.Trailer,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, ContentLength: in.ContentLength, Close: t.Close,
	}
	if in.ContentLength != 0 {
		out.Body = body
	}
	return out.WithContext(ctx)
}
