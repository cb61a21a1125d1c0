// Package origin carries through a context whom a request comes from, so that a log line, an audit entry and a call
// to the next service all say the same.
package origin

import (
	"context"
	"crypto/rand"
)

// Origin is where a request comes from. The zero value is work that nobody asked for (a start, a timer).
type Origin struct {
	RequestID string // up to 128 of [A-Za-z0-9._-], as contract.md has it
	Actor     string // who decided: "operator" for a holder of the API token, "pack:<id>" for a socket, "system" for nobody
	Caller    string // the service on the other end of the connection, from its certificate; "" for none
	Address   string // the client's address as the gateway saw it, without port
}

type key struct{}

// With puts o into a context.
func With(ctx context.Context, o Origin) context.Context { return context.WithValue(ctx, key{}, o) }

// Of takes it out again. Without one the actor is "system".
func Of(ctx context.Context) Origin {
	if o, ok := ctx.Value(key{}).(Origin); ok {
		return o
	}
	return Origin{Actor: "system"}
}

// NewRequestID is 26 random characters of [A-Z2-7].
func NewRequestID() string { return rand.Text() }

// ValidRequestID says whether a caller's own id may be kept.
func ValidRequestID(s string) bool {
	if len(s) == 0 || len(s) > 128 {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}
