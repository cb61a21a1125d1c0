package egress

import (
	"context"
	"net/http"
	"net/netip"
	"time"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/address"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/grant"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/upstream"
)

// judge decides whether the pack may send a request to a destination, and to which addresses it then goes. Nothing is looked
// up before all that can be said without looking up was said. ctx is of sessionContext.
func (k *pack) judge(ctx context.Context, s *session, c call, to destination, hasBody bool, deadline time.Time) (*upstream.Target, *failure) {
	target, f := k.decide(c.method, to, hasBody)
	if f != nil || target.Addrs != nil {
		return target, f
	}
	return k.resolve(ctx, s, target, to, deadline)
}

// decide is the part of judge that waits for nothing. A target without addresses is one that has yet to be resolved.
func (k *pack) decide(method string, to destination, hasBody bool) (*upstream.Target, *failure) {
	p := k.proxy
	if f := k.gate(); f != nil {
		return nil, f
	}
	d := p.cfg.Grants.Check(k.id, to.host, to.host.Name, to.port)
	if !d.Allowed {
		return nil, grantDenied(grant.Denied, d.Reason)
	}
	if method == http.MethodConnect {
		d = d.Tunnel() // nobody reads what is asked for in there
	} else {
		d = d.Request(method, to.path)
	}
	if !d.Allowed {
		return nil, grantDenied(grant.RuleDenied, d.Reason)
	}
	if hasBody && d.Narrowed() && !bodyHasMeaning(method) {
		return nil, grantDenied(grant.BodyDenied, "Grant with rules does not allow a body with "+method)
	}
	if k.tokens != nil && !k.tokens.Allow() {
		return nil, errRateLimited
	}
	target := &upstream.Target{TLS: to.tls, Host: to.host.Name, Port: to.port, Close: hasBody && d.Narrowed()}
	switch {
	case to.host.Numeric:
		return nil, blocked("internal_ip_blocked", "numeric form of "+to.host.Name)
	case to.host.Addr.IsValid():
		if class, ok := p.cfg.Addresses.Judge(netip.AddrPortFrom(to.host.Addr, to.port)); !ok {
			return nil, blocked("internal_ip_blocked", class)
		}
		target.Addrs = []netip.Addr{to.host.Addr}
		return target, nil // its host is key enough
	case address.DeniedName(to.host.Name):
		return nil, blocked("internal_name_blocked", to.host.Name)
	}
	return target, nil
}

// bodyHasMeaning says whether a body means anything with a method. With these it has no generally defined semantics (RFC 9110,
// sections 9.3.1, 9.3.2 and 9.3.5): a server may leave it unread, and take it for another request, which no rule has seen.
func bodyHasMeaning(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodDelete:
		return false
	}
	return true
}

// resolve finds the target's addresses and judges them.
func (k *pack) resolve(ctx context.Context, s *session, target *upstream.Target, to destination, deadline time.Time) (*upstream.Target, *failure) {
	p := k.proxy
	found, err := p.names.lookup(ctx, k.id, to.host.Name, deadline)
	if err != nil {
		if ctx.Err() != nil {
			return nil, k.interruptedFailure(s)
		}
		f := *lookupFailure(err)
		f.detail = err.Error()
		return nil, &f
	}
	// One internal answer among public ones is an attempt to get in by luck: nothing of it is trusted.
	denied, class := 0, ""
	for _, addr := range found.addrs {
		if c, ok := p.cfg.Addresses.Judge(netip.AddrPortFrom(addr, to.port)); !ok {
			denied, class = denied+1, c
		}
	}
	switch denied {
	case 0:
		target.Addrs, target.ID = found.addrs, found.id
		return target, nil
	case len(found.addrs):
		return nil, blocked("dns_blocked", class)
	default:
		return nil, blocked("dns_rebinding_blocked", class)
	}
}

// spend takes n bytes from what the pack may send today.
func (k *pack) spend(n int) *failure {
	if !k.proxy.cfg.Ledger.Spend(k.id, n) {
		return errDailyQuota
	}
	return nil
}

// gate asks what approval says of the pack.
func (k *pack) gate() *failure {
	state, known := k.proxy.cfg.Gates.Get(k.id)
	switch {
	case state.Open:
		return nil
	case !known:
		return grantDenied("gate_closed", "Pack is not approved")
	case state.Status == grant.StatusModified:
		return grantDenied(grant.ModifiedDenied, grant.ReasonModified)
	case state.Status.Executable():
		return grantDenied("gate_closed", "Pack's approval can't be confirmed at the moment")
	default:
		return grantDenied("gate_closed", "Pack is not approved (status: "+string(state.Status)+")")
	}
}

// sessionEndedFailure is the answer to a request that was cut off: what is now in its way, if anything can be told.
func (k *pack) sessionEndedFailure() *failure {
	if f := k.gate(); f != nil {
		return f
	}
	return grantDenied("grant_changed", "Network grant was changed during the request")
}
