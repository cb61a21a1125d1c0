package hostname

import (
	"strings"
)

// Pattern is one entry of a grant's allowed_domains (docs/contract.md), or of a policy's domains: a name or an address, "*.x.com" for any
// depth below x.com but not x.com itself, or "*" for every host. Two patterns that cover the same hosts are equal.
type Pattern struct {
	any     bool
	suffix  string // ".x.com" of "*.x.com"
	name    string
	address bool // name is an address, so no "*.…" covers it
}

// ParsePattern reads an entry. Names are brought to their normal form; an IPv6 address may have brackets or none. A number that isn't
// a plain address ("127.1") is refused: it isn't clear which address its author meant. The error is ErrInvalid.
func ParsePattern(s string) (Pattern, error) {
	if s == "*" {
		return Pattern{any: true}, nil
	}
	if rest, ok := strings.CutPrefix(s, "*."); ok {
		h, err := Parse(rest)
		if err != nil || h.Addr.IsValid() {
			return Pattern{}, ErrInvalid
		}
		return Pattern{suffix: "." + h.Name}, nil
	}
	if strings.Count(s, ":") > 1 && !strings.HasPrefix(s, "[") {
		s = "[" + s + "]"
	}
	h, err := Parse(s)
	if err != nil || h.Numeric {
		return Pattern{}, ErrInvalid
	}
	return Pattern{name: h.Name, address: h.Addr.IsValid()}, nil
}

// Any says whether the pattern is "*", which covers every host.
func (p Pattern) Any() bool { return p.any }

// Wildcard says whether the pattern covers all names below one, "*.x.com".
func (p Pattern) Wildcard() bool { return p.suffix != "" }

// String gives the pattern in its normal form.
func (p Pattern) String() string {
	switch {
	case p.any:
		return "*"
	case p.suffix != "":
		return "*" + p.suffix
	default:
		return p.name
	}
}

// Match says whether the pattern covers h. "*.x.com" covers names only, never an address.
func (p Pattern) Match(h Host) bool {
	switch {
	case h.Name == "":
		return false
	case p.any:
		return true
	case p.suffix != "":
		return !h.Addr.IsValid() && len(h.Name) > len(p.suffix) && strings.HasSuffix(h.Name, p.suffix)
	default:
		return h.Name == p.name
	}
}
