package egress

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/headers"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/decision"

	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/uds"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/upstream"
)

// handler is a pack's uds.Handler for one life of its socket.
type handler struct {
	proxy *Proxy
	id    string
	once  sync.Once
	known *pack
}

// pack is what the proxy keeps of the pack, from its first request on: most sockets are asked nothing for long. ctx is that
// of a request; what the proxy keeps is cut when its socket ends.
func (h *handler) pack(ctx context.Context) *pack {
	h.once.Do(func() {
		h.known = h.proxy.pack(h.id)
		context.AfterFunc(uds.SocketOf(ctx), h.known.cut)
	})
	return h.known
}

// result is what came of a request.
type result struct {
	call         call
	destination  decision.Destination // of the last hop
	hops         int
	response     *upstream.Response
	failure      *decision.Failure
	latency      time.Duration
	status       int          // of the answer; 0 for none
	received     int64        // bytes from the server: of the body, or of a tunnel
	sent         int64        // bytes to the server: of bodies, and all in a tunnel
	overHTTP     bool         // came as HTTP
	traceContext traceContext // of what did
	unbounded    bool         // a tunnel or an upgraded connection: its end is the pack's choice
	transfer     *transfer    // nil for what was not allowed
	scratch      scratch
}

// request is what is decided on.
func (r *result) request(hasBody bool) decision.Request {
	return decision.Request{Method: r.call.method, To: r.destination, HasBody: hasBody}
}

var bodies = sync.Pool{New: func() any { return new([]byte) }}

const (
	keepBody    = 64 << 10 // larger buffers are left to the garbage collector
	smallAnswer = 64 << 10 // bytes for which no room is taken: what any connection may cost
)

// Answer implements uds.Handler.
func (h *handler) Answer(ctx context.Context, request, dst []byte) []byte {
	return h.Begin(ctx, request).Finish(dst)
}

// exchange is a request under way; it implements uds.Pending.
type exchange struct {
	result
	under   transfer
	ctx     context.Context // of the request's connection
	bound   context.Context // ends with ctx and with the session
	pack    *pack
	began   time.Time
	session *session
	target  *upstream.Target // of the first hop, as far as it could be told without waiting
	roomy   bool             // room was taken for the answer
	written func() error     // waits for the entries of what was refused at once; nil for what was not
}

var exchanges = sync.Pool{New: func() any { return new(exchange) }}

// Begin implements uds.Beginner: it judges as far as that can be done without waiting.
func (h *handler) Begin(ctx context.Context, request []byte) uds.Pending {
	k := h.pack(ctx)
	e := exchanges.Get().(*exchange)
	e.pack, e.ctx, e.began = k, ctx, time.Now()
	e.call, e.failure = parse(request)
	e.destination = e.call.url
	if e.failure == nil {
		// Before anything is judged: what shrinks after this ends the request, what shrank before is seen by decide.
		e.session = k.session.Load()
		e.target, e.failure = k.decide(e.request(len(e.call.body) > 0))
	}
	if e.failure != nil {
		e.latency = time.Since(e.began)
		e.written = k.record(&e.result)
	}
	return e
}

// Decided implements uds.Pending.
func (e *exchange) Decided() bool { return e.written != nil }

// Finish implements uds.Pending.
func (e *exchange) Finish(dst []byte) []byte {
	dst = e.finish(dst)
	*e = exchange{}
	exchanges.Put(e)
	return dst
}

func (e *exchange) finish(dst []byte) []byte {
	if e.written != nil {
		if e.written() != nil {
			e.failure = decision.Internal
		}
		return appendFailure(dst, &e.result)
	}
	t := &e.under
	t.pack, t.kind, t.method, t.to, t.began = e.pack, kindFrame, e.call.method, e.destination, e.began
	e.transfer = t
	e.pack.proxy.start(t)
	var release func()
	e.bound, release = sessionContext(e.session, e.ctx)
	defer release()
	body := bodies.Get().(*[]byte)
	e.pack.run(e, *body)
	start := len(dst)
	dst = e.pack.conclude(&e.result, e.began, dst)
	if e.roomy {
		uds.RoomOf(e.ctx).Keep(len(dst) - start)
	}
	if e.response != nil && cap(e.response.Body) > cap(*body) && cap(e.response.Body) <= keepBody {
		*body = e.response.Body[:0]
	}
	bodies.Put(body)
	return dst
}

// Reserve implements upstream.Budget. The response is in memory together with the answer that is made of it, in which a byte may take six,
// and each field is there twice.
func (e *exchange) Reserve(fields []upstream.Field, body int) error {
	head := 0
	for _, f := range fields {
		head += len(f.Name) + len(f.Value)
	}
	need := head + body + min(12*head+6*body, MaxResponse)
	if need <= smallAnswer {
		return nil
	}
	e.roomy = true
	ctx, cancel := context.WithDeadline(e.bound, e.began.Add(e.call.total))
	defer cancel()
	return uds.RoomOf(e.ctx).Take(ctx, need)
}

// Refuse implements uds.Handler.
func (h *handler) Refuse(err error, dst []byte) []byte {
	f := decision.Protocol("Request could not be read")
	var large *uds.TooLargeError
	switch {
	case errors.As(err, &large):
		f.Text = "Request too large (max: 1048576 bytes)"
	case errors.Is(err, uds.ErrEmpty):
		f.Text = "Request is empty"
	case errors.Is(err, os.ErrDeadlineExceeded):
		f.Text = "Request did not arrive in time"
	}
	return h.proxy.pack(h.id).conclude(&result{failure: f}, time.Now(), dst)
}

// run sends a call to its server and follows redirects.
func (k *pack) run(r *exchange, buf []byte) {
	s, deadline := r.session, r.began.Add(r.call.total)
	fields, body := r.call.fields, r.call.body
	for target := r.target; ; target = nil {
		target, connect, f := k.locate(r, target, len(body) > 0, deadline)
		if f != nil {
			r.failure = f
			return
		}
		if f := k.acquireSlot(r.bound, s, deadline); f != nil {
			r.failure = f
			return
		}
		if f := k.spend(len(body)); f != nil {
			<-k.slots
			r.failure = f
			return
		}
		r.sent += int64(len(body))
		response, err := s.pool.Do(r.bound, target, &upstream.Request{
			Method: r.call.method, Path: r.destination.Path, Host: r.destination.HostPort(), Fields: fields, Body: body,
			Deadline: deadline, Connect: connect, Read: r.call.read, MaxBody: MaxResponse, Budget: r,
		}, buf[:0])
		if err != nil {
			<-k.slots
			r.failure = k.upstreamFailure(s, err)
			return
		}
		location := redirect(r.call.method, response)
		if location == "" {
			// A short body, too, may be a long answer.
			if r.response = response; r.Reserve(response.Fields, len(response.Body)) != nil {
				r.failure = k.timedOutFailure(r.bound, s)
			}
			<-k.slots // not before: what has no room yet is bounded by these
			return
		}
		<-k.slots
		next, f := r.destination.Resolve(location)
		if r.hops++; r.hops > maxRedirects {
			f = &decision.Failure{Kind: decision.KindRedirects, Text: "Too many redirects: 4 > 3"}
			r.hops = maxRedirects
		}
		if f != nil {
			r.failure = f
			return
		}
		if !r.destination.SharesCredentialsWith(next) {
			fields, body = headers.SafeOnRedirect(fields), nil
		}
		if response.Status <= http.StatusSeeOther {
			fields, body = headers.WithoutBody(fields), nil
		}
		r.destination = next
	}
}

// locate judges a hop, as far as it isn't, and finds its addresses. connect is what is left then for a connection to be made.
func (k *pack) locate(r *exchange, target *upstream.Target, hasBody bool, deadline time.Time) (_ *upstream.Target, connect time.Duration, f *decision.Failure) {
	connect = r.call.connect
	if target != nil && target.Addrs != nil {
		return target, connect, nil
	}
	began := time.Now()
	if connect > 0 && began.Add(connect).Before(deadline) {
		deadline = began.Add(connect)
	}
	if target == nil {
		target, f = k.authorize(r.bound, r.session, r.request(hasBody), deadline)
	} else {
		target, f = k.resolve(r.bound, r.session, target, r.destination, deadline)
	}
	if connect > 0 {
		connect = max(connect-time.Since(began), 1)
	}
	return target, connect, f
}

func (k *pack) upstreamFailure(s *session, err error) *decision.Failure {
	var e *upstream.Error
	if errors.As(err, &e) && e.Kind == upstream.KindCanceled {
		return k.interruptedFailure(s)
	}
	return upstreamFailure(err).WithDetail(err.Error())
}

// timedOutFailure is why a request is over that waited until its deadline or the end of ctx, which is of sessionContext.
func (k *pack) timedOutFailure(ctx context.Context, s *session) *decision.Failure {
	if ctx.Err() != nil {
		return k.interruptedFailure(s)
	}
	return decision.TimedOut
}

// interruptedFailure is why a request is over whose context of sessionContext has ended.
func (k *pack) interruptedFailure(s *session) *decision.Failure {
	if s.ctx.Err() != nil {
		return k.sessionEndedFailure()
	}
	return decision.ClientClosed
}

// acquireSlot waits for one of the maxInFlight slots of the pack.
func (k *pack) acquireSlot(ctx context.Context, s *session, deadline time.Time) *decision.Failure {
	select {
	case k.slots <- struct{}{}:
		return nil
	default:
	}
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case k.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return k.interruptedFailure(s)
	case <-timer.C:
		return decision.TimedOut
	}
}

// redirect is where an answer sends a request that follows, "" for nowhere.
func redirect(method string, response *upstream.Response) string {
	if method != http.MethodGet && method != http.MethodHead {
		return ""
	}
	switch response.Status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	default:
		return ""
	}
	for _, f := range response.Fields {
		if strings.EqualFold(f.Name, "Location") {
			return f.Value
		}
	}
	return ""
}

// withOrigin marks what follows as the pack's doing, in a request of its own where requestID is "".
func (k *pack) withOrigin(requestID string) context.Context {
	return origin.With(context.Background(), origin.Origin{RequestID: cmp.Or(requestID, origin.NewRequestID()), Actor: "pack:" + k.id})
}
