// Package worker runs calls of trusted handlers in warm containers. The protocol between broker and container is
// runtime/PROTOCOL.md.
//
// A handler was trusted by a person, but it is a pack author's code and is called with what other packs send it. So it runs in a
// container without network and sockets, under limits, and nothing that it answers or prints is believed: an answer must have the
// call's unguessable id, its size is bounded before it is read, exceptions' names are shown only if they are Python's own, and
// output is stored by request without letting one call write in the name of another.
//
// From bottom to top: conn.go (one worker's protocol), capture.go, logs.go, logread.go (what handlers print), spec.go (which calls share
// workers), backoff.go (how often workers may be started), lifecycle.go and pool.go (which worker does a call), containers.go (workers
// in containers). Package call uses Pool.Run.
package worker

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/libs/packtrace"
	"github.com/rumi-ai/rumi/libs/uds"
)

// Bounds of the worker protocol, in bytes.
const (
	maxOutput     = 1 << 20
	maxAnswer     = maxOutput + 4<<10
	maxUnreserved = 64 << 10 // the longest answer that is read without asking Job.Reserve
)

// Errors of Run, beside the context's own.
var (
	// ErrBusy: as many calls wait, or as many workers run, as the limits allow.
	ErrBusy = errors.New("run handler: too many calls wait")
	// ErrPaused: the handler's workers had to be replaced so often recently that the next one isn't started yet (see backoff).
	ErrPaused = errors.New("run handler: its workers end too often")
	// ErrTooLarge: the handler returned more than 1 MiB.
	ErrTooLarge = errors.New("run handler: its answer is too large")
	// ErrMount: a granted folder is missing, may not be mounted, or was replaced between check and mount.
	ErrMount = errors.New("run handler: a folder can't be mounted")
)

// FailedError says that a handler ran and did not succeed. It has nothing of what the handler was given or printed, since it goes into the
// audit log.
type FailedError struct {
	Kind string // load, args, exception, exit, coroutine or value, as the protocol has it; "lost" for a worker that ended or broke the protocol
	What string // the class of a built-in exception, or one of a few fixed texts
}

func (e *FailedError) Error() string { return "run handler: " + e.Kind + ": " + e.What }

// errRevoked fails a call whose worker was ended by a decision (a grant revoked, a gate closed), not by anything that the handler did.
var errRevoked = &FailedError{Kind: "lost", What: "its grant or its right to run was taken away"}

// Reason is the part of an error of Run that may be in the audit log.
func Reason(err error) string {
	if errors.Is(err, ErrMount) {
		return "A folder that is granted can't be mounted"
	}
	if f, ok := errors.AsType[*FailedError](err); ok {
		return "The handler failed (" + f.Kind + ": " + f.What + ")"
	}
	return "The handler could not be run"
}

// Job is one call of a handler.
type Job struct {
	Spec
	RequestID string
	Config    jsontext.Value // of the grant; an object
	Args      jsontext.Value // an object

	// Trace is what the handler learns of the trace that the call is in.
	Trace packtrace.Context

	// Begin, if not nil, is called when a worker is ready, just before it gets the job. Its error is Run's. A call may have waited long for
	// the worker, so the caller checks here once more that the call is still allowed.
	Begin func(ctx context.Context) error

	// Reserve, if not nil, is called before an answer of more than 64 KiB is read, with its length in bytes. The answer waits in the worker
	// until Reserve returns. After an error the answer isn't read, and the worker is ended.
	Reserve func(ctx context.Context, n int) error
}

// handlerContext is a handler's first argument.
type handlerContext struct {
	PrincipalID  string         `json:"principal_id"`
	PermissionID string         `json:"permission_id"`
	HandlerID    string         `json:"handler_id"`
	RequestID    string         `json:"request_id"`
	TS           string         `json:"ts"`
	GrantConfig  jsontext.Value `json:"grant_config"`
	TraceParent  string         `json:"traceparent,omitzero"` // the call's part in its trace (W3C Trace Context)
	TraceState   string         `json:"tracestate,omitzero"`
}

type wireCall struct {
	ID   string `json:"id"`
	Call string `json:"call"`
	Args []any  `json:"args"`
}

type wireAnswer struct {
	ID      string         `json:"id"`
	OK      bool           `json:"ok"`
	Output  jsontext.Value `json:"output"`
	Kind    string         `json:"kind"`
	Error   string         `json:"error"`
	Recycle bool           `json:"retire"`
}

// state is what a call has left of its worker.
type state int

const (
	usable  state = iota
	recycle       // it answered, and asked to be replaced
	suspect       // it answered, and its last calls have all failed
	broken        // it has ended or has to
)

// frame encodes a job, length first. Its id is random: a handler's code that is left running from an earlier call can't know it, and so
// can't answer this call.
func (j Job) frame() (id string, frame []byte, err error) {
	id = rand.Text()
	var b bytes.Buffer
	b.Write(make([]byte, 4))
	err = json.MarshalWrite(&b, wireCall{ID: id, Call: j.Trust.Entrypoint, Args: []any{handlerContext{
		PrincipalID: j.Principal, PermissionID: j.Trust.PermissionID, HandlerID: j.Trust.HandlerID,
		RequestID: j.RequestID, TS: time.Now().UTC().Format(time.RFC3339Nano), GrantConfig: j.Config,
		TraceParent: j.Trace.TraceParent, TraceState: j.Trace.TraceState,
	}, j.Args}})
	if err != nil {
		return "", nil, fmt.Errorf("encode call: %w", err)
	}
	binary.BigEndian.PutUint32(b.Bytes(), uint32(b.Len()-4))
	return id, b.Bytes(), nil
}

// Process is a started container whose worker waits for calls.
type Process interface {
	io.Reader // what the worker answers
	io.Writer // what it is asked
	// Kill ends it, whatever it does, so that Read and Write return. It may be called more than once.
	Kill()
}

// Announcer is a Process whose output is captured in the handler's log.
type Announcer interface {
	// Announce says which request a call is for, before the worker gets the call. call is the id on the wire.
	Announce(call, request string)
	// Note adds a line of the broker's own to what was printed for a request.
	Note(request, text string)
}

// Packaged is a Process that has its pack's installed packages mounted. The digest is "" for none.
type Packaged interface{ Packages() (digest string) }

// conn speaks the protocol with one worker. Its calls follow one after the other.
type conn struct {
	process  Process
	open     atomic.Bool       // a call waits for its answer
	reserve  func(n int) error // of the open call
	ctx      context.Context   // ends with end
	cancel   context.CancelFunc
	revoked  atomic.Bool // it is ended because no pack may use it any more
	answers  chan []byte
	readDone chan struct{} // closed when nothing more will be read
	reason   string        // why; to be read after readDone

	ending sync.Once
	killed chan struct{} // closed when end has done its work
}

func newConn(p Process) *conn {
	c := &conn{process: p, answers: make(chan []byte, 1), readDone: make(chan struct{}), killed: make(chan struct{})}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	go c.read()
	return c
}

// read reads what the worker writes until it ends. Anything but one answer to the open call ends the worker: a worker that answers
// unasked was changed by what runs in it.
func (c *conn) read() {
	defer close(c.readDone)
	for {
		frame, err := c.readFrame()
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			c.reason = "the worker ended (os._exit, a crash or out of memory)"
			return
		case err != nil:
			c.reason = "the worker broke the protocol or its pipe"
			return
		case !c.open.CompareAndSwap(true, false):
			c.reason = "the worker answered without being asked"
			return
		}
		c.answers <- frame
	}
}

// readFrame reads an answer. Before a long one it asks for memory.
func (c *conn) readFrame() ([]byte, error) {
	header := make([]byte, 4)
	if _, err := io.ReadFull(c.process, header); err != nil {
		return nil, err
	}
	if n := binary.BigEndian.Uint32(header); n > maxUnreserved && n <= maxAnswer && c.open.Load() {
		if err := c.reserve(int(n)); err != nil {
			return nil, err
		}
	}
	return uds.ReadFrame(io.MultiReader(bytes.NewReader(header), c.process), maxAnswer)
}

// call does one job.
func (c *conn) call(ctx context.Context, job Job) (output jsontext.Value, s state, err error) {
	id, frame, err := job.frame()
	if err != nil {
		return nil, usable, err
	}
	stop := context.AfterFunc(ctx, c.end) // also frees a Write to a worker that doesn't read
	defer stop()
	c.reserve = func(n int) error {
		if job.Reserve == nil {
			return nil
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(c.ctx, cancel)()
		return job.Reserve(ctx, n)
	}
	if a, ok := c.process.(Announcer); ok {
		a.Announce(id, job.RequestID)
		defer func() { // for the handler's author, who has no access to the audit log
			if f, failed := errors.AsType[*FailedError](err); failed && f.Kind == "lost" {
				a.Note(job.RequestID, f.What)
			} else if cause := ctx.Err(); cause != nil && errors.Is(err, cause) {
				a.Note(job.RequestID, "the call was ended before it had an answer: "+cause.Error())
			}
		}()
	}
	c.open.Store(true)
	if _, err := c.process.Write(frame); err != nil {
		c.end()
		<-c.readDone // from here on job.Reserve isn't called any more
		return nil, broken, c.lost(ctx)
	}
	select {
	case raw := <-c.answers:
		output, s, err = parseAnswer(raw, id)
	case <-c.readDone:
		s = broken
		select {
		case raw := <-c.answers: // it answered and ended
			output, _, err = parseAnswer(raw, id)
		default:
			err = c.lost(ctx)
		}
	}
	if !stop() {
		s = broken // the time ran out at this very moment: the worker is being ended already
	}
	return output, s, err
}

// lost returns why a worker that has ended gave no answer.
func (c *conn) lost(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if c.revoked.Load() {
		return errRevoked
	}
	return &FailedError{Kind: "lost", What: c.reason}
}

func parseAnswer(raw []byte, id string) (output jsontext.Value, s state, err error) {
	var a wireAnswer
	if err := json.Unmarshal(raw, &a); err != nil || a.ID != id {
		return nil, broken, &FailedError{Kind: "lost", What: "the worker broke the protocol"}
	}
	if a.Recycle {
		s = recycle
	}
	switch {
	case a.OK && len(a.Output) > maxOutput, a.Kind == "too_large":
		return nil, s, ErrTooLarge
	case a.OK && len(a.Output) == 0:
		return jsontext.Value("null"), s, nil
	case a.OK:
		return a.Output, s, nil
	}
	switch a.Kind {
	case "args":
		return nil, s, &FailedError{Kind: a.Kind, What: "Python can't read them"}
	case "coroutine":
		return nil, s, &FailedError{Kind: a.Kind, What: "the function is async; it must be a def"}
	case "load", "exception", "exit", "value":
		return nil, s, &FailedError{Kind: a.Kind, What: class(a.Error)}
	}
	// The call was well-formed: a worker that can't read it was changed by an earlier call.
	return nil, broken, &FailedError{Kind: "lost", What: "the worker understood nothing"}
}

// exceptions are Python's own (3.11, "Built-in Exceptions", without warnings and aliases).
var exceptions = set(`ArithmeticError AssertionError AttributeError BaseException BaseExceptionGroup BlockingIOError
	BrokenPipeError BufferError ChildProcessError ConnectionAbortedError ConnectionError ConnectionRefusedError
	ConnectionResetError EOFError Exception ExceptionGroup FileExistsError FileNotFoundError FloatingPointError GeneratorExit
	ImportError IndentationError IndexError InterruptedError IsADirectoryError KeyError KeyboardInterrupt LookupError
	MemoryError ModuleNotFoundError NameError NotADirectoryError NotImplementedError OSError OverflowError PermissionError
	ProcessLookupError RecursionError ReferenceError RuntimeError StopAsyncIteration StopIteration SyntaxError SystemError
	SystemExit TabError TimeoutError TypeError UnboundLocalError UnicodeDecodeError UnicodeEncodeError UnicodeError
	UnicodeTranslateError ValueError ZeroDivisionError`)

func set(words string) map[string]bool {
	m := make(map[string]bool)
	for word := range strings.FieldsSeq(words) {
		m[word] = true
	}
	return m
}

// class returns the name of an exception class if it is one of Python's own. Any other name is the handler's to choose: it could be made of
// a secret that the handler was given, and the name goes into the audit log.
func class(name string) string {
	if exceptions[name] {
		return name
	}
	return "an error of its own"
}

// end kills the worker. It returns at once; killed is closed when the container is removed, readDone when its output has ended.
func (c *conn) end() {
	c.ending.Do(func() {
		c.cancel()
		go func() {
			defer close(c.killed)
			c.process.Kill()
		}()
	})
}
