package edge

import (
	"bytes"
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/rpc/server"
	"github.com/rumi-ai/rumi/services/gateway/internal/route"
)

const (
	bodyTimeout  = 30 * time.Second // for all of a JSON body
	stallTimeout = 30 * time.Second // for the next piece of an upload to arrive, or of an answer to be read by the client
)

// boundBody replaces r's body by one that is bounded. A JSON body is read here, so that no service sees half of one or
// waits for a slow client; an upload is passed on as it comes. stop must be called when the exchange is over.
func boundBody(raw http.ResponseWriter, r *http.Request, class route.Class) (stop func(), err error) {
	stop = func() {}
	if r.Body == nil || r.Body == http.NoBody {
		return stop, nil
	}
	limit := int64(rpc.MaxBody)
	uploading := class.Upload > 0 && isMultipart(r)
	if uploading {
		limit = class.Upload
	}
	if r.ContentLength > limit {
		raw.Header().Set("Connection", "close")
		f := fault.BodyTooLarge()
		if class.Upload > 0 && !uploading {
			f.Message += ": an archive is sent as the field 'file' of a form (curl -F file=@my_pack.zip)"
		}
		return stop, f
	}
	bounded := http.MaxBytesReader(raw, r.Body, limit)
	deadline := http.NewResponseController(raw)
	if uploading {
		u := &upload{ReadCloser: bounded, deadline: deadline}
		r.Body = u
		return u.stop, nil
	}
	var body bytes.Buffer
	if _, err := body.ReadFrom(bounded); err != nil {
		raw.Header().Set("Connection", "close")
		return stop, bodyFault(err)
	}
	// net/http also reads the connection, to notice a client that disconnects. It must not take the deadline for that.
	if err := deadline.SetReadDeadline(time.Time{}); err != nil {
		return stop, err
	}
	r.ContentLength, r.TransferEncoding, r.Trailer = int64(body.Len()), nil, nil
	r.Body = http.NoBody
	if body.Len() > 0 {
		r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body.Bytes())), nil }
		r.Body = io.NopCloser(&body)
	}
	return stop, nil
}

func isMultipart(r *http.Request) bool {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return err == nil && kind == "multipart/form-data"
}

func bodyFault(err error) *fault.Fault {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return fault.BodyTooLarge()
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fault.Invalid("Request body was not received in time").With("body_timeout")
	}
	return fault.BodyUnreadable().Because(err)
}

// upload is a body on its way through. Each piece of it must arrive within stallTimeout.
type upload struct {
	io.ReadCloser
	deadline *http.ResponseController

	mu      sync.Mutex
	stopped bool
	ended   bool // it has arrived whole
	failed  error
}

func (u *upload) Read(p []byte) (int, error) {
	if !u.extend(time.Now().Add(stallTimeout)) {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := u.ReadCloser.Read(p)
	switch {
	case err == io.EOF:
		u.finish()
	case err != nil:
		u.fail(err)
		err = &bodyError{err}
	}
	return n, err
}

func (u *upload) finish() {
	u.extend(time.Time{})
	u.mu.Lock()
	defer u.mu.Unlock()
	u.ended = true
}

// cut breaks the upload off, unless it has arrived whole: then the service may act on it, and cut returns false. A read that waits for the client
// ends at once.
func (u *upload) cut() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.ended && !u.stopped {
		u.stopped = true
		_ = u.deadline.SetReadDeadline(time.Now())
	}
	return !u.ended
}

func (u *upload) fail(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.failed == nil {
		u.failed = err
	}
}

// failure is why the body could not be read to its end, nil where that isn't so.
func (u *upload) failure() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.failed
}

// stop keeps a transport that still reads from moving the deadline of the connection's next request.
func (u *upload) stop() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.stopped = true
}

func (u *upload) extend(until time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return !u.stopped && u.deadline.SetReadDeadline(until) == nil
}

// bodyError is a failure of the client's that surfaces in the call to a service. It passes for a cancelled call, since
// it says nothing about the service: its circuit breaker must not count it.
type bodyError struct{ cause error }

func (e *bodyError) Error() string { return "read request body: " + e.cause.Error() }

func (e *bodyError) Unwrap() error { return e.cause }

func (e *bodyError) Is(target error) bool { return target == context.Canceled }

// answerWriter knows how an answer began, and gives up on a client that doesn't take it.
type answerWriter struct {
	http.ResponseWriter
	ctx   context.Context // of the request, before it was authenticated
	code  int
	wrote bool
	body  *rpc.Body // of the request; nil where it has none
}

func (w *answerWriter) WriteHeader(code int) {
	if code >= 200 && !w.wrote {
		w.code, w.wrote = code, true
		if w.body.Unread() {
			// Or the server would read what is left of the body, however slowly it comes, before it answers.
			w.Header().Set("Connection", "close")
		}
	}
	server.ExtendWrite(w.ctx, w.ResponseWriter, stallTimeout)
	w.ResponseWriter.WriteHeader(code)
}

func (w *answerWriter) Write(p []byte) (int, error) {
	w.wrote = true
	server.ExtendWrite(w.ctx, w.ResponseWriter, stallTimeout)
	return w.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *answerWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
