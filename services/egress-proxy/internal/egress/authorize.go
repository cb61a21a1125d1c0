package egress

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/decision"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/upstream"
)

// authorize decides whether the pack may send a request, and to which addresses it then goes. No name is looked up before everything that can
// be decided without looking it up was decided: a look-up is traffic of its own, by which a pack could send out data. ctx is from sessionContext.
func (k *pack) authorize(ctx context.Context, s *session, r decision.Request, deadline time.Time) (*upstream.Target, *decision.Failure) {
	target, f := k.decide(r)
	if f != nil || target.Addrs != nil {
		return target, f
	}
	return k.resolve(ctx, s, target, r.To, deadline)
}

// decide is the part of authorize that waits for nothing. A target without addresses is one whose name has yet to be resolved.
func (k *pack) decide(r decision.Request) (*upstream.Target, *decision.Failure) {
	cfg := &k.proxy.cfg
	state, known := cfg.Gates.Get(k.id)
	d := decision.Decide(state, known, cfg.Grants.Check(k.id, r.To.Host, r.To.Host.Name, r.To.Port), r)
	if d.Denied != nil {
		return nil, d.Denied
	}
	if k.tokens != nil && !k.tokens.Allow() {
		return nil, decision.RateLimited
	}
	resolved, denied := decision.Host(cfg.Addresses, r.To)
	if denied != nil {
		return nil, denied
	}
	target := &upstream.Target{TLS: r.To.TLS, Host: r.To.Host.Name, Port: r.To.Port, Close: d.CloseAfter}
	if resolved {
		target.Addrs = []netip.Addr{r.To.Host.Addr} // its host is key enough
	}
	return target, nil
}

// resolve finds the target's addresses and decides on them. It does so for every request, though the addresses may be cached: what is open to
// packs may have changed since, when one of our own services moved.
func (k *pack) resolve(ctx context.Context, s *session, target *upstream.Target, to decision.Destination, deadline time.Time) (*upstream.Target, *decision.Failure) {
	p := k.proxy
	found, err := p.names.Lookup(ctx, k.id, to.Host.Name, deadline)
	if err != nil {
		if ctx.Err() != nil {
			return nil, k.interruptedFailure(s)
		}
		return nil, lookupFailure(err).WithDetail(err.Error())
	}
	if f := decision.Addresses(p.cfg.Addresses, found.Addrs, to.Port); f != nil {
		return nil, f
	}
	target.Addrs, target.ID = found.Addrs, found.ID
	return target, nil
}

func lookupFailure(err error) *decision.Failure {
	if errors.Is(err, context.DeadlineExceeded) {
		return decision.TimedOut
	}
	return decision.NotResolved
}

// upstreamFailure turns the error of an exchange with a server into a failure.
func upstreamFailure(err error) *decision.Failure {
	var e *upstream.Error
	if !errors.As(err, &e) {
		return decision.Internal
	}
	switch e.Kind {
	case upstream.KindTimeout:
		return &decision.Failure{Kind: decision.KindTimeout, Text: e.Text}
	case upstream.KindRefused:
		return &decision.Failure{Kind: decision.KindRefused, Text: e.Text}
	case upstream.KindTLS:
		return &decision.Failure{Kind: decision.KindTLS, Text: e.Text}
	case upstream.KindTooLarge:
		return decision.TooLarge
	default:
		return &decision.Failure{Kind: decision.KindUpstream, Text: e.Text}
	}
}

// spend takes n bytes from what the pack may send today.
func (k *pack) spend(n int) *decision.Failure {
	if !k.proxy.cfg.Quota.Spend(k.id, n) {
		return decision.DailyQuota
	}
	return nil
}

// sessionEndedFailure is the answer to a request that ended with its session: what is in its way now, if that can be told.
func (k *pack) sessionEndedFailure() *decision.Failure {
	if f := decision.Gate(k.proxy.cfg.Gates.Get(k.id)); f != nil {
		return f
	}
	return decision.GrantDenied("grant_changed", "Network grant was changed during the request")
}
