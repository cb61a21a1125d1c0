package egress

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/upstream"
)

const copyBuffer = 32 << 10

// upload is a request's body on its way to the server.
type upload struct {
	client  *client
	body    io.Reader
	expects bool // 100 (Continue), before the client sends any
	grant   func(n int)
	trailer http.Header // is complete when the body came to its end

	mu    sync.Mutex
	over  bool
	ended bool  // came to its end
	count int64 // bytes
	err   error // the client's
	spent bool  // the pack may send no more today
}

// Read implements io.Reader for the transport, which may still read when it has answered.
func (u *upload) Read(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.over {
		return 0, errors.New("read request body: the exchange is over")
	}
	if u.expects {
		u.expects = false
		if err := u.client.proceed(); err != nil {
			u.err = err
			return 0, err
		}
	}
	n, err := u.body.Read(p)
	if u.client.pack.spend(n) != nil {
		u.spent = true
		return 0, errSpent
	}
	u.count += int64(n)
	u.grant(n) // the server says now and then that it may go on
	switch {
	case err == io.EOF:
		u.ended = true
		strip(u.trailer) // of what nobody had announced, too
	case err != nil:
		u.err = err
	}
	return n, err
}

// Close implements io.Closer. What is left of the body is dealt with when the exchange is over.
func (u *upload) Close() error { return nil }

// stop ends reading and says whether the body came to its end.
func (u *upload) stop() bool {
	u.mu.Lock()
	ended := u.ended
	u.mu.Unlock()
	if ended {
		return true
	}
	u.client.stream.SetReadDeadline(past) // a Read that waits
	u.mu.Lock()
	u.over = true
	ended = u.ended
	u.mu.Unlock()
	u.client.stream.SetReadDeadline(time.Time{})
	return ended
}

// forward sends a request to its server and streams the answer back.
func (c *client) forward(r *result, in *http.Request, began time.Time) {
	a := c.pack.access.Load() // before anything is judged, as in run
	target, f := c.pack.judge(a, r.call.method, r.place, began.Add(defaultTimeout))
	body := &upload{client: c, body: in.Body, expects: in.Header.Get("Expect") != "", ended: in.ContentLength == 0, grant: func(int) {}}
	if f != nil {
		r.failure = f
		c.decline(r, body, began)
		return
	}
	ctx, cancel := context.WithCancel(context.WithValue(a.ctx, judgedKey{}, judged{target, a, isWebSocket(in.Header)}))
	defer cancel()
	var gone sync.Once
	left := false
	leave := func() { gone.Do(func() { left = true; cancel() }) }
	unwatch := func() {}
	if body.ended {
		unwatch = sync.OnceFunc(c.watch(leave))
		defer unwatch()
	}
	if target.TLS {
		ctx, body.grant = granting(ctx)
	}
	out := outgoing(ctx, in, r.place, target, body)
	if out.URL.RequestURI() != r.place.path { // what is sent must be what was judged
		unwatch()
		r.failure = invalid("Invalid path in URL")
		c.decline(r, body, began)
		return
	}
	response, err := a.web.roundTrip(out)
	if err == nil && response.StatusCode < 100 { // which net/http lets pass, and no client understands
		response.Body.Close()
		err = &upstream.Error{Kind: upstream.KindBroken, Text: "Server sent an invalid status"}
	}
	if err != nil {
		unwatch()
		switch {
		case a.ctx.Err() != nil:
			r.failure = c.pack.ended()
		case body.overspent():
			r.failure, c.closes = errBudget, true
		case left:
			r.failure, c.closes = errClientGone, true
		case body.failed() != nil:
			r.failure, c.closes = clientFailure(body.failed()), true
		default:
			r.failure = c.pack.upstreamFailure(upstream.Failure(err))
		}
		c.decline(r, body, began)
		return
	}
	defer response.Body.Close()
	r.status = response.StatusCode
	// From here on the pack can only be told by the connection's end.
	stop := context.AfterFunc(a.ctx, func() { c.stream.Close() })
	defer stop()
	if response.StatusCode == http.StatusSwitchingProtocols {
		unwatch()
		c.upgrade(r, out, response, body, began)
		return
	}
	err = c.answer(r, response, in, body.grant)
	unwatch()
	ended := body.stop()
	r.sent = body.count
	switch {
	case a.ctx.Err() != nil:
		r.failure = c.pack.ended()
	case body.overspent():
		r.failure = errBudget
	case errors.Is(err, errClient), left:
		r.failure = errClientGone
	case err != nil:
		r.failure = c.pack.upstreamFailure(upstream.Failure(err))
	}
	if r.failure != nil {
		c.closes = true
	}
	c.finish(r, began)
	if r.failure == nil && !ended {
		c.closes = true
		c.linger()
	}
}

func (u *upload) overspent() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.spent
}

func (u *upload) failed() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.err
}

// clientFailure is why a body can't be read: what is wrong with it, or that nobody sends it any more.
func clientFailure(err error) *failure {
	var op *net.OpError
	var call *os.SyscallError
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF), errors.As(err, &op), errors.As(err, &call):
		return errClientGone
	}
	f := *errBadBody
	f.detail = err.Error()
	return &f
}

// decline is refuse for a request whose body is still to come, or partly.
func (c *client) decline(r *result, body *upload, began time.Time) {
	ended := body.stop()
	r.sent = body.count
	if !ended && !body.expects && body.failed() == nil {
		c.stream.SetReadDeadline(time.Now().Add(lingerTime))
		_, err := io.CopyN(io.Discard, body.body, drainBytes)
		c.stream.SetReadDeadline(time.Time{})
		ended = err == io.EOF
	}
	if !ended {
		c.closes = true
	}
	c.refuse(r, began)
	if !ended {
		c.linger()
	}
}

// outgoing is the request as the server gets it.
func outgoing(ctx context.Context, in *http.Request, to place, t *upstream.Target, body *upload) *http.Request {
	upgrade, trailers := isWebSocket(in.Header), hasToken(in.Header["Te"], "trailers")
	strip(in.Header)
	strip(in.Trailer)
	body.trailer = in.Trailer
	if upgrade {
		in.Header["Connection"], in.Header["Upgrade"] = []string{"Upgrade"}, []string{"websocket"}
	}
	if trailers {
		in.Header["Te"] = []string{"trailers"}
	}
	if in.Header["User-Agent"] == nil {
		in.Header["User-Agent"] = []string{""} // how net/http is kept from adding its own
	}
	out := &http.Request{
		Method: in.Method, URL: webURL(to, t), Host: to.hostPort(), Header: in.Header, Trailer: in.Trailer,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, ContentLength: in.ContentLength,
	}
	if in.ContentLength != 0 {
		out.Body = body
	}
	return out.WithContext(ctx)
}

// errClient marks an error of the pack's connection.
var errClient = errors.New("write answer")

// answer streams a server's answer to the client. The error is errClient or the server's.
func (c *client) answer(r *result, response *http.Response, in *http.Request, grant func(int)) error {
	strip(response.Header)
	bodiless := in.Method == http.MethodHead || response.StatusCode == http.StatusNoContent || response.StatusCode == http.StatusNotModified
	// An answer over HTTP/2 may have both a length and a trailer, which HTTP/1.1 has behind chunks only.
	chunked := !bodiless && (response.ContentLength < 0 || len(response.Trailer) > 0) && in.ProtoAtLeast(1, 1)
	c.begin()
	c.statusLine(response.StatusCode)
	response.Header.Write(c.out)
	switch {
	case chunked:
		c.out.WriteString("Transfer-Encoding: chunked\r\n")
		for name := range response.Trailer {
			c.out.WriteString("Trailer: " + name + "\r\n")
		}
	case response.ContentLength >= 0 && response.StatusCode != http.StatusNoContent:
		c.out.WriteString("Content-Length: " + strconv.FormatInt(response.ContentLength, 10) + "\r\n")
	case !bodiless:
		c.closes = true // the body's end is the connection's
	}
	if c.closes {
		c.out.WriteString("Connection: close\r\n")
	}
	c.out.WriteString("\r\n")
	if bodiless {
		return c.flush()
	}
	// A short body of known length comes at once; what may take its time is announced first.
	if response.ContentLength < 0 || response.ContentLength > copyBuffer {
		if err := c.flush(); err != nil {
			return err
		}
	}
	buf := copyBuffers.Get().(*[copyBuffer]byte)
	defer copyBuffers.Put(buf)
	for {
		n, err := response.Body.Read(buf[:])
		r.received += int64(n)
		if n > 0 {
			grant(n)
			if chunked {
				c.out.WriteString(strconv.FormatInt(int64(n), 16) + "\r\n")
			}
			c.out.Write(buf[:n])
			if chunked {
				c.out.WriteString("\r\n")
			}
			if err == nil { // at the end the rest goes out together
				if err := c.flush(); err != nil {
					return err
				}
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			c.out.Flush()
			return err
		}
	}
	if chunked {
		c.out.WriteString("0\r\n")
		strip(response.Trailer)
		response.Trailer.Write(c.out)
		c.out.WriteString("\r\n")
	}
	return c.flush()
}

var copyBuffers = sync.Pool{New: func() any { return new([copyBuffer]byte) }}

func (c *client) flush() error {
	if err := c.out.Flush(); err != nil {
		return errClient
	}
	return nil
}
