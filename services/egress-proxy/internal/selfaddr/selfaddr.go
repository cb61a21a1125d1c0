// Package selfaddr keeps packs from the suite itself: inside a range that an operator opened (RUMI_EGRESS_ALLOW_CIDRS) its
// services stay closed, wherever they move.
package selfaddr

import (
	"context"
	"maps"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/rumi-ai/rumi/libs/periodic"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/address"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/dns"
)

const (
	scanInterval  = 5 * time.Second
	lookupTimeout = 2 * time.Second // Docker answers at once for what is there; for the rest the host may ask in vain
)

// Finder finds where the suite is.
type Finder struct {
	Policy    *address.Policy
	Listening []netip.AddrPort                                           // of this process
	Directory map[string][]string                                        // host:port of other services, by name; those it lacks are looked up by name
	Lookup    func(ctx context.Context, name string) (dns.Answer, error) // as services find each other

	last map[string][]netip.Addr // what each name last resolved to: a name that fails to resolve is not open for that
}

// Run tells the policy what it finds, again and again until ctx ends. Where nothing is opened there is nothing to find.
func (f *Finder) Run(ctx context.Context) error {
	if !f.Policy.Opens() {
		return nil
	}
	return periodic.Run(ctx, scanInterval, f.Scan)
}

// Scan tells the policy once. Nothing should be served before.
func (f *Finder) Scan(ctx context.Context) {
	if !f.Policy.Opens() {
		return
	}
	self := address.Self{Listeners: slices.Clone(f.Listening), Machine: machine()}
	names := slices.DeleteFunc(address.Suite(), func(name string) bool { return len(f.Directory[name]) > 0 })
	for _, addresses := range f.Directory {
		for _, a := range addresses {
			if at, err := netip.ParseAddrPort(a); err == nil {
				self.Listeners = append(self.Listeners, at)
			} else if host, _, err := net.SplitHostPort(a); err == nil {
				names = append(names, host)
			}
		}
	}
	for _, name := range slices.Clone(names) {
		names = append(names, "tasks."+name) // in a swarm a service's name has one address, and each replica its own besides
	}
	f.resolve(ctx, names)
	for _, addrs := range f.last {
		for _, a := range addrs {
			if !a.IsLoopback() { // a name of this machine, whose listeners are known one by one
				self.Hosts = append(self.Hosts, a)
			}
		}
	}
	f.Policy.SetSelf(self)
}

func (f *Finder) resolve(ctx context.Context, names []string) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	type found struct {
		name  string
		addrs []netip.Addr
	}
	results := make(chan found, len(names))
	for _, name := range names {
		go func() {
			answer, _ := f.Lookup(ctx, name) // empty where that fails
			results <- found{name, answer.Addrs}
		}()
	}
	next := maps.Clone(f.last)
	if next == nil {
		next = make(map[string][]netip.Addr)
	}
	for range names {
		if r := <-results; len(r.addrs) > 0 {
			next[r.name] = r.addrs
		}
	}
	f.last = next
}

// machine are the addresses of this machine's interfaces.
func machine() []netip.Addr {
	var addrs []netip.Addr
	found, _ := net.InterfaceAddrs() // loopback addresses, where all listen that nobody configured, need no list
	for _, a := range found {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil {
			addrs = append(addrs, prefix.Addr().Unmap())
		}
	}
	return addrs
}
