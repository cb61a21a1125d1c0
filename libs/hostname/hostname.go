// Package hostname brings every spelling of a host to one normal form. The same form is compared with a grant, resolved, dialled and
// verified in a certificate. If two of these steps read a host differently, a pack could be granted one host and reach
// another.
//
// Names follow UTS #46 (non-transitional) and the length bounds of RFC 1035. Texts that the C library's inet_aton takes for an address
// (RFC 6943, section 3.1.1: 127.1, 0x7f.1, 2130706433) are not taken for names: a server program behind us might read
// "0x7f.1" as 127.0.0.1, so it must not count as a name that isn't internal.
package hostname

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// MaxLength is the longest name, in bytes and without a trailing dot (RFC 1035, section 2.3.4).
const MaxLength = 253

// ErrInvalid is the error for a text that is no host.
var ErrInvalid = errors.New("parse host: not a name or an address")

// Host is a host in its normal form. The zero value is no host; no grant covers it.
type Host struct {
	Name    string     // lower-case ASCII without trailing dot, or the address as netip writes it, without brackets
	Addr    netip.Addr // valid if the host is an address
	Numeric bool       // an address in a spelling that only some parsers take for one; always refused
}

// profile maps case, width and dots. It allows underscores and hyphens anywhere: names with them exist in the DNS.
var profile = idna.New(idna.MapForLookup(), idna.Transitional(false), idna.StrictDomainName(false), idna.CheckHyphens(false), idna.BidiRule())

// Parse reads a host as it is written in a URL: a name, an IPv4 address, or an IPv6 address in brackets. The error is ErrInvalid.
func Parse(s string) (Host, error) {
	if inner, ok := strings.CutPrefix(s, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		addr, err := netip.ParseAddr(inner)
		if !ok || err != nil || !addr.Is6() || addr.Zone() != "" {
			return Host{}, ErrInvalid
		}
		return Host{Name: addr.String(), Addr: addr}, nil
	}
	name, err := canonical(s)
	if err != nil {
		return Host{}, err
	}
	if !endsInNumber(name) {
		return Host{Name: name}, nil
	}
	if addr, err := netip.ParseAddr(name); err == nil && name == strings.TrimSuffix(s, ".") {
		return Host{Name: name, Addr: addr}, nil
	}
	addr, ok := parseNumeric(name)
	if !ok {
		return Host{}, ErrInvalid // as in the WHATWG URL standard: parsers disagree on what it means
	}
	return Host{Name: addr.String(), Addr: addr, Numeric: true}, nil
}

// canonical is the ASCII form of a name: mapped, lower-case, without trailing dot.
func canonical(s string) (string, error) {
	name := s
	if !plain(s) {
		if len(s) > 4*MaxLength || !utf8.ValidString(s) {
			return "", ErrInvalid
		}
		var err error
		if name, err = profile.ToASCII(s); err != nil {
			return "", ErrInvalid
		}
	}
	name = strings.TrimSuffix(name, ".")
	if len(name) == 0 || len(name) > MaxLength {
		return "", ErrInvalid
	}
	label := 0
	for i := range len(name) {
		switch c := name[i]; {
		case c == '.':
			if label == 0 {
				return "", ErrInvalid
			}
			label = 0
			continue
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_':
		default:
			return "", ErrInvalid
		}
		if label++; label > 63 {
			return "", ErrInvalid
		}
	}
	if label == 0 {
		return "", ErrInvalid
	}
	return name, nil
}

// plain says whether mapping would leave s as it is: no capitals, no other script, no A-label (xn--) that must be checked. Most hosts
// are plain, and mapping costs allocations.
func plain(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '.', c == '_':
		case c == '-':
			if strings.Contains(s, "xn--") {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// endsInNumber says whether the last label is a number: some parsers take such a host for an IPv4 address (WHATWG URL, "ends in a number").
func endsInNumber(name string) bool {
	last := name[strings.LastIndexByte(name, '.')+1:]
	if digits(last) {
		return true
	}
	hex, ok := strings.CutPrefix(last, "0x")
	return ok && strings.Trim(hex, "0123456789abcdef") == ""
}

func digits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// parseNumeric reads one to four numbers as inet_aton does: the last fills the bytes that are left.
func parseNumeric(name string) (netip.Addr, bool) {
	parts := strings.Split(name, ".")
	if len(parts) > 4 {
		return netip.Addr{}, false
	}
	var value uint64
	for i, part := range parts {
		n, ok := number(part)
		if !ok {
			return netip.Addr{}, false
		}
		width := 8
		if i == len(parts)-1 {
			width = 8 * (5 - len(parts))
		}
		if n >= 1<<width {
			return netip.Addr{}, false
		}
		value = value<<width | n
	}
	return netip.AddrFrom4([4]byte{byte(value >> 24), byte(value >> 16), byte(value >> 8), byte(value)}), true
}

func number(s string) (uint64, bool) {
	base := 10
	switch {
	case s == "0x":
		return 0, true // BSD's inet_aton and the WHATWG URL standard read it as zero
	case strings.HasPrefix(s, "0x"):
		s, base = s[2:], 16
	case len(s) > 1 && s[0] == '0':
		s, base = s[1:], 8
	}
	n, err := strconv.ParseUint(s, base, 64)
	return n, err == nil && n <= 1<<32
}
