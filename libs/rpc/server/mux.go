package server

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"path"
	"runtime/debug"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/rpc/telemetry"
)

// Config has the parts of its service that a Mux uses.
type Config struct {
	Log     *slog.Logger
	Metrics prometheus.Registerer // a Mux registers its histogram with it, so it is for one Mux
	Tracing trace.TracerProvider

	// Refused is called for each request that its route doesn't admit; nil for no such call.
	Refused func(ctx context.Context, caller, route string)
}

// Mux routes by method and path, answers 404 and 405 in the envelope, and admits callers by certificate.
type Mux struct {
	cfg      Config
	mux      *http.ServeMux
	recorder *telemetry.Recorder
}

// NewMux makes a Mux without routes.
func NewMux(cfg Config) *Mux {
	return &Mux{cfg: cfg, mux: http.NewServeMux(), recorder: telemetry.NewRecorder(cfg.Log, cfg.Metrics, cfg.Tracing.Tracer(telemetry.TracerName), slog.LevelDebug)}
}

// Route serves a pattern of http.ServeMux ("POST /api/packs/{pack_id}/approve") for the services named by callers and
// for nobody else.
func (m *Mux) Route(pattern string, h http.Handler, callers ...string) {
	m.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		caller := origin.Of(r.Context()).Caller
		if caller == "" || !slices.Contains(callers, caller) {
			m.cfg.Log.WarnContext(r.Context(), "refused a caller", "caller", caller, "route", pattern)
			if m.cfg.Refused != nil {
				m.cfg.Refused(r.Context(), caller, pattern)
			}
			rpc.WriteError(r.Context(), w, fault.Denied("Caller not allowed").With("caller_not_allowed"))
			return
		}
		h.ServeHTTP(w, r)
	})
}

// ServeHTTP implements http.Handler.
func (m *Mux) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	from := rpc.OriginOf(r)
	ctx, span := m.recorder.Begin(r)
	ctx = origin.With(rpc.WithLogger(ctx, m.cfg.Log), from)
	r = r.WithContext(ctx)
	w.Header().Set(rpc.RequestIDHeader, from.RequestID)
	if Retired(ctx) {
		w.Header().Set("Connection", "close")
	}

	status := &statusWriter{ResponseWriter: w, code: http.StatusOK}
	if r.Method == http.MethodHead { // which http.ServeMux hands to the handlers of GET
		ended, end := context.WithCancel(ctx)
		defer end()
		r, status.headOnly = r.WithContext(ended), end
	}
	h, pattern := m.mux.Handler(r)
	defer func() {
		p := recover()
		if p != nil && p != any(http.ErrAbortHandler) {
			m.cfg.Log.ErrorContext(ctx, "panicked", "panic", p, "stack", string(debug.Stack()))
			if status.wrote {
				p = http.ErrAbortHandler
			} else {
				rpc.WriteError(ctx, status, errors.New("panic"))
				p = nil
			}
		}
		m.recorder.End(ctx, span, r, pattern, status.code, time.Since(began))
		if p != nil {
			panic(p)
		}
	}()
	if pattern == "" {
		rpc.WriteError(ctx, status, unrouted(h, r))
		return
	}
	if !clean(r.URL.Path) { // http.ServeMux would redirect to the path that it takes this one for
		rpc.WriteError(ctx, status, fault.NoRoute())
		return
	}
	m.mux.ServeHTTP(status, r)
}

// clean says whether a path has no empty segment, "." or "..".
func clean(p string) bool { return path.Clean(p) == p || path.Clean(p)+"/" == p }

// unrouted asks the standard library's fallback handler whether a path is unknown or only its method is.
func unrouted(h http.Handler, r *http.Request) error {
	answer := &discardWriter{header: http.Header{}}
	h.ServeHTTP(answer, r)
	if answer.code == http.StatusMethodNotAllowed {
		return fault.MethodNotAllowed()
	}
	return fault.NoRoute()
}

type discardWriter struct {
	header http.Header
	code   int
}

func (w *discardWriter) Header() http.Header         { return w.header }
func (w *discardWriter) WriteHeader(code int)        { w.code = code }
func (w *discardWriter) Write(p []byte) (int, error) { return len(p), nil }

// statusWriter knows how an answer began. The answer to HEAD ends with its head. Without an end there, a handler that streams
// would go on writing to a client that reads nothing more; and the client's next request on the connection would wait for it, because the
// client takes the answer for complete.
type statusWriter struct {
	http.ResponseWriter
	code     int
	wrote    bool
	headOnly context.CancelFunc // ends the context of a HEAD request; nil for other methods
}

// errHeadOnly ends handlers that stream.
var errHeadOnly = errors.New("the answer to HEAD has no body")

func (w *statusWriter) WriteHeader(code int) {
	first := !w.wrote && code >= 200
	if !w.wrote {
		w.code, w.wrote = code, true
	}
	w.ResponseWriter.WriteHeader(code)
	if first && w.headOnly != nil && w.streams() {
		_ = http.NewResponseController(w.ResponseWriter).Flush()
		w.headOnly()
	}
}

func (w *statusWriter) Write(p []byte) (int, error) {
	if w.headOnly == nil {
		w.wrote = true
		return w.ResponseWriter.Write(p)
	}
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	if w.streams() {
		return 0, errHeadOnly
	}
	return len(p), nil
}

// streams says whether an answer has no length: what has one is written and done with.
func (w *statusWriter) streams() bool { return w.Header().Get("Content-Length") == "" }

// FlushError implements what http.ResponseController looks for: a handler that flushes has begun its answer.
func (w *statusWriter) FlushError() error {
	if w.headOnly != nil && !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Unwrap lets http.ResponseController reach the connection.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
