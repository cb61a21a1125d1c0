package rpc

import (
	"context"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/go-kit/kit/transport"
	httptransport "github.com/go-kit/kit/transport/http"

	"github.com/rumi-ai/rumi/libs/fault"
)

// Handle makes an endpoint of fn: the request is decoded by Decode, what fn returns is the answer's data, its error
// becomes the answer that fault gives it. The status is 200, or what the data's method StatusCode says (go-kit's StatusCoder), such as 202
// for a decision that is recorded and not carried out.
func Handle[Req, Resp any](fn func(context.Context, Req) (Resp, error)) http.Handler {
	return httptransport.NewServer(
		func(ctx context.Context, request any) (any, error) { return fn(ctx, request.(Req)) },
		func(_ context.Context, r *http.Request) (any, error) { return Decode[Req](r) },
		func(_ context.Context, w http.ResponseWriter, response any) error {
			status := http.StatusOK
			if coder, ok := response.(httptransport.StatusCoder); ok {
				status = coder.StatusCode()
			}
			return write(w, status, envelope{Success: true, Data: response})
		},
		httptransport.ServerErrorEncoder(func(ctx context.Context, err error, w http.ResponseWriter) { WriteError(ctx, w, err) }),
		// What can be said of an error is said by WriteError; go-kit's own handler would say it twice.
		httptransport.ServerErrorHandler(transport.ErrorHandlerFunc(func(context.Context, error) {})),
	)
}

// Raw makes an endpoint of a function that reads or writes bodies itself: streams and uploads. An error before the
// first byte is answered as by Handle; after it the connection is cut, so that the client doesn't take a part of the answer for all of it. For HEAD the
// request's context ends, and writes fail, once the head of a stream is written (see statusWriter).
func Raw(fn func(w http.ResponseWriter, r *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tracked := &trackingWriter{ResponseWriter: w}
		body := TrackBody(r)
		err := fn(tracked, r)
		if err == nil {
			return
		}
		if !tracked.wrote {
			if body.Unread() {
				w.Header().Set("Connection", "close")
			}
			WriteError(r.Context(), w, err)
			body.Linger(w)
			return
		}
		if r.Method == http.MethodHead {
			return // the head was the whole answer
		}
		if r.Context().Err() == nil {
			logger(r.Context()).ErrorContext(r.Context(), "cut an answer short", "path", r.URL.Path, "error", err)
		}
		panic(http.ErrAbortHandler)
	})
}

// WriteData answers with the envelope of a success.
func WriteData(w http.ResponseWriter, data any) error {
	return write(w, http.StatusOK, envelope{Success: true, Data: data})
}

// WriteError answers with the envelope of a failure. An internal fault is logged whole; the client learns nothing of it.
func WriteError(ctx context.Context, w http.ResponseWriter, err error) {
	f := fault.Of(err)
	if f.Kind == fault.KindInternal {
		logger(ctx).ErrorContext(ctx, "failed unexpectedly", "error", err)
	}
	after := f.RetryAfter
	if after <= 0 && (f.Kind == fault.KindUnavailable || f.Kind == fault.KindLimited) {
		after = time.Second
	}
	if after > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(after.Seconds()))))
	}
	message := f.Message
	if f.Kind == fault.KindInternal {
		message = "Internal server error"
	}
	body := envelope{Data: f.Data, Error: &message, ErrorCode: f.ErrorCode()}
	if err := write(w, f.Kind.Status(), body); err != nil {
		logger(ctx).DebugContext(ctx, "could not answer", "error", err)
	}
}

func write(w http.ResponseWriter, status int, body envelope) error {
	// What is JSON already, such as an entry of the audit log, is answered byte for byte: its hash is sealed.
	data, err := json.Marshal(body, json.Deterministic(true), jsontext.AllowInvalidUTF8(true), jsontext.PreserveRawStrings(true))
	if err != nil {
		return fault.Of(err)
	}
	return send(w, status, data)
}

// send writes an answer that is whole.
func send(w http.ResponseWriter, status int, data []byte) error {
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	head(w, status)
	_, err := w.Write(data)
	return err
}

// head begins an answer.
func head(w http.ResponseWriter, status int) {
	w.Header()["Content-Type"] = asJSON
	w.WriteHeader(status)
}

// Values of headers that are the same in each answer, so that none of them takes memory of its own.
var (
	asJSON  = []string{"application/json; charset=utf-8"}
	noSniff = []string{"nosniff"}
	noStore = []string{"no-store"}
)

// ForBrowsers sets the headers that keep a browser from storing an answer, and from taking it for something else than it says. The gateway
// sets them in all answers to clients; between services they would only cost.
func ForBrowsers(h http.Header) {
	h["X-Content-Type-Options"], h["Cache-Control"] = noSniff, noStore
}

// trackingWriter knows whether an answer has begun.
type trackingWriter struct {
	http.ResponseWriter
	wrote bool
}

func (w *trackingWriter) WriteHeader(status int) {
	w.wrote = true
	w.ResponseWriter.WriteHeader(status)
}

func (w *trackingWriter) Write(p []byte) (int, error) {
	w.wrote = true
	return w.ResponseWriter.Write(p)
}

// FlushError implements what http.ResponseController looks for: an answer that was flushed has begun.
func (w *trackingWriter) FlushError() error {
	w.wrote = true
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Unwrap lets http.ResponseController reach the connection.
func (w *trackingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

type loggerKey struct{}

// WithLogger has WriteError log to l; for handlers that no Mux serves.
func WithLogger(ctx context.Context, l *slog.Logger) context.Context {
	return context.WithValue(ctx, loggerKey{}, l)
}

// logger is the Mux's, out of the request's context.
func logger(ctx context.Context) *slog.Logger {
	if l, ok := ctx.Value(loggerKey{}).(*slog.Logger); ok {
		return l
	}
	return slog.Default()
}
