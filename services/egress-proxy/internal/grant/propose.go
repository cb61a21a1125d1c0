package grant

import (
	"cmp"
	"fmt"
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

// LeftOut is a refusal that a proposal doesn't mend.
type LeftOut struct {
	Refusal
	Why     string
	Setting string // what an operator can set to change that, "" for nothing
}

// propose makes the smallest request that keeps what old grants, nil or not in force for nothing, and would have allowed what was
// refused. Left out are hosts that no grant opens (obstacle), paths on whose meaning servers differ, and what is over a
// grant's bounds. A grant joins each of its domains with each of its ports, and so does the request.
func propose(old *Grant, refused []Refusal, obstacle Obstacle, now time.Time) (Request, []LeftOut, error) {
	w := Request{AllowedDomains: []string{}, AllowedPorts: []int{}}
	have := Grant{}
	if old != nil && old.InForce(now) {
		have = *old
		w = Request{
			AllowedDomains: slices.Clone(old.AllowedDomains), AllowedPorts: slices.Clone(old.AllowedPorts), Notes: old.Notes,
			ExpiresAt: old.ExpiresAt, PathRules: slices.Clone(old.PathRules), AllowTunnel: old.AllowTunnel,
		}
	}
	r, err := compile(have)
	if err != nil {
		return Request{}, nil, err
	}
	refused = slices.Clone(refused)
	slices.SortFunc(refused, func(a, b Refusal) int {
		// Unknown paths, which open all of a host, before those that would then be needless.
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Method, b.Method), cmp.Compare(a.Path, b.Path), cmp.Compare(a.Port, b.Port))
	})
	p := proposal{request: w, rule: r, added: make(map[Refusal]int)}
	for _, refusal := range refused {
		p.add(refusal, obstacle)
	}
	return p.request, p.leftOut, nil
}

// proposal is a request that grows, with what it comes to.
type proposal struct {
	request Request
	leftOut []LeftOut
	rule    *compiledGrant
	added   map[Refusal]int // of host and method, the request's rule for them
}

// add makes the request prevent the refusal, or notes why it can't.
func (p *proposal) add(refusal Refusal, obstacle Obstacle) {
	host, ok := parseHost(refusal.Host)
	why, setting := "not a host that a grant can name", ""
	if ok && !host.Numeric {
		why, setting = obstacle(host, refusal.Port)
	}
	if why == "" {
		why = p.open(host, refusal)
	}
	if why != "" {
		p.leftOut = append(p.leftOut, LeftOut{refusal, why, setting})
	}
}

// open makes the request cover the refusal. why says why it can't, "" where it does.
func (p *proposal) open(host hostname.Host, refusal Refusal) (why string) {
	newHost := !p.rule.allowsHost(host)
	newPort := !p.rule.everyPort && !p.rule.ports[refusal.Port]
	switch {
	case newHost && len(p.request.AllowedDomains) == MaxEntries:
		return fmt.Sprintf("a grant has at most %d domains", MaxEntries)
	case newPort && len(p.request.AllowedPorts) == MaxEntries:
		return fmt.Sprintf("a grant has at most %d ports", MaxEntries)
	}
	if len(p.request.PathRules) > 0 {
		if why := p.openRules(host, refusal); why != "" {
			return why
		}
	}
	if newHost {
		p.request.AllowedDomains = append(p.request.AllowedDomains, host.Name)
		p.rule.exact[host.Name] = true
	}
	if newPort {
		p.request.AllowedPorts = append(p.request.AllowedPorts, int(refusal.Port))
		p.rule.ports[refusal.Port] = true
	}
	return ""
}

// openRules makes the request's rules cover the refusal. why says why they can't, "" where they do.
func (p *proposal) openRules(host hostname.Host, refusal Refusal) (why string) {
	if refusal.Method == "CONNECT" {
		p.request.AllowTunnel = true
		return ""
	}
	// A segment that looked like a credential was not kept; a rule can name what is before it.
	refusal.Path = urlpath.BeforeMasked(refusal.Path)
	if refusal.Reason == RuleDenied && !urlpath.Exact(refusal.Path) {
		return "servers read this path differently: no rule covers it"
	}
	if p.covered(host, refusal) {
		return ""
	}
	if !slices.Contains(Methods, refusal.Method) {
		return "no rule may name the method " + refusal.Method
	}
	key := Refusal{Host: host.Name, Method: refusal.Method}
	i, ok := p.added[key]
	switch {
	case !ok && len(p.request.PathRules) == MaxRules:
		return fmt.Sprintf("a grant has at most %d rules", MaxRules)
	case !ok:
		i = len(p.request.PathRules)
		p.added[key] = i
		p.request.PathRules = append(p.request.PathRules, PathRule{Domains: []string{host.Name}, Methods: []string{refusal.Method}, PathPrefixes: []string{}})
		p.rule.pathRules = append(p.rule.pathRules, compiledPathRule{})
	case len(p.request.PathRules[i].PathPrefixes) == MaxPrefixes:
		return fmt.Sprintf("a rule has at most %d path_prefixes", MaxPrefixes)
	}
	if refusal.Path != "" {
		p.request.PathRules[i].PathPrefixes = append(p.request.PathRules[i].PathPrefixes, refusal.Path)
	}
	n, err := compilePathRule(p.request.PathRules[i])
	p.rule.pathRules[i] = n
	if err != nil {
		return "no rule can name its path"
	}
	return ""
}

// covered says whether the rules cover the refusal; where its path isn't known, whether they cover any path.
func (p *proposal) covered(host hostname.Host, refusal Refusal) bool {
	if refusal.Path != "" {
		return p.rule.coversRequest(host, refusal.Method, refusal.Path)
	}
	return slices.ContainsFunc(p.rule.pathRules, func(n compiledPathRule) bool {
		n.prefixes = nil
		return n.covers(host, refusal.Method, "")
	})
}
