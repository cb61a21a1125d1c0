// Package address decides which addresses a pack may be connected to, whatever it was granted. A grant names hosts; a host's
// owner decides which addresses it has, and may choose internal ones (DNS rebinding). So each address is judged again,
// after the name was resolved and right before the connection is made to that very address.
//
// Public addresses are allowed. Others are denied, unless an operator opened their range (RUMI_EGRESS_ALLOW_CIDRS). Some stay denied
// even then (sealed): those at which clouds hand out credentials, and those of Rumi itself, which package selfaddr finds.
//
// Ranges are those of the IANA special-purpose registries (RFC 6890 and its updates), multicast, and every IPv6 form that
// carries an IPv4 address: a translator on the way (NAT64, 6to4) would turn such a form into a connection to that address.
package address

import "net/netip"

// class is a kind of address that is not simply public.
type class struct {
	name   string
	ranges []netip.Prefix
	sealed bool                        // RUMI_EGRESS_ALLOW_CIDRS doesn't open it
	inner  func(netip.Addr) netip.Addr // the IPv4 address that it carries; nil for none
}

// classes are compared in order; the first that has the address decides. Sealed ones come first: 169.254.0.0/16 must not be opened
// by a range that also lies in another class.
var classes = []class{
	{name: "metadata", sealed: true, ranges: prefixes(
		"169.254.0.0/16",     // link-local; all clouds' metadata, and those of containers (ECS, EKS) at other ends of it
		"100.100.100.200/32", // Alibaba
		"168.63.129.16/32",   // Azure, a public address
		"192.0.0.192/32",     // Oracle
		"fd00:ec2::/32",      // AWS
		"fd20:ce::/32",       // Google
		"fd00:42::42/128",    // Scaleway
		"fd00:c1::/32",       // Oracle
	)},
	{name: "unspecified", sealed: true, ranges: prefixes("0.0.0.0/8", "::/128")}, // connecting there reaches this host
	{name: "multicast", sealed: true, ranges: prefixes("224.0.0.0/4", "ff00::/8")},
	{name: "broadcast", sealed: true, ranges: prefixes("255.255.255.255/32")},

	{name: "loopback", ranges: prefixes("127.0.0.0/8", "::1/128")},
	{name: "private", ranges: prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fec0::/10")},
	{name: "shared", ranges: prefixes("100.64.0.0/10")},
	{name: "link_local", ranges: prefixes("fe80::/10")},
	{name: "reserved", ranges: prefixes(
		"192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.175.48.0/24",
		"198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
	)},

	{name: "carries_ipv4", ranges: prefixes("::ffff:0:0/96"), inner: last32},                  // mapped
	{name: "carries_ipv4", ranges: prefixes("::ffff:0:0:0/96"), inner: last32},                // translated, RFC 2765
	{name: "carries_ipv4", ranges: prefixes("64:ff9b::/96", "64:ff9b:1::/48"), inner: last32}, // NAT64
	{name: "carries_ipv4", ranges: prefixes("2002::/16"), inner: bytesAt(2, 0)},               // 6to4
	{name: "carries_ipv4", ranges: prefixes("2001::/32"), inner: bytesAt(12, 0xff)},           // Teredo
	{name: "carries_ipv4", ranges: prefixes("::/96"), inner: last32},                          // compatible
	{name: "reserved", ranges: prefixes("2001::/23", "2001:db8::/32", "3fff::/20", "2620:4f:8000::/48")},
}

// globalUnicast is the only IPv6 range that IANA gives out for the Internet. What lies outside it and in no class is reserved: denied
// until somebody knows what it is.
var globalUnicast = netip.MustParsePrefix("2000::/3")

var (
	reserved = class{name: "reserved"}
	isatap   = class{name: "carries_ipv4", inner: last32}
)

// classOf is the class of an address, nil for a public one.
func classOf(a netip.Addr) *class {
	for i := range classes {
		for _, p := range classes[i].ranges {
			if p.Contains(a) {
				return &classes[i]
			}
		}
	}
	if a.Is4() {
		return nil
	}
	if b := a.As16(); b[8]&^0x02 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe { // RFC 5214, section 6.1
		return &isatap
	}
	if !globalUnicast.Contains(a) {
		return &reserved
	}
	return nil
}

func last32(a netip.Addr) netip.Addr { return bytesAt(12, 0)(a) }

// bytesAt reads an IPv4 address at an offset, each byte xored with mask. Teredo stores its client's address inverted (RFC 4380,
// section 4), so that address translators on the way don't rewrite it.
func bytesAt(offset int, mask byte) func(netip.Addr) netip.Addr {
	return func(a netip.Addr) netip.Addr {
		b := a.As16()
		var v4 [4]byte
		for i := range v4 {
			v4[i] = b[offset+i] ^ mask
		}
		return netip.AddrFrom4(v4)
	}
}

func prefixes(texts ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		out[i] = netip.MustParsePrefix(text)
	}
	return out
}
