// Package decision has what egress decides on and how: a request's destination, the pure decisions about it, and the failures that a denied or
// failed request ends with.
//
// It does no I/O, starts no goroutine and keeps no state: a decision depends on its arguments only, so that tests can write the whole table a
// second time. It is the lowest of egress's packages. From the top down, each may import those below it and none above:
//
//	egress       wires the others together
//	httpproxy    plain HTTP proxying, CONNECT tunnels, WebSocket
//	frameproto   requests in frames of JSON
//	packspans    spans that packs make themselves, which are no requests
//	record       audit entries, log line, metrics and span of each request; transfers under way
//	session      one pack's limits, its current session and that session's connections; decides with the functions below, in order
//	headers      the one check of request and response header fields
//	resolve      the cache of resolved names
//	upstream     HTTP to the servers
//	decision     this package
package decision

import (
	"net/http"
	"net/netip"

	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/address"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/grant"
)

// Request is the request to decide on.
type Request struct {
	Method  string // CONNECT for a tunnel
	To      Destination
	HasBody bool // or may have one: its length isn't known
}

// Decision is the answer to whether a pack may send a request.
type Decision struct {
	Denied *Failure // why the request may not be sent; nil where it may

	// CloseAfter says that the connection to the server must carry nothing after the request.
	//
	// It is set for a body under a grant with rules. A server that doesn't read the body as long as we do would take its end for another
	// request (request smuggling), and that request no rule would have seen. Where the connection ends with this request, there is no other.
	CloseAfter bool
}

// Decide says whether the pack's gate and its grant let it send a request: approval before grant, the grant's hosts and ports before its rules.
//
// state is the pack's gate, and known whether it has any. granted is what the grant says of the destination's host and port. Nothing about the
// destination itself is decided here, see Host and Addresses: the pack's rate limit comes between, since a denied request costs no token, but a
// guess at what lies inside our network does.
func Decide(state gate.State, known bool, granted grant.Decision, r Request) Decision {
	if f := Gate(state, known); f != nil {
		return Decision{Denied: f}
	}
	if !granted.Allowed {
		return Decision{Denied: notGranted(grant.Denied, granted)}
	}
	if r.Method == http.MethodConnect {
		granted = granted.ForTunnel() // no rule can be applied to requests that we can't read
	} else {
		granted = granted.ForRequest(r.Method, r.To.Path)
	}
	switch {
	case !granted.Allowed:
		return Decision{Denied: notGranted(grant.RuleDenied, granted)}
	case r.HasBody && granted.HasPathRules() && !bodyHasMeaning(r.Method):
		return Decision{Denied: GrantDenied(grant.BodyDenied, "Grant with rules does not allow a body with "+r.Method)}
	}
	return Decision{CloseAfter: r.HasBody && granted.HasPathRules()}
}

// notGranted is the failure of a request that its grant denies. Where the policy does, the pack reads what it would read if its operator had
// granted less; the rule is in the audit log.
func notGranted(blockedReason string, d grant.Decision) *Failure {
	if d.ForPack == "" {
		return GrantDenied(blockedReason, d.Reason)
	}
	return GrantDenied(grant.PolicyDenied, d.ForPack).WithDetail(d.Reason)
}

// Gate says why a pack's gate keeps it from the network; nil where the gate is open.
func Gate(state gate.State, known bool) *Failure {
	reason := gate.Reason(state, known)
	switch {
	case reason == "":
		return nil
	case known && state.Status == grant.StatusModified:
		return GrantDenied(grant.ModifiedDenied, grant.ReasonModified)
	}
	return GrantDenied("gate_closed", reason)
}

// bodyHasMeaning says whether a body has a generally defined meaning with a method. With GET, HEAD and DELETE it has none (RFC 9110, sections
// 9.3.1, 9.3.2 and 9.3.5): a server may leave the body unread and take it for another request, which no rule has seen.
func bodyHasMeaning(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodDelete:
		return false
	}
	return true
}

// Host decides on a destination's host as far as that takes no look-up. resolved says that there is nothing to look up: the host is an
// address, and packs may be connected to it.
func Host(policy *address.Policy, to Destination) (resolved bool, denied *Failure) {
	switch {
	case to.Host.Numeric: // 127.1, 0x7f.1 and 2130706433: the C library and browsers read them as addresses, others as names
		return false, Blocked("internal_ip_blocked", "numeric form of "+to.Host.Name)
	case to.Host.Addr.IsValid():
		if class, ok := policy.Judge(netip.AddrPortFrom(to.Host.Addr, to.Port)); !ok {
			return false, Blocked("internal_ip_blocked", class)
		}
		return true, nil
	case address.DeniedName(to.Host.Name):
		return false, Blocked("internal_name_blocked", to.Host.Name)
	}
	return false, nil
}

// Addresses decides on the addresses that a name has resolved to. One internal address among public ones denies all: it is an attempt to get a
// connection to the internal one by retries (DNS rebinding), so nothing of the answer is trusted.
func Addresses(policy *address.Policy, addrs []netip.Addr, port uint16) *Failure {
	denied, class := 0, ""
	for _, addr := range addrs {
		if c, ok := policy.Judge(netip.AddrPortFrom(addr, port)); !ok {
			denied, class = denied+1, c
		}
	}
	switch denied {
	case 0:
		return nil
	case len(addrs):
		return Blocked("dns_blocked", class)
	default:
		return Blocked("dns_rebinding_blocked", class)
	}
}
