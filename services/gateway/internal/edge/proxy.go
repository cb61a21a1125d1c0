package edge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"mime"
	"net/http"
	"net/http/httputil"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/services/gateway/internal/route"
)

// proxy hands requests to one service.
type proxy struct {
	service    string
	lastAnswer *lastAnswer
	reverse    *httputil.ReverseProxy
}

func newProxy(service string, peer http.RoundTripper, last *lastAnswer, log *slog.Logger) *proxy {
	p := &proxy{service: service, lastAnswer: last}
	p.reverse = &httputil.ReverseProxy{
		Rewrite:        p.rewrite,
		Transport:      peer,
		ModifyResponse: p.checkResponse,
		ErrorHandler:   p.writeFailure,
		BufferPool:     buffers{},
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return p
}

// serve answers r with what the service answers, within the time of its class.
func (p *proxy) serve(w http.ResponseWriter, r *http.Request, class route.Class) error {
	var ctx context.Context
	var cancel context.CancelFunc
	if follow, _ := strconv.ParseBool(r.URL.Query().Get("follow")); follow && class.Follow { // as rpc binds it
		ctx, cancel = context.WithCancel(r.Context())
		timer := time.AfterFunc(class.Timeout, cancel)
		defer timer.Stop()
		ctx = context.WithValue(ctx, headTimerKey{}, timer)
	} else {
		ctx, cancel = context.WithTimeout(r.Context(), class.Timeout)
	}
	if u, ok := r.Body.(*upload); ok {
		ctx = context.WithValue(ctx, uploadKey{}, u)
	}
	defer cancel()
	p.reverse.ServeHTTP(w, r.WithContext(ctx))
	return nil
}

// Keys of values in a request's context: the timer that bounds the wait for an answer's head, where its end is not bounded, and the upload
// that is passed on.
type (
	headTimerKey struct{}
	uploadKey    struct{}
)

// rewrite makes the request that the service gets: the path as it came, what only the gateway may say, and nothing
// that concerns the public connection.
func (p *proxy) rewrite(pr *httputil.ProxyRequest) {
	out := pr.Out
	out.URL.Scheme, out.URL.Host, out.Host = "https", p.service, p.service
	for name := range out.Header {
		if strings.HasPrefix(name, "X-Rumi-") {
			delete(out.Header, name)
		}
	}
	for _, name := range []string{"Authorization", "Cookie", "Connection", "Upgrade", "Expect", "Te", "Trailer"} {
		delete(out.Header, name)
	}
	rpc.SetOrigin(out.Header, origin.Of(pr.In.Context()))
}

// checkResponse checks the head of an answer before it is passed on. What is no envelope of ours (a redirect, an error page of the HTTP
// library) is a failure of the service.
func (p *proxy) checkResponse(answer *http.Response) error {
	if timer, ok := answer.Request.Context().Value(headTimerKey{}).(*time.Timer); ok {
		timer.Stop()
	}
	p.lastAnswer.record()
	answer.Header.Del(rpc.RequestIDHeader) // ours is set
	if answer.StatusCode >= 300 {
		kind, _, err := mime.ParseMediaType(answer.Header.Get("Content-Type"))
		if answer.StatusCode < 400 || err != nil || kind != "application/json" {
			return fmt.Errorf("%s answered %d without an envelope", p.service, answer.StatusCode)
		}
	}
	return nil
}

// writeFailure answers a request that its service has not answered. It is called before anything has been written.
func (p *proxy) writeFailure(w http.ResponseWriter, r *http.Request, err error) {
	if u, ok := r.Context().Value(uploadKey{}).(*upload); ok && u.failure() != nil {
		w.Header().Set("Connection", "close")
		err = bodyFault(u.failure())
	} else if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		err = fault.ServiceUnavailable(p.service).Because(err)
	}
	rpc.WriteError(r.Context(), w, err)
}

// buffers keeps the buffers that answers are copied through.
type buffers struct{}

const bufferSize = 32 << 10

var pool = sync.Pool{New: func() any { return new([bufferSize]byte) }}

func (buffers) Get() []byte { return pool.Get().(*[bufferSize]byte)[:] }

func (buffers) Put(b []byte) { pool.Put((*[bufferSize]byte)(b)) }
