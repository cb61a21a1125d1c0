package session

import (
	"context"
	"net/netip"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/decision"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/upstream"
)

// Authorize decides whether the pack may send a request, and to which addresses it then goes. The order is part of the contract: gate, grant,
// rules, rate, the destination's host, name resolution, addresses. No name is looked up before everything that can be decided without was
// decided: a look-up is traffic of its own, by which a pack could carry data out. ctx is of s.With.
func (k *Pack) Authorize(ctx context.Context, s *Session, r decision.Request, deadline time.Time) (*upstream.Target, *decision.Failure) {
	target, f := k.Decide(r)
	if f != nil || target.Addrs != nil {
		return target, f
	}
	return k.Resolve(ctx, s, target, r.To, deadline)
}

// Gate is why the pack may not run, as its gate says; nil if it may.
func (k *Pack) Gate() *decision.Failure { return decision.Gate(k.packs.Gates.Get(k.ID)) }

// Decide is the part of Authorize that waits for nothing. A target without addresses is one for Resolve.
func (k *Pack) Decide(r decision.Request) (*upstream.Target, *decision.Failure) {
	state, known := k.packs.Gates.Get(k.ID)
	d := decision.Decide(state, known, k.packs.Grants.Check(k.ID, r.To.Host, r.To.Host.Name, r.To.Port), r)
	if d.Denied != nil {
		return nil, d.Denied
	}
	if k.tokens != nil && !k.tokens.Allow() {
		return nil, decision.RateLimited
	}
	resolved, denied := decision.Host(k.packs.Addresses, r.To)
	if denied != nil {
		return nil, denied
	}
	target := &upstream.Target{TLS: r.To.TLS, Host: r.To.Host.Name, Port: r.To.Port, Close: d.CloseAfter}
	if resolved {
		target.Addrs = []netip.Addr{r.To.Host.Addr} // without an ID: its host says as much
	}
	return target, nil
}

// fromCache is the longest that a look-up without a question to a server takes. Such a look-up is no event of a trace.
const fromCache = 100 * time.Microsecond

// Resolve finds a target's addresses and decides on them. It decides for every request, though addresses may come from the cache: what is open to
// packs may have changed since, when one of our own services moved.
func (k *Pack) Resolve(ctx context.Context, s *Session, target *upstream.Target, to decision.Destination, deadline time.Time) (*upstream.Target, *decision.Failure) {
	began := time.Now()
	found, err := k.packs.Names.Lookup(ctx, k.ID, to.Host.Name, deadline)
	if span := trace.SpanFromContext(ctx); span.IsRecording() && time.Since(began) > fromCache {
		span.AddEvent("resolved")
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, k.Interrupted(s)
		}
		return nil, lookupFailure(err)
	}
	if f := decision.Addresses(k.packs.Addresses, found.Addrs, to.Port); f != nil {
		return nil, f
	}
	target.Addrs, target.ID = found.Addrs, found.ID
	return target, nil
}
