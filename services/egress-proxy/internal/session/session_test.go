package session

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/hostname"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/address"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/decision"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/dns"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/grant"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/quota"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/resolve"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/upstream"
)

// permissions are those of every pack, as a test sets them.
type permissions struct {
	mu      sync.Mutex
	open    bool
	allowed bool
}

func (p *permissions) Get(string) (gate.State, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return gate.State{Open: p.open, Status: "approved"}, true
}

func (p *permissions) Check(string, hostname.Host, string, uint16) grant.Decision {
	p.mu.Lock()
	defer p.mu.Unlock()
	return grant.Decision{Allowed: p.allowed, Reason: grant.ReasonNone}
}

func (p *permissions) Lookup(context.Context, string) (dns.Answer, error) {
	return dns.Answer{Addrs: []netip.Addr{netip.MustParseAddr("93.184.216.34")}, TTL: time.Minute}, nil
}

func (p *permissions) set(open, allowed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open, p.allowed = open, allowed
}

func newPack(rate int) (*Pack, *permissions) {
	p := &permissions{open: true, allowed: true}
	log := slog.New(slog.DiscardHandler)
	packs := New(Config{
		Gates: p, Grants: p, Addresses: address.NewPolicy(nil), Names: resolve.New(p), Quota: quota.New(nil, 0, log), Rate: rate,
		Upstream: &upstream.Config{Dial: func(context.Context, netip.AddrPort) (net.Conn, error) { return nil, errors.ErrUnsupported }},
	})
	return packs.Get("p"), p
}

func request(t *testing.T, url string) decision.Request {
	t.Helper()
	to, f := decision.ParseURL(url)
	if f != nil {
		t.Fatalf("ParseURL(%q): %s, want it valid", url, f.Text)
	}
	return decision.Request{Method: "GET", To: to}
}

// A request that was allowed by permissions which then shrink ends, whenever in between that happens: its session is the one that ends.
func TestNarrowingEndsWhatWasAllowedBefore(t *testing.T) {
	k, permissions := newPack(0)
	s := k.Session()
	ctx, release := s.With(t.Context())
	defer release()
	if _, f := k.Authorize(ctx, s, request(t, "http://x.example/"), time.Now().Add(time.Minute)); f != nil {
		t.Fatalf("allowed at first: got %q, want no failure", f.Text)
	}
	permissions.set(true, false)
	k.EndSession()
	<-ctx.Done()
	if got := k.Interrupted(s); got.Reason != "grant_changed" {
		t.Errorf("a request that was under way: got %q, want grant_changed", got.Reason)
	}
	if _, f := k.Authorize(ctx, s, request(t, "http://x.example/"), time.Now().Add(time.Minute)); f == nil || f.Reason != grant.Denied {
		t.Errorf("the next hop of that request: got %v, want %s", f, grant.Denied)
	}
	if k.Session() == s || k.Session().Ended() {
		t.Errorf("the next session is the one that ended, or has ended itself")
	}
	permissions.set(false, true)
	if got := k.Interrupted(s); got.Reason != "gate_closed" {
		t.Errorf("with the gate closed: got %q, want gate_closed", got.Reason)
	}
}

func TestContextEndsWithTheClient(t *testing.T) {
	k, _ := newPack(0)
	client, leave := context.WithCancel(t.Context())
	ctx, release := k.Session().With(client)
	defer release()
	leave()
	<-ctx.Done()
	if got := k.Interrupted(k.Session()); got != decision.ClientClosed {
		t.Errorf("got %q, want %q", got.Text, decision.ClientClosed.Text)
	}
}

// A denied request costs no token; one that guesses at what lies inside our network does.
func TestWhatCostsTokens(t *testing.T) {
	k, permissions := newPack(1)
	permissions.set(true, false)
	for range 2 * RateBurst {
		if _, f := k.Decide(request(t, "http://x.example/")); f == nil || f.Reason != grant.Denied {
			t.Fatalf("not granted: got %v, want %s", f, grant.Denied)
		}
	}
	permissions.set(true, true)
	for i := range RateBurst {
		if _, f := k.Decide(request(t, "http://10.0.0.1/")); f == nil || f.Kind != decision.KindBlocked {
			t.Fatalf("guess %d: got %v, want %s", i, f, decision.KindBlocked)
		}
	}
	if _, f := k.Decide(request(t, "http://x.example/")); f != decision.RateLimited {
		t.Errorf("after %d guesses: got %v, want %q", RateBurst, f, decision.RateLimited.Text)
	}
	if wait := k.RetryAfter(decision.RateLimited, time.Now()); wait <= 0 || wait > time.Minute {
		t.Errorf("RetryAfter = %v, want a part of the minute in which a token comes", wait)
	}
}

func TestSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, _ := newPack(0)
		s := k.Session()
		ctx, release := s.With(t.Context())
		defer release()
		for range MaxInFlight {
			if f := k.AcquireSlot(ctx, s, time.Now().Add(time.Second)); f != nil {
				t.Fatalf("a free slot: got %q, want no failure", f.Text)
			}
		}
		began := time.Now()
		if f := k.AcquireSlot(ctx, s, began.Add(time.Second)); f != decision.TimedOut || time.Since(began) != time.Second {
			t.Errorf("no free slot: got %v after %v, want %q after 1s", f, time.Since(began), decision.TimedOut.Text)
		}
		time.AfterFunc(time.Second, k.ReleaseSlot)
		if f := k.AcquireSlot(ctx, s, time.Now().Add(time.Minute)); f != nil {
			t.Errorf("a slot that was given back: got %q, want no failure", f.Text)
		}
		time.AfterFunc(time.Second, k.EndSession)
		if f := k.AcquireSlot(ctx, s, time.Now().Add(time.Minute)); f == nil || f.Reason != "grant_changed" {
			t.Errorf("the session ends while a slot is waited for: got %v, want grant_changed", f)
		}
	})
}
