// Package fault has the kinds of error that a caller is told about and the one map from them to HTTP.
//
// An error that is no *Fault is a surprise: it is logged whole and answered as "Internal server error".
package fault

import (
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Kind says what went wrong in a way that survives a hop from one service to another.
type Kind uint8

// The kinds. Internal is the zero value, so that a kind nobody set tells a client nothing.
const (
	KindInternal        Kind = iota
	KindInvalid              // the request can't be right as it is
	KindUnauthenticated      // no token, or a wrong one
	KindDenied               // known caller, not allowed
	KindNotFound             // no such thing
	KindMethod               // the thing is there, the method isn't
	KindConflict             // the state forbids it
	KindTooLarge             // over a size bound
	KindLimited              // over a rate
	KindUnavailable          // somebody who is needed doesn't answer; trying again may help
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

// String is the kind's name on the wire, the default error_code.
func (k Kind) String() string { return kinds[k].name }

// Status is the HTTP status a fault of this kind is answered with.
func (k Kind) Status() int { return kinds[k].status }

// KindOf is the kind that status stands for; any status that stands for none is KindInternal.
func KindOf(status int) Kind {
	for k, v := range kinds {
		if v.status == status {
			return Kind(k)
		}
	}
	return KindInternal
}

// Fault is an error whose message a client may read.
type Fault struct {
	Kind       Kind
	Code       string        // stable, machine-readable; "" means the kind's name
	Message    string        // shown as it is
	Data       any           // the answer's "data", nil for null
	RetryAfter time.Duration // rounded up to seconds in Retry-After; 0 leaves the header out unless the kind needs it
	cause      error         // logged, never shown
}

func (f *Fault) Error() string {
	if f.cause != nil {
		return f.Message + ": " + f.cause.Error()
	}
	return f.Message
}

// Unwrap gives the cause that Because set.
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

// Because keeps the cause for the log.
func (f *Fault) Because(err error) *Fault { f.cause = err; return f }

// Carrying sets the answer's data.
func (f *Fault) Carrying(data any) *Fault { f.Data = data; return f }

// After sets how long the client should wait.
func (f *Fault) After(d time.Duration) *Fault { f.RetryAfter = d; return f }

// New makes a fault of a kind that is known only at run time.
func New(kind Kind, format string, args ...any) *Fault {
	return &Fault{Kind: kind, Message: fmt.Sprintf(format, args...)}
}

// Invalid is the fault of a request that can't be right as it is (400).
func Invalid(format string, args ...any) *Fault { return New(KindInvalid, format, args...) }

// Unauthenticated is the fault of a missing or wrong token (401).
func Unauthenticated(format string, args ...any) *Fault {
	return New(KindUnauthenticated, format, args...)
}

// Denied is the fault of a caller that is known and may not (403).
func Denied(format string, args ...any) *Fault { return New(KindDenied, format, args...) }

// NotFound is the fault of a thing that isn't there (404).
func NotFound(format string, args ...any) *Fault { return New(KindNotFound, format, args...) }

// Conflict is the fault of a state of the thing that forbids the call (409).
func Conflict(format string, args ...any) *Fault { return New(KindConflict, format, args...) }

// TooLarge is the fault of a size over its bound (413).
func TooLarge(format string, args ...any) *Fault { return New(KindTooLarge, format, args...) }

// Limited is the fault of a caller over its rate (429).
func Limited(format string, args ...any) *Fault { return New(KindLimited, format, args...) }

// Unavailable is the fault of a service that is needed and doesn't answer (503).
func Unavailable(format string, args ...any) *Fault { return New(KindUnavailable, format, args...) }

// Of finds the fault in err. An error that holds none becomes an internal fault that keeps it as its cause.
func Of(err error) *Fault {
	if f, ok := errors.AsType[*Fault](err); ok {
		return f
	}
	return &Fault{Kind: KindInternal, Message: "Internal server error", cause: err}
}

// Is says whether err is a fault of the kind.
func Is(err error, kind Kind) bool {
	f, ok := errors.AsType[*Fault](err)
	return ok && f.Kind == kind
}
