// Package principal says who makes a request: a name, a role, and for how long. Whatever proves that (a token of the database, the token in
// init's file, a person's sign-in) is an Authenticator; the rest of the gateway doesn't know which it was.
package principal

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/rumi-ai/rumi/libs/access"
)

// Principal is who makes a request.
type Principal struct {
	Name    string        // the actor of audit entries: "alice", "init". Names of tokens have no colon, so that others can have one
	Role    access.Role   // what it may do at most
	Scopes  access.Scopes // narrow the role; none for all of it
	Lineage string        // as origin.Origin has it
	TokenID string        // of the API token, "init" for init's; "" where it isn't a token
	Expires time.Time     // zero for never

	Session *Session // ends when the credential is no longer good; nil for never
	LastUse *LastUse // where requests are noted; nil for nowhere
}

// Authenticator finds the principal of a credential: what follows "Bearer " in the header Authorization. It is called for each request, so
// it decides from memory, and it is safe for concurrent use.
//
// The error is ErrUnknown where the credential isn't one of this kind or is wrong, a *RefusedError where it was good once, and a fault where
// that can't be told now (503).
type Authenticator interface {
	Authenticate(credential string) (Principal, error)
}

// ErrUnknown is the error for a credential that an Authenticator doesn't know. Another one may.
var ErrUnknown = errors.New("unknown credential")

// RefusedError is the error for a credential that is right, but no longer good. The client learns Reason, since it has proved that it held the
// credential.
type RefusedError struct {
	Name   string // of the principal, for the audit log
	Reason string // "the token was revoked"
}

func (e *RefusedError) Error() string { return e.Reason }

// Chain asks several Authenticators, one after the other, until one knows the credential. One that can't tell now doesn't keep the next from
// being asked. init's file is best the last: it is read again for each credential that it doesn't hold.
type Chain []Authenticator

// Authenticate implements Authenticator.
func (c Chain) Authenticate(credential string) (Principal, error) {
	answer := ErrUnknown
	for _, a := range c {
		p, err := a.Authenticate(credential)
		if err == nil {
			return p, nil
		}
		if _, refused := errors.AsType[*RefusedError](err); refused {
			return Principal{}, err
		}
		if !errors.Is(err, ErrUnknown) {
			answer = err
		}
	}
	return Principal{}, answer
}

// Session is the time for which a credential is good. Requests under way hold it: when a token is revoked, its streams end. The nil Session
// never ends.
type Session struct {
	ctx context.Context
	end context.CancelFunc
}

// NewSession begins a session.
func NewSession() *Session {
	ctx, end := context.WithCancel(context.Background())
	return &Session{ctx, end}
}

// End ends the session and calls the functions of OnEnd, each in a goroutine of its own. A second call does nothing.
func (s *Session) End() {
	if s != nil {
		s.end()
	}
}

// Ended says whether End was called.
func (s *Session) Ended() bool { return s != nil && s.ctx.Err() != nil }

// OnEnd has f called when the session ends, at once if it has. The caller calls stop when it no longer needs that.
func (s *Session) OnEnd(f func()) (stop func() bool) {
	if s == nil {
		return func() bool { return true }
	}
	return context.AfterFunc(s.ctx, f)
}

// LastUse keeps when and from where a credential was used last. It is safe for concurrent use. The nil LastUse keeps nothing.
type LastUse struct{ use atomic.Pointer[Use] }

// Use is one use of a credential.
type Use struct {
	At   time.Time // UTC
	From string    // the client's address
}

// useGranularity is how much earlier than the last use LastUse may say: it needn't write for each of ten thousand requests a second.
const useGranularity = time.Second

// Note notes a use.
func (l *LastUse) Note(at time.Time, from string) {
	if l == nil {
		return
	}
	if last := l.use.Load(); last == nil || last.From != from || at.Sub(last.At) >= useGranularity {
		l.use.Store(&Use{at.UTC(), from})
	}
}

// Last is the last use; ok is false where none was noted.
func (l *LastUse) Last() (last Use, ok bool) {
	if l == nil {
		return Use{}, false
	}
	use := l.use.Load()
	if use == nil {
		return Use{}, false
	}
	return *use, true
}

type key struct{}

// With returns a context with the principal of the request. Nobody changes what p points to.
func With(ctx context.Context, p *Principal) context.Context {
	return context.WithValue(ctx, key{}, p)
}

// Of returns the principal of With, never nil. Without one it is the zero value, which may do nothing.
func Of(ctx context.Context) *Principal {
	if p, ok := ctx.Value(key{}).(*Principal); ok {
		return p
	}
	return &Principal{}
}
