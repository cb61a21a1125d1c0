package frameproto

import (
	"context"
	"errors"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/rumi-ai/rumi/libs/uds"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/decision"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/headers"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/record"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/session"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/upstream"
)

const (
	maxBodyBuffer = 64 << 10 // a longer buffer isn't used again but left to the garbage collector
	smallAnswer   = 64 << 10 // bytes for which no memory is reserved: what any connection may cost
)

// exchange is a request under way; it implements uds.Pending and upstream.Budget. It is used again for another request once it has finished, so
// that a denial makes next to no garbage.
type exchange struct {
	record.Result
	call     call
	response *upstream.Response

	pack     *session.Pack
	recorder *record.Recorder
	session  *session.Session
	transfer record.Transfer // of Result.Transfer, if the request was allowed
	ctx      context.Context // of the request's connection
	bound    context.Context // ends with ctx and with the session
	began    time.Time
	deciding time.Duration    // that the decision took; 0 for a request that couldn't be read
	target   *upstream.Target // of the first hop, as far as it is known without waiting
	reserved bool             // memory was reserved for the answer
	written  func() error     // waits for the entries of a request that was refused at once; nil for any other
}

var (
	exchanges = sync.Pool{New: func() any { return new(exchange) }}
	bodies    = sync.Pool{New: func() any { return new([]byte) }}
)

// Begin reads a request of a pack's and decides as far as that can be done without waiting. ctx is of the request's connection; see uds.Handler.
// The request must stay as it is until Begin returns.
func Begin(ctx context.Context, pack *session.Pack, recorder *record.Recorder, request []byte) uds.Pending {
	e := exchanges.Get().(*exchange)
	e.pack, e.recorder, e.ctx, e.began = pack, recorder, ctx, time.Now()
	e.call, e.Failure = parse(request)
	e.Method, e.Destination = e.call.method, e.call.url
	e.Trace, e.call.fields = record.TraceOfFields(e.call.fields)
	if e.Failure == nil {
		read := time.Now()         // not began: a pack could make decisions look slow by long requests
		e.session = pack.Session() // before anything is decided on; see package session
		e.target, e.Failure = pack.Decide(e.Request(len(e.call.body) > 0))
		e.deciding = time.Since(read)
	}
	if e.Failure != nil {
		e.Latency = time.Since(e.began)
		e.written = recorder.Record(pack.ID, &e.Result)
		if e.deciding > 0 {
			recorder.Decided(&e.Result, e.deciding)
		}
	}
	return e
}

// Refuse answers a frame that could not be read, with err of uds.Handler.Refuse.
func Refuse(pack *session.Pack, recorder *record.Recorder, err error, dst []byte) []byte {
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
	e := &exchange{Result: record.Result{Failure: f}, pack: pack, recorder: recorder, began: time.Now()}
	return e.answer(dst)
}

// Decided implements uds.Pending.
func (e *exchange) Decided() bool { return e.written != nil }

// Finish implements uds.Pending.
func (e *exchange) Finish(dst []byte) []byte {
	if e.written != nil {
		if e.written() != nil {
			e.Failure = decision.Internal
		}
		dst = appendFailure(dst, &e.Result)
	} else {
		dst = e.finish(dst)
	}
	*e = exchange{}
	exchanges.Put(e)
	return dst
}

func (e *exchange) finish(dst []byte) []byte {
	var release func()
	e.bound, release = e.session.With(e.ctx)
	defer release()
	e.bound = e.recorder.Open(e.bound, e.pack.ID, &e.Result, e.began)
	e.recorder.Decided(&e.Result, e.deciding)
	if parent := e.Upstream(); parent != "" {
		e.call.setTraceParent(parent)
	}
	e.recorder.Start(&e.transfer, record.KindFrame, e.pack.ID, &e.Result, e.began)
	body := bodies.Get().(*[]byte)
	e.run(*body)
	start := len(dst)
	dst = e.answer(dst)
	if e.reserved {
		uds.BudgetOf(e.ctx).Shrink(len(dst) - start)
	}
	if e.response != nil && cap(e.response.Body) > cap(*body) && cap(e.response.Body) <= maxBodyBuffer {
		*body = e.response.Body[:0]
	}
	bodies.Put(body)
	return dst
}

// Reserve implements upstream.Budget. The response is in memory together with the answer that is made of it, in which a byte may take six, and
// each field is there twice.
func (e *exchange) Reserve(fields []upstream.Field, body int) error {
	head := 0
	for _, f := range fields {
		head += len(f.Name) + len(f.Value)
	}
	need := head + body + min(12*head+6*body, MaxResponse)
	if need <= smallAnswer {
		return nil
	}
	e.reserved = true
	ctx, cancel := context.WithDeadline(e.bound, e.began.Add(e.call.total))
	defer cancel()
	return uds.BudgetOf(e.ctx).Reserve(ctx, need)
}

// run sends the call to its server and follows redirects. Its result is in e.
func (e *exchange) run(buf []byte) {
	fields, body := e.call.fields, e.call.body
	for target := e.target; ; target = nil {
		response, f := e.hop(target, fields, body, buf)
		if f != nil {
			e.Failure = f
			return
		}
		location := redirect(e.Method, response)
		if location == "" {
			return
		}
		next, f := e.Destination.Resolve(location)
		if e.Hops++; e.Hops > maxRedirects {
			f = &decision.Failure{Kind: decision.KindRedirects, Text: "Too many redirects: 4 > 3"}
			e.Hops = maxRedirects
		}
		if f != nil {
			e.Failure = f
			return
		}
		if !e.Destination.SharesCredentialsWith(next) {
			fields, body = headers.SafeOnRedirect(fields), nil
		}
		if response.Status <= http.StatusSeeOther {
			fields, body = headers.WithoutBody(fields), nil
		}
		e.Destination = next
		e.Redirected()
	}
}

// hop sends the request to the current destination's server. It decides anew, as if the pack had asked for that destination itself: a redirect
// must not lead where a request may not.
func (e *exchange) hop(target *upstream.Target, fields []upstream.Field, body, buf []byte) (*upstream.Response, *decision.Failure) {
	deadline := e.began.Add(e.call.total)
	target, connect, f := e.locate(target, len(body) > 0, deadline)
	if f != nil {
		return nil, f
	}
	if f := e.pack.AcquireSlot(e.bound, e.session, deadline); f != nil {
		return nil, f
	}
	defer e.pack.ReleaseSlot() // not before the answer has its memory: what waits for some is bounded by the slots
	if f := e.pack.Spend(len(body)); f != nil {
		return nil, f
	}
	e.Sent += int64(len(body))
	e.transfer.AddSent(len(body))
	response, err := e.session.Pool.Do(e.bound, target, &upstream.Request{
		Method: e.Method, Path: e.Destination.Path, Host: e.Destination.HostPort(), Fields: fields, Body: body,
		Deadline: deadline, Connect: connect, Read: e.call.read, MaxBody: MaxResponse, Budget: e, Received: e.transfer.Received(),
	}, buf[:0])
	if err != nil {
		return nil, e.pack.UpstreamFailure(e.session, err)
	}
	if redirect(e.Method, response) != "" {
		return response, nil
	}
	e.response, e.HTTP2 = response, response.HTTP2
	if e.Reserve(response.Fields, len(response.Body)) != nil { // a short body, too, may make a long answer
		return nil, e.pack.TimedOut(e.bound, e.session)
	}
	return response, nil
}

// locate decides on a hop, as far as that wasn't done, and finds its addresses. connect is what is left then for a connection to be made.
func (e *exchange) locate(target *upstream.Target, hasBody bool, deadline time.Time) (_ *upstream.Target, connect time.Duration, f *decision.Failure) {
	connect = e.call.connect
	if target != nil && target.Addrs != nil {
		return target, connect, nil
	}
	began := time.Now()
	if connect > 0 && began.Add(connect).Before(deadline) {
		deadline = began.Add(connect)
	}
	if target == nil {
		target, f = e.pack.Authorize(e.bound, e.session, e.Request(hasBody), deadline)
	} else {
		target, f = e.pack.Resolve(e.bound, e.session, target, e.Destination, deadline)
	}
	if connect > 0 {
		connect = max(connect-time.Since(began), 1)
	}
	return target, connect, f
}

// redirect is where an answer sends a request that follows redirects; "" for nowhere.
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
