package grant

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/rumi-ai/rumi/libs/hostname"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/urlpath"
)

// Refusal is a request that was refused because of the pack's grant or the lack of one.
type Refusal struct {
	Host   string
	Port   uint16
	Method string // "CONNECT" for a tunnel
	Path   string // masked (urlpath.Mask); "" where the log of denials has none
	Reason string // Denied or RuleDenied
}

// LeftOut is a refusal that stays refused under the proposed grant.
type LeftOut struct {
	Refusal
	Why     string
	Setting string // what an operator can set to change that, "" for nothing
}

// propose makes the smallest request that keeps what old grants and would have allowed what was refused. An old that is nil or not in
// force grants nothing. Left out are hosts that no grant opens (obstacle), paths that servers read differently, and what
// is over a grant's bounds.
//
// Smallest is meant within what a grant can say: it joins each domain with each port, so that two refusals, a.com:443 and b.com:8443,
// come to a grant of both hosts at both ports.
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
	c, err := compile(have)
	if err != nil {
		return Request{}, nil, err
	}
	refused = slices.Clone(refused)
	slices.SortFunc(refused, func(a, b Refusal) int {
		// "" sorts first: a refusal without a path opens all paths of its host, and those after it then need no prefixes.
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Method, b.Method), cmp.Compare(a.Path, b.Path), cmp.Compare(a.Port, b.Port))
	})
	p := proposal{request: w, compiled: c, added: make(map[Refusal]int)}
	for _, refusal := range refused {
		p.add(refusal, obstacle)
	}
	return p.request, p.leftOut, nil
}

// proposal is a request that grows by one refusal after the other.
type proposal struct {
	request  Request
	leftOut  []LeftOut
	compiled *compiledGrant  // request, compiled; kept in step with it
	added    map[Refusal]int // from a host and method to the index of the rule that was added for them
}

// add makes the request cover the refusal, or leaves it out with the reason.
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

// open makes the request cover the refusal. why is the reason why it can't, "" if it does.
func (p *proposal) open(host hostname.Host, refusal Refusal) (why string) {
	newHost := !p.compiled.allowsHost(host)
	newPort := !p.compiled.everyPort && !p.compiled.ports[refusal.Port]
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
		p.compiled.exact[host.Name] = true
	}
	if newPort {
		p.request.AllowedPorts = append(p.request.AllowedPorts, int(refusal.Port))
		p.compiled.ports[refusal.Port] = true
	}
	return ""
}

// openRules makes the request's path rules cover the refusal. why is the reason why they can't, "" if they do.
func (p *proposal) openRules(host hostname.Host, refusal Refusal) (why string) {
	if refusal.Method == "CONNECT" {
		p.request.AllowTunnel = true
		return ""
	}
	// Segments that look like credentials are masked in the log of denials, so a rule can only name the path before them.
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
		p.compiled.pathRules = append(p.compiled.pathRules, compiledPathRule{})
	case len(p.request.PathRules[i].PathPrefixes) == MaxPrefixes:
		return fmt.Sprintf("a rule has at most %d path_prefixes", MaxPrefixes)
	}
	if refusal.Path != "" {
		p.request.PathRules[i].PathPrefixes = append(p.request.PathRules[i].PathPrefixes, refusal.Path)
	}
	n, err := compilePathRule(p.request.PathRules[i])
	p.compiled.pathRules[i] = n
	if err != nil {
		return "no rule can name its path"
	}
	return ""
}

// covered says whether the path rules cover the refusal already. Where its path isn't known, some path is enough: to open all
// paths of a host that has rules would be more than the pack may have asked for.
func (p *proposal) covered(host hostname.Host, refusal Refusal) bool {
	if refusal.Path != "" {
		return p.compiled.coversRequest(host, refusal.Method, refusal.Path)
	}
	return slices.ContainsFunc(p.compiled.pathRules, func(n compiledPathRule) bool {
		n.prefixes = nil
		return n.covers(host, refusal.Method, "")
	})
}
