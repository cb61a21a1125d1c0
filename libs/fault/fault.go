// Package fault has the errors that a client may read: each has a kind, a stable code and a text. It has the one map from kinds to HTTP
// statuses, so that a fault keeps its kind when it passes from one service to another.
//
// Every other error is unexpected. It is logged with all its causes, and the client gets "Internal server error": the text of such an error
// could have a path, an address or a secret in it. texts.go has the faults that several services answer.
package fault

import (
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Kind is the class of an error. It is sent as an HTTP status, and read back from it by the service that called.
type Kind uint8

// The kinds. KindInternal is the zero value: a fault whose kind was forgotten counts as internal.
const (
	KindInternal        Kind = iota // unexpected: a bug, or a broken disk
	KindInvalid                     // the request is wrong, whatever the state: don't repeat it
	KindUnauthenticated             // no token, or a wrong one
	KindDenied                      // the caller is known and has no right to do this
	KindNotFound                    // the thing that the request names doesn't exist
	KindMethod                      // the path exists, but not with this HTTP method
	KindConflict                    // the present state of the thing forbids it
	KindTooLarge                    // larger than a bound
	KindLimited                     // more often than a rate limit allows; the client may repeat it later
	KindUnavailable                 // a service or program that is needed doesn't answer; the client may repeat it later
)

var kinds = [...]struct {
	name   string
	status int
}{
	KindInternal:        {"internal", http.StatusInternalServerError},
	KindInvalid:         {"invalid", http.StatusBadRequest},
	KindUnauthenticated: {"unauthenticated", http.StatusUnauthorized},
	KindDenied:          {"denied", http.StatusForbidden},
	KindNotFound:        {"not_found", http.StatusNotFound},
	KindMethod:          {"method_not_allowed", http.StatusMethodNotAllowed},
	KindConflict:        {"conflict", http.StatusConflict},
	KindTooLarge:        {"too_large", http.StatusRequestEntityTooLarge},
	KindLimited:         {"limited", http.StatusTooManyRequests},
	KindUnavailable:     {"unavailable", http.StatusServiceUnavailable},
}

// String is the kind's name. It is the error_code of a fault without a code of its own.
func (k Kind) String() string { return kinds[k].name }

// Status is the HTTP status of an answer with a fault of this kind.
func (k Kind) Status() int { return kinds[k].status }

// KindOf is the kind of an HTTP status: the inverse of Status. A status of no kind gives KindInternal.
func KindOf(status int) Kind {
	for k, v := range kinds {
		if v.status == status {
			return Kind(k)
		}
	}
	return KindInternal
}

// Fault is an error for a client: Message and Data must hold nothing that a client may not know. Make one with New or one of the functions
// named for the kinds. Its methods With, Because, Carrying and After change the fault and return it, so that calls can be chained.
type Fault struct {
	Kind       Kind
	Code       string        // stable, machine-readable; "" means the kind's name
	Message    string        // the answer's "error", for a person; starts with a capital letter
	Data       any           // the answer's "data", nil for null
	RetryAfter time.Duration // the header Retry-After, rounded up to seconds; 0 leaves it out, except for kinds that always have one
	cause      error         // for the log; never sent to a client
}

func (f *Fault) Error() string {
	if f.cause != nil {
		return f.Message + ": " + f.cause.Error()
	}
	return f.Message
}

// Unwrap returns the cause that Because set, nil for none.
func (f *Fault) Unwrap() error { return f.cause }

// ErrorCode is Code, or the kind's name where none was set.
func (f *Fault) ErrorCode() string {
	if f.Code != "" {
		return f.Code
	}
	return f.Kind.String()
}

// With sets the stable code.
func (f *Fault) With(code string) *Fault { f.Code = code; return f }

// Because sets the cause. It is logged and found by errors.Is and errors.As, and never sent to a client.
func (f *Fault) Because(err error) *Fault { f.cause = err; return f }

// Carrying sets the answer's data, which is sent as JSON.
func (f *Fault) Carrying(data any) *Fault { f.Data = data; return f }

// After sets how long the client should wait before it tries again.
func (f *Fault) After(d time.Duration) *Fault { f.RetryAfter = d; return f }

// New makes a fault. Use it for a kind that is known only at run time; otherwise the function of the kind's name.
func New(kind Kind, format string, args ...any) *Fault {
	return &Fault{Kind: kind, Message: fmt.Sprintf(format, args...)}
}

// Invalid is the fault of a request that is wrong, whatever the state (400).
func Invalid(format string, args ...any) *Fault { return New(KindInvalid, format, args...) }

// Unauthenticated is the fault of a missing or wrong token (401).
func Unauthenticated(format string, args ...any) *Fault {
	return New(KindUnauthenticated, format, args...)
}

// Denied is the fault of a known caller that has no right to do this (403).
func Denied(format string, args ...any) *Fault { return New(KindDenied, format, args...) }

// NotFound is the fault of a request for a thing that doesn't exist (404).
func NotFound(format string, args ...any) *Fault { return New(KindNotFound, format, args...) }

// Conflict is the fault of a request that the present state of the thing forbids (409).
func Conflict(format string, args ...any) *Fault { return New(KindConflict, format, args...) }

// TooLarge is the fault of a size over its bound (413).
func TooLarge(format string, args ...any) *Fault { return New(KindTooLarge, format, args...) }

// Limited is the fault of a request beyond a rate limit (429); set After.
func Limited(format string, args ...any) *Fault { return New(KindLimited, format, args...) }

// Unavailable is the fault of a request that needs a service or program which doesn't answer (503).
func Unavailable(format string, args ...any) *Fault { return New(KindUnavailable, format, args...) }

// Of returns the fault that err is or wraps. Any other error becomes the cause of an internal fault. err must not be nil.
func Of(err error) *Fault {
	if f, ok := errors.AsType[*Fault](err); ok {
		return f
	}
	return &Fault{Kind: KindInternal, Message: "Internal server error", cause: err}
}

// Is says whether err is or wraps a fault of the kind. An error that is no fault is of no kind, not even KindInternal.
func Is(err error, kind Kind) bool {
	f, ok := errors.AsType[*Fault](err)
	return ok && f.Kind == kind
}
