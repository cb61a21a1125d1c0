// Package origin carries in a context where a request comes from. Log lines, audit entries and calls of other services take it from
// there, so that all of them have the same request id and actor. libs/rpc/server puts it into the context of each request.
package origin

import (
	"context"
	"crypto/rand"

	"github.com/rumi-ai/rumi/libs/access"
)

// Origin is where a request comes from. Work that no request caused (the start of a service, a timer) has no Origin; Of returns the
// actor "system" then.
type Origin struct {
	RequestID string      // 1 to 128 of [A-Za-z0-9._-] (docs/contract.md); "" without a request
	Actor     string      // in whose name: the API token's name for an operator's request, "pack:<id>" for a pack's socket, "system" for a service's own work
	Role      access.Role // of the actor; "" where there is no operator behind the request
	Lineage   string      // the names of the tokens that made the actor's, the nearest first, joined by commas: "alice,init"; "" for the first
	Caller    string      // the service that sent the request, from its certificate; "" if it has none
	Address   string      // the client's address as the gateway saw it, without port
}

type key struct{}

// With returns a context with o, in place of the Origin that ctx may have.
func With(ctx context.Context, o Origin) context.Context { return context.WithValue(ctx, key{}, o) }

// Of returns the context's Origin. Without one, all is empty but the actor, which is "system".
func Of(ctx context.Context) Origin {
	if o, ok := ctx.Value(key{}).(Origin); ok {
		return o
	}
	return Origin{Actor: "system"}
}

// NewRequestID makes a request id: 26 random characters of [A-Z2-7], 130 bits.
func NewRequestID() string { return rand.Text() }

// ValidRequestID says whether a request id that a caller chose may be used. The attack: a client puts a line break or a quote into the id to
// forge log lines, or a long text to fill them. So the alphabet is small and the length bounded; an id beyond that is replaced.
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
