package edge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/services/gateway/internal/route"
)

// proxy hands requests to one service.
//
// It is not httputil.ReverseProxy, which copies all that a client sent and then takes away what must not pass. This names the few headers that a
// service may see, and takes about a tenth less of the gateway's processor time (docs/adr/gateway-proxy.md).
type proxy struct {
	service    string
	lastAnswer *lastAnswer
	peer       http.RoundTripper
	log        *slog.Logger
}

func newProxy(service string, peer http.RoundTripper, last *lastAnswer, log *slog.Logger) *proxy {
	return &proxy{service: service, lastAnswer: last, peer: peer, log: log}
}

// passed are the headers of a client that services get, in canonical spelling. Others say something about the client's connection, or are
// for the gateway alone (Authorization), or only the gateway may say them (X-Rumi-…, Traceparent). A client's baggage ends here.
var passed = []string{"Accept", "Content-Type", "Last-Event-Id", "User-Agent"}

// kept are headers of a service's answer that concern its connection to the gateway, or that the gateway sets itself.
var kept = map[string]bool{
	"Connection": true, "Keep-Alive": true, "Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true,
	rpc.RequestIDHeader: true,
}

// serve answers r with what the service answers, within the time of its class.
func (p *proxy) serve(w http.ResponseWriter, r *http.Request, class route.Class) error {
	ctx, headArrived, cancel := bound(r, class)
	defer cancel()
	answer, err := p.peer.RoundTrip(p.request(ctx, r))
	if err == nil {
		defer answer.Body.Close()
		err = p.checkAnswer(answer)
	}
	if err != nil {
		return p.failure(w, r, err)
	}
	if err := withheld(r); err != nil {
		return err
	}
	headArrived()
	p.pass(w, r, answer)
	return nil
}

// bound is a context that ends with the class's time; where the answer is followed, unless its head has arrived before.
func bound(r *http.Request, class route.Class) (ctx context.Context, headArrived func(), cancel context.CancelFunc) {
	if !follows(r, class) {
		ctx, cancel = context.WithTimeout(r.Context(), class.Timeout)
		return ctx, func() {}, cancel
	}
	ctx, end := context.WithCancel(r.Context())
	timer := time.AfterFunc(class.Timeout, end)
	return ctx, func() { timer.Stop() }, func() { timer.Stop(); end() }
}

// follows says whether an answer goes on until somebody ends it. The parameter is read as rpc binds it.
func follows(r *http.Request, class route.Class) bool {
	if !class.Follow || class.Always {
		return class.Always
	}
	follow, _ := strconv.ParseBool(r.URL.Query().Get("follow"))
	return follow
}

// request is what the service gets: the path as it came, the headers that may pass, and who asks.
func (p *proxy) request(ctx context.Context, r *http.Request) *http.Request {
	out := (&http.Request{
		Method: r.Method, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		URL:    &url.URL{Scheme: "https", Host: p.service, Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery},
		Header: make(http.Header, len(passed)+5), Host: p.service, Body: r.Body, ContentLength: r.ContentLength, GetBody: r.GetBody,
	}).WithContext(ctx)
	if r.ContentLength == 0 {
		out.Body = nil
	}
	for _, name := range passed {
		if values := r.Header[name]; values != nil {
			out.Header[name] = values
		}
	}
	rpc.SetOrigin(out.Header, origin.Of(r.Context()))
	return out
}

// checkAnswer checks the head of an answer before it is passed on. What is no envelope of ours (a redirect, an error page of the HTTP
// library) is a failure of the service.
func (p *proxy) checkAnswer(answer *http.Response) error {
	p.lastAnswer.record()
	if answer.StatusCode < 300 {
		return nil
	}
	kind, _, err := mime.ParseMediaType(answer.Header.Get("Content-Type"))
	if answer.StatusCode < 400 || err != nil || kind != "application/json" {
		return fmt.Errorf("%s answered %d without an envelope", p.service, answer.StatusCode)
	}
	return nil
}

// failure is the fault for a request that its service has not answered. Nothing of an answer has been written.
func (p *proxy) failure(w http.ResponseWriter, r *http.Request, err error) error {
	if errors.Is(context.Cause(r.Context()), errSessionEnded) {
		return sessionOver()
	}
	if u, ok := r.Body.(*upload); ok && u.failure() != nil {
		w.Header().Set("Connection", "close")
		return bodyFault(u.failure())
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fault.ServiceUnavailable(p.service).Because(err)
	}
	return err
}

// pass writes the service's answer. One that ends too early ends the client's connection, so that the client doesn't take it for whole.
func (p *proxy) pass(w http.ResponseWriter, r *http.Request, answer *http.Response) {
	header := w.Header()
	for name, values := range answer.Header {
		if !kept[name] {
			header[name] = values
		}
	}
	w.WriteHeader(answer.StatusCode)
	var err error
	if answer.ContentLength >= 0 {
		err = copyWhole(w, answer.Body)
	} else {
		err = copyStream(w, answer.Body)
	}
	if err != nil {
		p.log.DebugContext(r.Context(), "could not pass an answer on to its end", "error", err)
		panic(http.ErrAbortHandler)
	}
}

// pieces are the buffers that answers are copied through.
var pieces = sync.Pool{New: func() any { return new([32 << 10]byte) }}

func copyWhole(w io.Writer, body io.Reader) error {
	piece := pieces.Get().(*[32 << 10]byte)
	defer pieces.Put(piece)
	_, err := io.CopyBuffer(writerOnly{w}, body, piece[:])
	return err
}

// writerOnly hides the other methods of a writer: io.CopyBuffer would read from the body by a buffer of the writer's own.
type writerOnly struct{ io.Writer }

// copyStream sends each piece as it comes: nobody knows when the next one will.
func copyStream(w http.ResponseWriter, body io.Reader) error {
	flusher := http.NewResponseController(w)
	if err := flusher.Flush(); err != nil {
		return err
	}
	return copyWhole(&flushing{w, flusher}, body)
}

type flushing struct {
	io.Writer
	flusher *http.ResponseController
}

func (f *flushing) Write(p []byte) (int, error) {
	n, err := f.Writer.Write(p)
	if err == nil {
		err = f.flusher.Flush()
	}
	return n, err
}
