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
	service string
	contact *contact
	reverse *httputil.ReverseProxy
}

func newProxy(service string, peer http.RoundTripper, contact *contact, log *slog.Logger) *proxy {
	p := &proxy{service: service, contact: contact}
	p.reverse = &httputil.ReverseProxy{
		Rewrite:        p.rewrite,
		Transport:      peer,
		ModifyResponse: p.received,
		ErrorHandler:   p.failed,
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
		ctx = context.WithValue(ctx, beginning{}, timer)
	} else {
		ctx, cancel = context.WithTimeout(r.Context(), class.Timeout)
	}
	if u, ok := r.Body.(*upload); ok {
		ctx = context.WithValue(ctx, sending{}, u)
	}
	defer cancel()
	p.reverse.ServeHTTP(w, r.WithContext(ctx))
	return nil
}

// Context keys: the timer that runs until an answer begins, where its end is not bounded, and the upload that is sent.
type (
	beginning struct{}
	sending   struct{}
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
	from := origin.Of(pr.In.Context())
	out.Header.Set(rpc.RequestIDHeader, from.RequestID)
	out.Header.Set(rpc.ActorHeader, from.Actor)
	out.Header.Set(rpc.AddressHeader, from.Address)
}

// received looks at an answer before it is passed on.
func (p *proxy) received(answer *http.Response) error {
	if timer, ok := answer.Request.Context().Value(beginning{}).(*time.Timer); ok {
		timer.Stop()
	}
	p.contact.answered()
	answer.Header.Del(rpc.RequestIDHeader) // ours is set
	if answer.StatusCode >= 300 {
		kind, _, err := mime.ParseMediaType(answer.Header.Get("Content-Type"))
		if answer.StatusCode < 400 || err != nil || kind != "application/json" {
			return fmt.Errorf("%s answered %d without an envelope", p.service, answer.StatusCode)
		}
	}
	return nil
}

// failed answers what the service didn't. It is called before anything has been written.
func (p *proxy) failed(w http.ResponseWriter, r *http.Request, err error) {
	if u, ok := r.Context().Value(sending{}).(*upload); ok && u.failure() != nil {
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
