package selfaddr

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/address"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/dns"
)

func TestTheSuiteStaysClosedWhereverItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		names := map[string]string{"gateway": "172.18.0.2", "consul": "172.18.0.3", "approval.internal": "172.18.0.4", "prometheus": "127.0.0.1", "tasks.gateway": "172.18.0.22"}
		set := func(name, addr string) {
			mu.Lock()
			defer mu.Unlock()
			names[name] = addr
		}
		policy := address.NewPolicy([]netip.Prefix{netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("127.0.0.0/8")})
		f := &Finder{
			Policy: policy, Listening: []netip.AddrPort{netip.MustParseAddrPort("[::]:8080")},
			Directory: map[string][]string{"approval": {"approval.internal:8080"}, "secrets": {"127.0.0.1:7007"}},
			Lookup: func(_ context.Context, name string) (dns.Answer, error) {
				mu.Lock()
				defer mu.Unlock()
				if a, ok := names[name]; ok && a != "" {
					return dns.Answer{Addrs: []netip.Addr{netip.MustParseAddr(a)}}, nil
				}
				return dns.Answer{}, errors.New("no such host")
			},
		}
		closed := func(want bool, addrs ...string) {
			t.Helper()
			for _, a := range addrs {
				if _, ok := policy.Judge(netip.MustParseAddrPort(a)); ok == want {
					t.Errorf("%s closed: %v, want %v", a, !ok, want)
				}
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		f.Scan(ctx)
		done := make(chan error)
		go func() { done <- f.Run(ctx) }()
		closed(true, "172.18.0.2:8765", "172.18.0.22:8765", "172.18.0.3:8500", "172.18.0.4:9090", "127.0.0.1:7007", "127.0.0.1:8080", "127.0.0.9:8080")
		closed(false, "172.18.0.5:443", "127.0.0.1:7008", "127.0.0.1:9090")

		set("gateway", "172.18.0.5") // moved
		set("consul", "")            // down: its address stays closed
		time.Sleep(scanInterval + time.Second)
		synctest.Wait()
		closed(true, "172.18.0.5:443", "172.18.0.3:8500")
		closed(false, "172.18.0.2:8765")
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v, want nil at the end of its context", err)
		}
	})
}

// Where nothing is opened there is nothing to find, and nobody to ask.
func TestNothingOpened(t *testing.T) {
	f := &Finder{Policy: address.NewPolicy(nil), Lookup: func(context.Context, string) (dns.Answer, error) {
		t.Error("somebody was asked")
		return dns.Answer{}, nil
	}}
	f.Scan(t.Context())
	if err := f.Run(t.Context()); err != nil {
		t.Error(err)
	}
}
