package grant

import (
	"cmp"
	"slices"
	"time"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/hostname"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/urlpath"
)

// Refusal is a request that a pack's grant, or the lack of one, refused.
type Refusal struct {
	Host   string
	Port   uint16
	Method string // "CONNECT" for a tunnel
	Path   string // of what rules refused, "" where it isn't known
	Reason string // Denied or RuleDenied
}

// propose makes the smallest wish that keeps what old grants, nil or not in force for nothing, and would have allowed
// what was refused. What no grant can open (canOpen), what needs a path on whose meaning servers differ, and what is over
// a grant's bounds is left out. A grant joins each of its domains with each of its ports, and so does the wish.
func propose(old *Grant, refused []Refusal, canOpen func(hostname.Host, uint16) bool, now time.Time) (Wish, error) {
	w := Wish{AllowedDomains: []string{}, AllowedPorts: []int{}}
	have := Grant{}
	if old != nil && old.InForce(now) {
		have = *old
		w = Wish{
			AllowedDomains: slices.Clone(old.AllowedDomains), AllowedPorts: slices.Clone(old.AllowedPorts), Notes: old.Notes,
			ExpiresAt: old.ExpiresAt, Rules: slices.Clone(old.Rules), AllowTunnel: old.AllowTunnel,
		}
	}
	r, err := compile(have)
	if err != nil {
		return Wish{}, err
	}
	refused = slices.Clone(refused)
	slices.SortFunc(refused, func(a, b Refusal) int {
		// Unknown paths, which open all of a host, before those that would then be needless.
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Method, b.Method), cmp.Compare(a.Path, b.Path), cmp.Compare(a.Port, b.Port))
	})
	p := proposal{wish: w, rule: r, added: make(map[Refusal]int)}
	for _, refusal := range refused {
		host, err := hostname.Parse(refusal.Host)
		if err != nil { // an address of IPv6, as Host.Name has it
			host, err = hostname.Parse("[" + refusal.Host + "]")
		}
		if err == nil && !host.Numeric && canOpen(host, refusal.Port) {
			p.open(host, refusal)
		}
	}
	return p.wish, nil
}

// proposal is a wish that grows, with what it comes to.
type proposal struct {
	wish  Wish
	rule  *rule
	added map[Refusal]int // of host and method, the wish's rule for them
}

func (p *proposal) open(host hostname.Host, refusal Refusal) {
	if len(p.wish.Rules) > 0 && !p.openRules(host, refusal) {
		return
	}
	if !p.rule.allowsHost(host) && len(p.wish.AllowedDomains) < MaxEntries {
		p.wish.AllowedDomains = append(p.wish.AllowedDomains, host.Name)
		p.rule.exact[host.Name] = true
	}
	if !p.rule.everyPort && !p.rule.ports[refusal.Port] && len(p.wish.AllowedPorts) < MaxEntries {
		p.wish.AllowedPorts = append(p.wish.AllowedPorts, int(refusal.Port))
		p.rule.ports[refusal.Port] = true
	}
}

// openRules makes the wish's rules cover the refusal. It says whether they can.
func (p *proposal) openRules(host hostname.Host, refusal Refusal) bool {
	if refusal.Method == "CONNECT" {
		p.wish.AllowTunnel = true
		return true
	}
	if refusal.Reason == RuleDenied {
		if _, err := urlpath.ParsePrefix(refusal.Path); err != nil {
			return false
		}
	}
	if p.covered(host, refusal) {
		return true
	}
	if !slices.Contains(Methods, refusal.Method) {
		return false
	}
	key := Refusal{Host: host.Name, Method: refusal.Method}
	i, ok := p.added[key]
	switch {
	case !ok && len(p.wish.Rules) == MaxRules:
		return false
	case !ok:
		i = len(p.wish.Rules)
		p.added[key] = i
		p.wish.Rules = append(p.wish.Rules, Rule{Domains: []string{host.Name}, Methods: []string{refusal.Method}, PathPrefixes: []string{}})
		p.rule.rules = append(p.rule.rules, narrowing{})
	case len(p.wish.Rules[i].PathPrefixes) == MaxPrefixes:
		return false
	}
	if refusal.Path != "" {
		p.wish.Rules[i].PathPrefixes = append(p.wish.Rules[i].PathPrefixes, refusal.Path)
	}
	n, err := compileRule(p.wish.Rules[i])
	p.rule.rules[i] = n
	return err == nil
}

// covered says whether the rules cover the refusal; where its path isn't known, whether they cover any path.
func (p *proposal) covered(host hostname.Host, refusal Refusal) bool {
	if refusal.Path != "" {
		return p.rule.coversRequest(host, refusal.Method, refusal.Path)
	}
	return slices.ContainsFunc(p.rule.rules, func(n narrowing) bool {
		n.prefixes = nil
		return n.covers(host, refusal.Method, "")
	})
}
