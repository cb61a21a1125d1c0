package egress

import (
	"net/netip"
	"testing"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/address"
)

// A cached answer is decided on anew each time it is used.
func TestCachedAnswersAreDecidedOnAnew(t *testing.T) {
	w := newWorld(t)
	opened := address.NewPolicy([]netip.Prefix{netip.MustParsePrefix("172.16.0.0/12")})
	w.proxy.packs.Addresses = opened
	w.at("x.example", "172.18.0.2", "80", script(t, func(string) string { return "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi" }))
	if r := w.ask("GET", "http://x.example/"); !r.Success {
		t.Fatalf("the first request fails: %s; want success", r.errorText())
	}
	opened.SetSelf(address.Self{Hosts: []netip.Addr{netip.MustParseAddr("172.18.0.2")}}) // a service of ours moved there
	w.contacts()
	if r := w.ask("GET", "http://x.example/"); r.errorType() != "blocked" {
		t.Errorf("got %s %q, want blocked", r.errorType(), r.errorText())
	}
	if resolved, dialled := w.contacts(); resolved != nil || dialled != nil {
		t.Errorf("looked up %v and dialled %v, want neither", resolved, dialled)
	}
}
