// Package selfaddr finds the addresses at which Rumi's own services listen, so that package address denies them to packs.
//
// An operator may open an internal range (RUMI_EGRESS_ALLOW_CIDRS) for, say, a model server. Often the same range has the gateway, the
// database and Consul in it. The range is opened, those are not; and since containers get other addresses when they
// restart, they are looked for again every few seconds.
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
	lookupTimeout = 2 * time.Second // Docker's DNS answers at once for names that it has, and forwards others, maybe in vain
)

// Finder keeps Policy's Self up to where Rumi's services are. All fields but last must be set.
type Finder struct {
	Policy    *address.Policy
	Listening []netip.AddrPort                                           // listeners of this process
	Directory map[string][]string                                        // host:port of other services, by name; names that it lacks are looked up
	Lookup    func(ctx context.Context, name string) (dns.Answer, error) // the resolver that services find each other with, not the one for packs

	last map[string][]netip.Addr // what each name last resolved to; if a look-up fails, the addresses stay denied: a failing DNS must not open them
}

// Run scans every few seconds until ctx ends. If no range is opened, there is nothing to protect and it returns at once.
func (f *Finder) Run(ctx context.Context) error {
	if !f.Policy.Opens() {
		return nil
	}
	return periodic.Run(ctx, scanInterval, f.Scan)
}

// Scan looks once and sets Policy's Self. It must have returned before the first pack is served: until then the addresses are not
// known, and so not denied.
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
		names = append(names, "tasks."+name) // in a Swarm a service's name is a virtual address; "tasks." has those of its replicas
	}
	f.resolve(ctx, names)
	for _, addrs := range f.last {
		for _, a := range addrs {
			if !a.IsLoopback() { // a service on this machine: its listeners are denied one by one, not all of loopback
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
			answer, _ := f.Lookup(ctx, name) // no addresses if that fails
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

// machine gives the addresses of this machine's interfaces, at which a listener on 0.0.0.0 can be reached.
func machine() []netip.Addr {
	var addrs []netip.Addr
	found, _ := net.InterfaceAddrs() // address.Self needs no loopback addresses, so an error loses little
	for _, a := range found {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil {
			addrs = append(addrs, prefix.Addr().Unmap())
		}
	}
	return addrs
}
