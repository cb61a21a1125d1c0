package rpc

import (
	"cmp"
	"net/http"

	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/identity"
	"github.com/rumi-ai/rumi/libs/origin"
)

// RequestIDHeader names the header that carries a request's id from service to service; every answer has it.
const RequestIDHeader = "X-Request-Id"

// The headers that tell the next service for whom a request is made. A service believes them because only services
// reach it (see server.Mux); the gateway accepts them from nobody.
const (
	ActorHeader   = "X-Rumi-Actor"   // the principal, such as "alice"
	RoleHeader    = "X-Rumi-Role"    // the principal's access.Role
	LineageHeader = "X-Rumi-Lineage" // see origin.Origin
	AddressHeader = "X-Rumi-Address" // the IP address from which the principal reached the gateway
)

// SetOrigin writes where a request comes from into the headers of the call that is made for it.
func SetOrigin(h http.Header, from origin.Origin) {
	h.Set(ActorHeader, from.Actor)
	setUnlessEmpty(h, RequestIDHeader, from.RequestID)
	setUnlessEmpty(h, RoleHeader, string(from.Role))
	setUnlessEmpty(h, LineageHeader, from.Lineage)
	setUnlessEmpty(h, AddressHeader, from.Address)
}

func setUnlessEmpty(h http.Header, name, value string) {
	if value != "" {
		h.Set(name, value)
	}
}

// OriginOf is the inverse of SetOrigin. The caller is taken from its certificate. A request without an actor is the caller's own; one
// without a request id that can be used gets a new one.
func OriginOf(r *http.Request) origin.Origin {
	from := origin.Origin{
		RequestID: r.Header.Get(RequestIDHeader),
		Actor:     r.Header.Get(ActorHeader),
		Role:      access.Role(r.Header.Get(RoleHeader)),
		Lineage:   r.Header.Get(LineageHeader),
		Address:   r.Header.Get(AddressHeader),
		Caller:    identity.Caller(r.TLS),
	}
	if !origin.ValidRequestID(from.RequestID) {
		from.RequestID = origin.NewRequestID()
	}
	from.Actor = cmp.Or(from.Actor, "service:"+from.Caller)
	return from
}
