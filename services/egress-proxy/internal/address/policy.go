package address

import (
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
)

// Policy decides about addresses. It is safe for concurrent use.
type Policy struct {
	opened []netip.Prefix
	self   atomic.Pointer[selfIndex] // replaced as a whole, so that Judge takes no lock
}

// Self is where Rumi itself is. It stays denied inside ranges that an operator opened.
type Self struct {
	Listeners []netip.AddrPort // an unspecified address (0.0.0.0, ::) stands for the port on every address of this machine
	Machine   []netip.Addr     // this machine's addresses; loopback addresses needn't be listed
	Hosts     []netip.Addr     // denied with all their ports
}

// selfIndex is Self as sets.
type selfIndex struct {
	listeners map[netip.AddrPort]bool
	everyAddr map[uint16]bool // ports of listeners on an unspecified address
	machine   map[netip.Addr]bool
	hosts     map[netip.Addr]bool
}

// NewPolicy makes a policy that denies whatever is not public, but for the given ranges (RUMI_EGRESS_ALLOW_CIDRS).
func NewPolicy(opened []netip.Prefix) *Policy {
	p := &Policy{opened: opened}
	p.self.Store(&selfIndex{})
	return p
}

// ParseOpened reads RUMI_EGRESS_ALLOW_CIDRS: prefixes and single addresses, separated by commas.
func ParseOpened(s string) ([]netip.Prefix, error) {
	var opened []netip.Prefix
	for text := range strings.SplitSeq(s, ",") {
		text = strings.TrimSpace(text)
		if text == "" {
			continue
		}
		if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
			opened = append(opened, netip.PrefixFrom(addr, addr.BitLen()))
			continue
		}
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("read address ranges: %q: want an address or a range, such as 10.1.2.3 or 10.1.0.0/16", text)
		}
		if prefix != prefix.Masked() {
			return nil, fmt.Errorf("read address ranges: %q has bits behind its length (did you mean %s?)", text, prefix.Masked())
		}
		opened = append(opened, prefix)
	}
	return opened, nil
}

// Opens says whether an operator opened any range. If not, only public addresses can be reached.
func (p *Policy) Opens() bool { return len(p.opened) > 0 }

// SetSelf replaces what the policy knows of Rumi's own addresses. Until it was called, none of them is known.
func (p *Policy) SetSelf(o Self) {
	next := &selfIndex{map[netip.AddrPort]bool{}, map[uint16]bool{}, map[netip.Addr]bool{}, map[netip.Addr]bool{}}
	for _, l := range o.Listeners {
		if addr := l.Addr().Unmap(); addr.IsUnspecified() {
			next.everyAddr[l.Port()] = true
		} else {
			next.listeners[netip.AddrPortFrom(addr, l.Port())] = true
		}
	}
	for _, a := range o.Machine {
		next.machine[a.Unmap()] = true
	}
	for _, a := range o.Hosts {
		next.hosts[a.Unmap()] = true
	}
	p.self.Store(next)
}

func (o *selfIndex) has(to netip.AddrPort) bool {
	addr := to.Addr()
	return o.hosts[addr] || o.listeners[to] || o.everyAddr[to.Port()] && (addr.IsLoopback() || o.machine[addr])
}

// Judge says whether a pack may be connected to the address. If not, class is the kind of address, for the audit log. The connection
// must be made to this very address: resolving the name once more would ask its owner a second time.
func (p *Policy) Judge(to netip.AddrPort) (class string, ok bool) {
	addr := to.Addr()
	if !addr.IsValid() || addr.Zone() != "" || to.Port() == 0 {
		return "invalid", false
	}
	c := classOf(addr)
	if c == nil {
		return "", true
	}
	if c.sealed || !p.isOpened(addr) {
		return c.name, false
	}
	if c.inner != nil { // opened as IPv6; the IPv4 address in it must be allowed, too
		return p.Judge(netip.AddrPortFrom(c.inner(addr), to.Port()))
	}
	if p.self.Load().has(to) {
		return "own_service", false
	}
	return "", true
}

// AllowCIDRs is the setting that opens internal ranges.
const AllowCIDRs = "RUMI_EGRESS_ALLOW_CIDRS"

// Obstacle says why a pack can't reach a host whatever it is granted, "" if no reason is known. setting is the setting with which an
// operator can change that, "" if there is none. name is in hostname's normal form; addr is valid if the host is an
// address. No name is resolved: an operator who proposes a grant must not cause look-ups of names that a pack chose.
func (p *Policy) Obstacle(name string, addr netip.Addr, port uint16) (why, setting string) {
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	switch {
	case addr.IsValid():
		return p.obstacleAt(addr, port)
	case suiteName(name):
		return "one of Rumi's own services: never reached", ""
	case DeniedName(name):
		return "a name of this machine or of a service that hands out credentials: never reached", ""
	case !p.Opens() && PrivateName(name):
		return "an internal name, and no internal range is open: name its addresses in " + AllowCIDRs, AllowCIDRs
	}
	return "", ""
}

func (p *Policy) obstacleAt(addr netip.Addr, port uint16) (why, setting string) {
	class, ok := p.Judge(netip.AddrPortFrom(addr, port))
	if ok {
		return "", ""
	}
	c := classOf(addr)
	for c != nil && c.inner != nil && !c.sealed {
		carried := classOf(c.inner(addr))
		if carried == nil || !carried.sealed {
			break
		}
		c, class = carried, carried.name // sealed: to open the outer range would change nothing, so the inner class is the reason
	}
	switch {
	case class == "own_service":
		return "a listener of Rumi's own: never reached", ""
	case c == nil || c.sealed:
		return "an address that is never reached (" + class + ")", ""
	}
	return "an internal address (" + class + "): name it in " + AllowCIDRs, AllowCIDRs
}

func (p *Policy) isOpened(addr netip.Addr) bool {
	for _, prefix := range p.opened {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}
