package service

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/discovery"
	"github.com/rumi-ai/rumi/libs/identity"
	"github.com/rumi-ai/rumi/libs/identity/renewal"
	"github.com/rumi-ai/rumi/libs/packtrace"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/rpc/client"
	"github.com/rumi-ai/rumi/libs/rpc/server"
	"github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/libs/tracing"
)

const (
	stopTimeout       = 15 * time.Second // for all of a shutdown; compose kills after 20
	drainTimeout      = 3 * time.Second  // for requests that are being answered when it begins
	streamTimeout     = time.Second      // after which of it the contexts of those requests end: streams never end by themselves
	readHeaderTimeout = 5 * time.Second
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 64 << 10
)

// Runtime is what a service gets to build itself: its logger, audit log, metrics, identity, clients of other services, and the start and stop
// of its parts. Its fields are set before Build is called and must not be changed. Build runs in one goroutine; Peer, Go, OnStop,
// ReadyWhen and Readiness may be called from any, at any time before the stop.
type Runtime struct {
	Name     string // as in libs/roster
	UserData string // the folder user_data of the Rumi home
	Log      *slog.Logger
	Audit    *audit.Log
	Metrics  *prometheus.Registry
	Tracing  *tracing.Tracing
	Tracer   trace.Tracer // of Tracing
	Identity *identity.Identity

	common    settings
	authority renewal.Authority // nil for the service secrets
	refusals  *audit.Refusals
	listens   []netip.AddrPort
	mux       *server.Mux
	public    http.Handler
	https     *tls.Config // of public; nil for plain HTTP
	calls     *client.Metrics
	failed    chan error
	stopping  chan struct{} // closed when the stop begins
	began     time.Time

	stopOnce   sync.Once
	mountsLost atomic.Bool

	mu    sync.Mutex
	peers map[string]*client.Peer
	ready []*condition
	disks []*disk
	stops []stop
}

// stop is what ends one thing that was started; name is for the log.
type stop struct {
	name string
	do   func(context.Context) error
}

// Mux is the router of the service's API, always the same. It is served with mutual TLS once Build has returned. It has the endpoints
// ReadyOf and MetricsOf already, and audits each caller that a route doesn't name.
func (rt *Runtime) Mux() *server.Mux {
	if rt.mux == nil {
		rt.mux = server.NewMux(server.Config{Log: rt.Log, Metrics: rt.Metrics, Tracing: rt.Tracing, Refused: rt.refusedCaller})
		ready := ReadyOf(rt.Name).Route()
		rt.mux.Route(ready.Name(), rpc.Handle(func(ctx context.Context, _ struct{}) (Readiness, error) {
			return rt.Readiness(ctx), nil
		}), ready.Callers...)
		metrics := MetricsOf(rt.Name).Route()
		rt.mux.Route(metrics.Name(), rpc.Raw(rt.answerMetrics), metrics.Callers...)
	}
	return rt.mux
}

// Public has h served on the API address, in plain HTTP or as PublicTLS says, instead of Mux. Only the gateway uses it: its clients are operators, without a
// certificate of the suite.
func (rt *Runtime) Public(h http.Handler) { rt.public = h }

// PublicTLS has what Public got served over TLS instead of plain HTTP.
func (rt *Runtime) PublicTLS(cfg *tls.Config) { rt.https = cfg }

// Peer is the client of the service name, the same one at each call, so that its connections and its circuit breaker are shared.
func (rt *Runtime) Peer(name string) *client.Peer {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if p, ok := rt.peers[name]; ok {
		return p
	}
	p := client.NewPeer(name, rt.common.directory.Instancer(name), rt.clientConfig(), rt.calls)
	rt.peers[name] = p
	return p
}

// Instances are clients of the single instances of another service, by address, where RUMI_PEERS names several; else its Peer.
func (rt *Runtime) Instances(name string) map[string]*client.Peer {
	addresses := rt.common.directory[name]
	if len(addresses) < 2 {
		return map[string]*client.Peer{"": rt.Peer(name)}
	}
	instances := make(map[string]*client.Peer, len(addresses))
	for _, address := range addresses {
		one := discovery.Static{name: {address}}
		instances[address] = client.NewPeer(name, one.Instancer(name), rt.clientConfig(), rt.calls)
	}
	return instances
}

// Store is the configuration of the service's database: PostgreSQL if RUMI_DATABASE_URL is set, else SQLite in user_data/state.
func (rt *Runtime) Store() store.Config {
	return store.Config{Dir: filepath.Join(rt.UserData, "state"), Service: rt.Name, URL: rt.common.DatabaseURL, Metrics: rt.Metrics}
}

// Listening are the addresses of the service's own listeners, API first. An unspecified IP (0.0.0.0, ::) stands for all addresses of the
// host. egress-proxy refuses these as destinations.
func (rt *Runtime) Listening() []netip.AddrPort { return rt.listens }

// PackBorder is where traces of packs enter a service, and Rumi's are handed to them. Only services that mount the key know each other's.
func (rt *Runtime) PackBorder() packtrace.Border {
	path := filepath.Join(rt.UserData, "settings", packtrace.Dir, packtrace.File)
	return packtrace.Border{Key: packtrace.LoadOrRandom(path, rt.Log), Samples: rt.Tracing.Samples}
}

// Directory has the addresses of the other services, as far as RUMI_PEERS names them.
func (rt *Runtime) Directory() discovery.Static { return rt.common.directory }

// Go runs f in a goroutine. The context of f ends at the stop, after everything that was started later has been stopped; the stop then waits
// for f. An error of f before that stops the service, and the process exits 1; context.Canceled counts as none.
func (rt *Runtime) Go(name string, f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := f(ctx); err != nil && !errors.Is(err, context.Canceled) {
			rt.fail(fmt.Errorf("run %s: %w", name, err))
		}
	}()
	rt.OnStop(name, func(bound context.Context) error {
		cancel()
		select {
		case <-done:
			return nil
		case <-bound.Done():
			return fmt.Errorf("%s is still running", name)
		}
	})
}

// OnStop registers do, which is called at the stop, after what was registered later. name is for the log. The context of do ends
// with the time for the whole stop (15 s).
func (rt *Runtime) OnStop(name string, do func(context.Context) error) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	rt.stops = append(rt.stops, stop{name, do})
}

// Stopping is closed when the stop of the service begins. Answers that never end by themselves end then: the connections of their clients would be
// cut a few seconds later.
func (rt *Runtime) Stopping() <-chan struct{} { return rt.stopping }

// fail stops the service with err. It never blocks.
func (rt *Runtime) fail(err error) {
	select {
	case rt.failed <- err:
	default: // an earlier failure is already stopping the service
	}
}

// start builds and serves a service. The listeners are open already: a client that is started beside it can connect from the beginning, and
// an address that is in use is an error before anything has run. start closes them if it fails.
func start[C any](ctx context.Context, name string, common settings, cfg C, build Build[C], api, admin net.Listener, logs io.Writer) (*Runtime, error) {
	rt := &Runtime{
		Name:     name,
		UserData: common.UserData,
		Log:      newLogger(logs, name, common.LogLevel),
		Metrics:  prometheus.NewRegistry(),
		common:   common,
		failed:   make(chan error, 1),
		stopping: make(chan struct{}),
		peers:    map[string]*client.Peer{},
		began:    time.Now(),
	}
	for _, l := range []net.Listener{api, admin} {
		if tcp, ok := l.Addr().(*net.TCPAddr); ok {
			rt.listens = append(rt.listens, tcp.AddrPort())
		}
	}
	err := rt.assemble(ctx)
	if err == nil {
		err = build(ctx, rt, cfg)
	}
	if err == nil {
		rt.keepIdentity()
		rt.Go("readiness entries", (&readyLog{ready: rt.Readiness, write: rt.Audit.Write}).run)
		err = rt.serve(api, admin)
	}
	if err != nil {
		api.Close()
		admin.Close()
		return nil, errors.Join(fmt.Errorf("start %s: %w", name, err), rt.Stop())
	}
	rt.Log.Info("started", "address", api.Addr().String(), "admin", admin.Addr().String(), "duration_seconds", time.Since(rt.began).Seconds())
	return rt, nil
}

// assemble makes the parts that all services have. The audit log is opened early, so that it is closed late: what stops before it can
// still write entries.
func (rt *Runtime) assemble(ctx context.Context) error {
	rt.registerMetrics()
	rt.calls = client.NewMetrics(rt.Metrics)
	var err error
	if rt.Tracing, err = tracing.New(ctx, tracing.Config{Service: rt.Name, Version: Version(), Log: rt.Log, Metrics: rt.Metrics}); err != nil {
		return err
	}
	rt.OnStop("traces", rt.Tracing.Stop)
	rt.Go("collector of traces", rt.Tracing.Run)
	rt.Tracer = rt.Tracing.Tracer("github.com/rumi-ai/rumi")
	if rt.Identity, err = identity.Load(rt.common.IdentityDir); err != nil {
		return err
	}
	if rt.Identity.Name != rt.Name {
		return fmt.Errorf("load identity: %s is the identity of %q", rt.common.IdentityDir, rt.Identity.Name)
	}
	if rt.Audit, err = audit.Open(filepath.Join(rt.UserData, "audit"), rt.Name, rt.Log); err != nil {
		return err
	}
	rt.Metrics.MustRegister(rt.Audit)
	if err := rt.watchMounts(); err != nil {
		return err
	}
	rt.ReadyWhenWritable("audit log", "audit", filepath.Join(rt.UserData, "audit"))
	rt.OnStop("audit log", func(context.Context) error { return rt.Audit.Close() })
	rt.refusals = audit.NewRefusals(rt.Audit, dailyRefusals, rt.Log)
	rt.OnStop("refusals", rt.refusals.Flush)
	rt.Go("refusals", rt.refusals.Run)
	if err := rt.auditLife(ctx, "service_started"); err != nil {
		return err
	}
	rt.OnStop("audit entry", func(ctx context.Context) error { return rt.auditLife(ctx, "service_stopped") })
	return nil
}

// auditLife writes the entry of a start or a stop.
func (rt *Runtime) auditLife(ctx context.Context, action string) error {
	return rt.Audit.Write(ctx, audit.Entry{Category: audit.System, Severity: audit.Info, Action: action, Success: true})
}

// serve serves the admin listener and the API: what Public got, else Mux.
func (rt *Runtime) serve(api, admin net.Listener) error {
	rt.listen("admin", rt.adminHandler(), admin)
	switch {
	case rt.public != nil:
		if rt.https != nil {
			api = server.HTTPS(api, rt.https, rt.Log)
		}
		rt.listen("api", rt.public, server.EnvelopeRefusals(api, rt.Log))
	case rt.mux != nil:
		rt.listen("api", rt.mux, server.Listener(api, rt.Identity, rt.refusedConnection))
	default:
		return errors.New("the service has no API")
	}
	return nil
}

// newHTTPServer is the one http.Server of the suite's services. Its bounds are against clients that are slow or send too much: a header has
// readHeaderTimeout to come and at most maxHeaderBytes, an idle connection is closed after idleTimeout. That is longer than clients of the suite
// keep one (rpc/client), so that a service doesn't close a connection which a request is just being sent over. Bodies have no time-out here,
// since streams and uploads have no end that is known: the gateway bounds those of clients from outside.
func newHTTPServer(base context.Context, h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		BaseContext:       func(net.Listener) context.Context { return base },
		ConnContext:       server.ConnContext,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// listen serves h on l until the stop. That lets requests that are under way end: their contexts end after streamTimeout, since streams never
// end by themselves, and their connections after drainTimeout.
func (rt *Runtime) listen(name string, h http.Handler, l net.Listener) {
	base, cancel := context.WithCancel(context.Background())
	server := newHTTPServer(base, h, rt.Log)
	go func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			rt.fail(fmt.Errorf("serve %s: %w", name, err))
		}
	}()
	rt.OnStop(name+" listener", func(ctx context.Context) error {
		bound, stop := context.WithTimeout(ctx, drainTimeout)
		defer stop()
		defer time.AfterFunc(streamTimeout, cancel).Stop()
		err := server.Shutdown(bound)
		cancel()
		if err != nil {
			rt.Log.Warn("cut connections that did not end", "listener", name, "after_seconds", drainTimeout.Seconds())
			return server.Close()
		}
		return nil
	})
}

// Wait blocks until ctx ends or a part of the service fails, then stops the service. The error has that failure and those of the stop.
func (rt *Runtime) Wait(ctx context.Context) error {
	var failure error
	select {
	case <-ctx.Done():
	case failure = <-rt.failed:
		rt.Log.Error("failed", "error", failure)
	}
	return errors.Join(failure, rt.Stop())
}

// Stop ends everything that was started, the last first, within stopTimeout (15 s). The errors of all parts are joined: one that can't be
// stopped doesn't keep the others running. A second call does nothing.
func (rt *Runtime) Stop() error {
	rt.mu.Lock()
	stops := rt.stops
	rt.stops = nil
	rt.mu.Unlock()
	rt.stopOnce.Do(func() { close(rt.stopping) })
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	var problems []error
	for i := len(stops) - 1; i >= 0; i-- {
		if err := stops[i].do(ctx); err != nil {
			rt.Log.Error("could not stop", "what", stops[i].name, "error", err)
			problems = append(problems, fmt.Errorf("stop %s: %w", stops[i].name, err))
		}
	}
	return errors.Join(problems...)
}
