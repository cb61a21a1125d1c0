// Package clientaddr finds the address of a request's client, also where the request came through reverse proxies.
//
// A proxy appends to the header X-Forwarded-For the address that it was called from:
//
//	X-Forwarded-For: 203.0.113.9, 10.0.0.7
//	                 the client   a proxy that called the last proxy
//
// The attack: a client sends that header itself, so that its failed tokens count for somebody else, and the audit log names a stranger. So
// the header is read from the right, where the nearest proxy wrote, and only as long as the hop before is a proxy that the operator trusts. The
// headers X-Real-IP and Forwarded (RFC 7239) are ignored: a proxy that writes one of the three passes the other two on as they came.
package clientaddr

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"
)

const (
	header = "X-Forwarded-For"

	// Host is the entry that stands for the machine which the container runs on: docker connects to a published port from an address
	// that changes when its network is made anew.
	Host = "host"

	// The widest networks that may be trusted: 10.0.0.0/8 and fc00::/7, the private ones. A wider one has addresses of strangers.
	minBits4, minBits6 = 8, 7

	// hintInterval is the least time between two log lines about ignored headers: strangers cause them.
	hintInterval = time.Hour
)

// Proxies are the reverse proxies whose X-Forwarded-For is believed. The zero value trusts none.
type Proxies struct {
	networks []netip.Prefix
	log      *slog.Logger
	hinted   atomic.Int64 // Unix seconds of the last log line about an ignored header
}

// Parse reads the entries of RUMI_TRUSTED_PROXIES: addresses, networks and Host. host finds the address that Host stands for.
func Parse(entries []string, host func() (netip.Addr, error), log *slog.Logger) (*Proxies, error) {
	p := &Proxies{log: log}
	for _, entry := range entries {
		entry = strings.TrimSpace(entry)
		if entry == Host {
			address, err := host()
			if err != nil {
				return nil, fmt.Errorf("RUMI_TRUSTED_PROXIES: %q: %w; write the proxy's address instead", Host, err)
			}
			p.networks = append(p.networks, single(address))
			continue
		}
		network, err := parseNetwork(entry)
		if err != nil {
			return nil, fmt.Errorf("RUMI_TRUSTED_PROXIES: %q: %w", entry, err)
		}
		p.networks = append(p.networks, network)
	}
	return p, nil
}

// single is the network with one address.
func single(a netip.Addr) netip.Prefix {
	a = plain(a)
	return netip.PrefixFrom(a, a.BitLen())
}

// plain is an address as addresses are compared: IPv4 never as IPv6, no zone.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// parseNetwork reads "10.0.0.5", "10.0.0.0/24", "fd00::1", "[fd00::1]" or "fd00::/64".
func parseNetwork(entry string) (netip.Prefix, error) {
	if !strings.Contains(entry, "/") {
		address, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(entry, "["), "]"))
		if err != nil || address.Zone() != "" || address.IsUnspecified() {
			return netip.Prefix{}, fmt.Errorf("want an address or a network, such as 10.0.0.5, 10.0.0.0/24 or fd00::1, without port or zone; or the word %s", Host)
		}
		return single(address), nil
	}
	network, err := netip.ParsePrefix(entry)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("want a network such as 10.0.0.0/24 or fd00::/64")
	}
	if network.Addr().Is4In6() {
		if network.Bits() < 96 {
			return netip.Prefix{}, fmt.Errorf("want IPv4 networks as 10.0.0.0/24")
		}
		network = netip.PrefixFrom(network.Addr().Unmap(), network.Bits()-96)
	}
	least := minBits6
	if network.Addr().Is4() {
		least = minBits4
	}
	if network.Bits() < least {
		return netip.Prefix{}, fmt.Errorf("too wide: everybody in it could claim any address. Name your proxies; /%d is the widest", least)
	}
	if masked := network.Masked(); masked != network {
		return netip.Prefix{}, fmt.Errorf("want the network's first address (%s), or %s alone", masked, network.Addr())
	}
	return network, nil
}

// trusts says whether an address is a proxy's.
func (p *Proxies) trusts(a netip.Addr) bool {
	for _, network := range p.networks {
		if network.Contains(a) {
			return true
		}
	}
	return false
}

// Of is the address of r's client: of the connection's other end, or, as long as that is a trusted proxy, of what it was called from. An entry
// that can't be read ends the way there: the hop which wrote it counts as the client. The result is invalid where the connection has no IP address.
func (p *Proxies) Of(r *http.Request) netip.Addr {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	at := plain(peer.Addr())
	lines := r.Header[header]
	if len(lines) > 0 && !p.trusts(at) {
		p.hint(at)
	}
	for i := len(lines) - 1; i >= 0; i-- { // several headers are one list
		for rest, more := lines[i], true; more; {
			if !p.trusts(at) {
				return at
			}
			var entry string
			rest, entry, more = cutLast(rest)
			next, ok := parseHop(entry)
			if !ok {
				return at
			}
			at = next
		}
	}
	return at
}

// cutLast cuts off the last entry of a list with commas.
func cutLast(list string) (rest, last string, more bool) {
	i := strings.LastIndexByte(list, ',')
	if i < 0 {
		return "", list, false
	}
	return list[:i], list[i+1:], true
}

// parseHop reads an entry of the header: an address, some proxies add a port. IPv6 may be in brackets, and is with a port.
func parseHop(entry string) (netip.Addr, bool) {
	entry = strings.Trim(entry, " \t")
	if a, err := netip.ParseAddr(entry); err == nil {
		return plain(a), true
	}
	if a, err := netip.ParseAddrPort(entry); err == nil {
		return plain(a.Addr()), true
	}
	if inner, ok := strings.CutPrefix(entry, "["); ok {
		if inner, ok = strings.CutSuffix(inner, "]"); ok {
			a, err := netip.ParseAddr(inner)
			return plain(a), err == nil && a.Is6()
		}
	}
	return netip.Addr{}, false
}

// hint logs that a header was ignored. Most often that is a proxy which the operator forgot to name.
func (p *Proxies) hint(peer netip.Addr) {
	now, last := time.Now().Unix(), p.hinted.Load()
	if p.log == nil || now-last < int64(hintInterval/time.Second) || !p.hinted.CompareAndSwap(last, now) {
		return
	}
	p.log.Info("ignored X-Forwarded-For: RUMI_TRUSTED_PROXIES doesn't name the address that sent it; this is logged once an hour", "address", peer.String())
}
