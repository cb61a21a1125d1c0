package hostname

import (
	"iter"
	"strings"
)

// Set is a set of patterns, made ready for questions about other patterns. A question costs one look-up for each label of the name that it is
// about, however many patterns the set has. The zero Set is empty. A Set is safe for concurrent use once nothing is added any more.
type Set struct {
	any   bool
	exact map[string]bool // names and addresses
	below map[string]bool // "x.com" of "*.x.com"
	above map[string]bool // the names that have an entry somewhere below them
}

// NewSet makes a set.
func NewSet(patterns ...Pattern) *Set {
	s := &Set{exact: make(map[string]bool), below: make(map[string]bool), above: make(map[string]bool)}
	for _, p := range patterns {
		name := p.name
		switch {
		case p.any:
			s.any = true
			continue
		case p.suffix != "":
			name = p.suffix[1:]
			s.below[name] = true
		default:
			s.exact[name] = true
		}
		if !p.address {
			for parent := range parents(name) {
				s.above[parent] = true
			}
		}
	}
	return s
}

// parents are the names above a name, the nearest first: "x.com", then "com", of "a.x.com".
func parents(name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for {
			_, parent, ok := strings.Cut(name, ".")
			if !ok || !yield(parent) {
				return
			}
			name = parent
		}
	}
}

// Covers says whether one pattern of the set covers every host that p covers. As the hosts below a name have no end, no number of other names
// covers "*.x.com": "*.x.com" itself, "*.com" or "*" does.
func (s *Set) Covers(p Pattern) bool {
	switch {
	case s.any:
		return true
	case p.any:
		return false
	case p.suffix != "":
		return s.below[p.suffix[1:]] || s.belowParent(p.suffix[1:])
	}
	return s.exact[p.name] || !p.address && s.belowParent(p.name)
}

// Overlaps says whether there is a host that p covers and a pattern of the set, too: "*.x.com" and "evil.x.com" overlap.
func (s *Set) Overlaps(p Pattern) bool {
	switch {
	case s.any:
		return true
	case p.any:
		return len(s.exact)+len(s.below) > 0
	case p.suffix != "":
		name := p.suffix[1:]
		return s.below[name] || s.above[name] || s.belowParent(name)
	}
	return s.exact[p.name] || !p.address && s.belowParent(p.name)
}

// belowParent says whether "*.parent" is in the set for one of the names above name.
func (s *Set) belowParent(name string) bool {
	for parent := range parents(name) {
		if s.below[parent] {
			return true
		}
	}
	return false
}
