package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/go-kit/kit/endpoint"
	"github.com/go-kit/kit/sd"
	"github.com/go-kit/kit/sd/lb"
	kitlog "github.com/go-kit/log"
	"go.opentelemetry.io/otel/trace"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/identity"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/rpc/telemetry"
)

const (
	// CallTimeout bounds a Call whose context has no deadline of its own.
	CallTimeout = 10 * time.Second

	connectTimeout   = time.Second     // to find and reach an instance
	handshakeTimeout = 3 * time.Second // with one that was reached: a hundred at once take a busy machine more than a second
	maxAttempts      = 2               // of an idempotent request
	maxAnswer        = 64 << 20        // bytes of a unary answer
)

// Config has the parts of the calling service that a Peer uses.
type Config struct {
	Log      *slog.Logger
	Tracing  trace.TracerProvider
	Identity *identity.Identity // of the calling service

	// Refused is called for each connection that isn't used because of what the other end showed in the handshake; nil for no such call.
	Refused func(ctx context.Context, peer string, r identity.Refusal)
}

// Peer is another service: all its instances, balanced, each behind a circuit breaker.
//
// It is one go-kit chain (instancer → balancer → breaker per instance → traced HTTP; see direct for the last). Retries are our own: go-kit's
// lb.Retry cancels the request's context when it returns, which would cut every body that is read afterwards.
type Peer struct {
	name     string
	balancer lb.Balancer
	metrics  peerMetrics
}

// NewPeer makes the client of the service name, whose instances instancer finds. A call right after NewPeer finds instances only if the
// instancer's Register sends them twice, as that of discovery.Static does; the reason is there.
func NewPeer(name string, instancer sd.Instancer, cfg Config, metrics *Metrics) *Peer {
	return newPeer(name, instancer, cfg, metrics, takes)
}

// newPeer is NewPeer with the choice of requests that are sent by direct; the others are sent by http.Transport.
func newPeer(name string, instancer sd.Instancer, cfg Config, metrics *Metrics, takes func(*http.Request) bool) *Peer {
	secure, own := securing{name, cfg}, metrics.of(name)
	var hosts sync.Map // *host by instance
	pool := &pool{id: cfg.Identity, dial: func(ctx context.Context, _, address string) (net.Conn, error) {
		known, ok := hosts.Load(address)
		if !ok {
			return nil, fmt.Errorf("connect: %s is no instance of %s", address, name)
		}
		to := known.(*host)
		addresses, err := to.inTurn(ctx)
		if err != nil {
			return nil, err
		}
		conn, _, err := to.dial(ctx, addresses)
		if err != nil {
			return nil, err
		}
		peer, _, err := secure.handshake(ctx, conn)
		if err != nil {
			return nil, err
		}
		return peer, nil
	}}
	tracer := cfg.Tracing.Tracer(telemetry.TracerName)
	factory := func(instance string) (endpoint.Endpoint, io.Closer, error) {
		to, err := newHost(instance)
		if err != nil {
			return nil, nil, err
		}
		hosts.Store(instance, to)
		direct := newDirect(to, secure)
		send := func(r *http.Request) (*http.Response, error) {
			if takes(r) {
				r.URL.Scheme, r.URL.Host = "https", instance
				return direct.RoundTrip(r)
			}
			r = r.Clone(r.Context()) // http.Transport may still read it after an error, when it is changed for another instance
			r.URL.Scheme, r.URL.Host = "https", instance
			r.Close = r.Method == http.MethodHead // see direct: its connection is not kept
			return pool.transport().RoundTrip(r)
		}
		exchange := func(_ context.Context, request any) (any, error) { // the context is the request's
			if on, ok := request.(passed); ok {
				return telemetry.Pass(tracer, name, on.Request, send) //nolint:bodyclose // the caller of RoundTrip closes it
			}
			return telemetry.RoundTrip(tracer, name, request.(*http.Request), send) //nolint:bodyclose // the caller of Stream closes it
		}
		return breaking(name+"@"+instance, cfg.Log, own.circuitOpen)(exchange), direct, nil
	}
	endpointer := sd.NewEndpointer(instancer, factory, kitlog.NewNopLogger())
	return &Peer{name: name, balancer: lb.NewRoundRobin(endpointer), metrics: own}
}

// securing makes open connections those of a service.
type securing struct {
	name string // of the service
	cfg  Config
}

// handshake makes raw a connection to the service; watched is below it. If the handshake fails or takes too long, raw is closed.
func (s securing) handshake(ctx context.Context, raw net.Conn) (conn *tls.Conn, watched *identity.Conn, err error) {
	bound, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	watched = s.cfg.Identity.Watch(raw)
	conn = tls.Client(watched, s.cfg.Identity.Client(s.name))
	if err = conn.HandshakeContext(bound); err == nil {
		err = watched.Admit(conn.ConnectionState())
	}
	if err == nil {
		return conn, watched, nil
	}
	watched.Close()
	if r, ok := identity.RefusalOf(err); ok && s.cfg.Refused != nil {
		s.cfg.Refused(ctx, s.name, r)
	}
	return nil, nil, fmt.Errorf("connect: %w", err)
}

// RoundTrip passes r on to an instance of the service: a request that the caller was itself asked. r is its own from then on: it sets scheme and host
// of the URL, and the headers of the trace. A request that may be repeated is tried at a second instance when the first can't be reached. The
// error is a fault of kind unavailable, or the context's own. It has the method of http.RoundTripper, but that one must leave a request as it is.
func (p *Peer) RoundTrip(r *http.Request) (*http.Response, error) { return p.send(r, passed{r}) }

// passed is a request to an instance's endpoint that its caller only passes on; a *http.Request is the caller's own.
type passed struct{ *http.Request }

// send sends r, as request says, and sets what RoundTrip says.
func (p *Peer) send(r *http.Request, request any) (*http.Response, error) {
	began, ctx := time.Now(), r.Context()
	span := trace.SpanContextFromContext(ctx)
	attempts := 1
	if repeatable(r) {
		attempts = maxAttempts
	}
	if ctx.Err() != nil { // a connection would be spent on it
		attempts = 0
	}
	var last error
	for range attempts {
		instance, err := p.balancer.Endpoint()
		if err != nil {
			last = err
			break
		}
		response, err := instance(ctx, request)
		if err == nil {
			p.metrics.ok.Observe(span, time.Since(began))
			return response.(*http.Response), nil
		}
		if ctx.Err() != nil {
			break
		}
		last = err
	}
	closeBody(r) // no instance may have got the request, and an http.RoundTripper must close the body in any case
	if err := ctx.Err(); errors.Is(err, context.Canceled) {
		p.metrics.cancelled.Observe(span, time.Since(began))
		return nil, err
	} else if err != nil {
		last = err
	}
	p.metrics.unavailable.Observe(span, time.Since(began))
	return nil, fault.ServiceUnavailable(p.name).Because(last)
}

func repeatable(r *http.Request) bool {
	return (r.Method == http.MethodGet || r.Method == http.MethodHead) && (r.Body == nil || r.Body == http.NoBody)
}

// Call sends body (nil for none) to a path of the peer and returns the answer's data. A failure that the peer
// answered is a fault of the same kind, code and message. Without a deadline in ctx it takes CallTimeout at most.
func Call[Resp any](ctx context.Context, p *Peer, method, path string, body any) (Resp, error) {
	var data Resp
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, CallTimeout)
		defer cancel()
	}
	response, err := p.Stream(ctx, method, path, body)
	if err != nil {
		return data, err
	}
	defer response.Body.Close()
	answer, err := readEnvelope(response)
	if err != nil {
		return data, fmt.Errorf("call %s %s: %w", p.name, path, err)
	}
	if !answer.Success {
		return data, fmt.Errorf("call %s %s: status %d without success", p.name, path, response.StatusCode)
	}
	if len(answer.Data) == 0 || answer.Data.Kind() == 'n' {
		return data, nil
	}
	if err := json.Unmarshal(answer.Data, &data); err != nil {
		return data, fmt.Errorf("call %s %s: %w", p.name, path, err)
	}
	return data, nil
}

// Stream sends body (nil for none, an io.Reader as it is, anything else as JSON) and returns the answer for its body to
// be read and closed by the caller. A status other than 2xx is returned as the fault it stands for.
func (p *Peer) Stream(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var reader io.Reader
	switch b := body.(type) {
	case nil:
	case io.Reader:
		reader = b
	default:
		data, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("call %s %s: %w", p.name, path, err)
		}
		reader = bytes.NewReader(data)
	}
	r, err := http.NewRequestWithContext(ctx, method, "https://"+p.name+path, reader)
	if err != nil {
		return nil, fmt.Errorf("call %s %s: %w", p.name, path, err)
	}
	rpc.SetOrigin(r.Header, origin.Of(ctx))
	response, err := p.send(r, r)
	if err != nil {
		return nil, err
	}
	if response.StatusCode/100 == 2 {
		return response, nil
	}
	defer response.Body.Close()
	return nil, p.failure(response)
}

// failure turns an answered failure back into the fault that the peer meant.
func (p *Peer) failure(response *http.Response) error {
	answer, err := readEnvelope(response)
	if err == nil && answer.Error == nil {
		err = errors.New("no error in it")
	}
	if err != nil {
		return fmt.Errorf("call %s: status %d without a readable answer: %w", p.name, response.StatusCode, err)
	}
	kind := fault.KindOf(response.StatusCode)
	f := fault.Answered(kind, answer.ErrorCode, *answer.Error)
	if len(answer.Data) > 0 && answer.Data.Kind() != 'n' {
		f.Data = answer.Data
	}
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil {
		f.RetryAfter = time.Duration(seconds) * time.Second
	}
	return f.Because(fmt.Errorf("answered by %s", p.name))
}

func readEnvelope(response *http.Response) (rpc.Answer, error) {
	var answer rpc.Answer
	data, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	if err != nil {
		return answer, fmt.Errorf("read answer: %w", err)
	}
	if len(data) > maxAnswer {
		return answer, fmt.Errorf("read answer: longer than %d bytes", maxAnswer)
	}
	if err := json.Unmarshal(data, &answer, jsontext.AllowInvalidUTF8(true)); err != nil {
		return answer, fmt.Errorf("read answer: %w", err)
	}
	return answer, nil
}
