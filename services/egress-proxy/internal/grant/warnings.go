package grant

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/rumi-ai/rumi/libs/hostname"
)

// Obstacle says why a pack can't reach a host at a port whatever is granted; "" if no reason is known. setting is the setting with
// which an operator can change that, "" if there is none. An Obstacle resolves no name, so it knows nothing of the addresses
// behind a public one. address.Policy.Obstacle is one.
type Obstacle func(host hostname.Host, port uint16) (why, setting string)

// Removed lists the destinations that the replaced grant granted and the new one doesn't. Fields are as in Grant.
type Removed struct {
	AllowedDomains []string
	AllowedPorts   []int
	PathRules      []PathRule
	Tunnels        bool
}

// Any says whether there is anything in it.
func (r Removed) Any() bool {
	return len(r.AllowedDomains) > 0 || len(r.AllowedPorts) > 0 || len(r.PathRules) > 0 || r.Tunnels
}

// removed compares a grant with the one in force that it replaces.
func (g *Grant) removed(old *Grant) Removed {
	r := Removed{Tunnels: old.tunnels() && !g.tunnels()}
	if !slices.Contains(g.AllowedDomains, "*") {
		r.AllowedDomains = without(old.AllowedDomains, g.AllowedDomains)
	}
	if !slices.Contains(g.AllowedPorts, 0) {
		r.AllowedPorts = without(old.AllowedPorts, g.AllowedPorts)
	}
	if len(g.PathRules) > 0 { // no rules cover everything
		for _, rule := range old.PathRules {
			if !slices.ContainsFunc(g.PathRules, rule.equal) {
				r.PathRules = append(r.PathRules, rule)
			}
		}
	}
	return r
}

func (g *Grant) tunnels() bool { return len(g.PathRules) == 0 || g.AllowTunnel }

func without[T comparable](all, some []T) (rest []T) {
	for _, v := range all {
		if !slices.Contains(some, v) {
			rest = append(rest, v)
		}
	}
	return rest
}

// maxWarnings bounds the warnings of each kind, so that a grant of a thousand internal names is answered by a page.
const maxWarnings = 20

// Warnings says where the grant allows something else than an operator may expect from its lists: nothing, less, or everything. No
// name is resolved for it.
func (g *Grant) Warnings(obstacle Obstacle) []string {
	var all []string
	if len(g.AllowedPorts) == 0 {
		all = append(all, "no port is named: nothing is allowed (allowed_ports)")
	}
	if len(g.AllowedDomains) == 0 {
		all = append(all, "no domain is named: nothing is allowed (allowed_domains)")
	}
	everyHost, everyPort := slices.Contains(g.AllowedDomains, "*"), slices.Contains(g.AllowedPorts, 0)
	switch {
	case everyHost && everyPort:
		all = append(all, "every host and port is allowed")
	case everyHost:
		all = append(all, "every host is allowed")
	case everyPort:
		all = append(all, "every port is allowed")
	}
	if g.NoTunnels != nil && g.tunnels() {
		all = append(all, "tunnels are refused by the policy ("+g.NoTunnels.Rule+")")
	}
	all = append(all, bounded(g.unreachable(obstacle))...)
	return append(all, bounded(g.uselessRules())...)
}

// unreachable gives a warning for each domain that no pack can reach at any port of the grant.
func (g *Grant) unreachable(obstacle Obstacle) (all []string) {
	ports := g.AllowedPorts
	if len(ports) == 0 {
		ports = []int{0} // as if every port were named: a missing port has a warning of its own
	}
	for _, domain := range g.AllowedDomains {
		host, ok := example(domain)
		if !ok {
			continue
		}
		blocked := ""
		for _, port := range ports {
			if port == 0 {
				port = 443 // stands for any: addresses are closed with all ports; only Rumi's own listeners are closed by port
			}
			why, _ := obstacle(host, uint16(port))
			if blocked = why; why == "" {
				break
			}
		}
		if blocked != "" {
			all = append(all, domain+" is "+blocked)
		}
	}
	return all
}

// example is one of the hosts that an entry of allowed_domains covers. ok is false for "*", of which no one host is typical.
func example(domain string) (host hostname.Host, ok bool) {
	p, err := hostname.ParsePattern(domain)
	if err != nil || p.Any() {
		return hostname.Host{}, false
	}
	name := p.String()
	if p.Wildcard() {
		name = "x" + strings.TrimPrefix(name, "*")
	}
	return parseHost(name)
}

// parseHost reads a host in hostname's normal form, which has no brackets around an IPv6 address.
func parseHost(name string) (hostname.Host, bool) {
	host, err := hostname.Parse(name)
	if err != nil {
		host, err = hostname.Parse("[" + name + "]")
	}
	return host, err == nil
}

// uselessRules gives a warning for each rule that covers no domain of the grant, and for each domain that no rule covers: every
// request to it is refused.
func (g *Grant) uselessRules() (all []string) {
	if len(g.PathRules) == 0 {
		return nil
	}
	for i, rule := range g.PathRules {
		if len(rule.Domains) > 0 && !slices.ContainsFunc(rule.Domains, g.opens) {
			all = append(all, fmt.Sprintf("rules[%d] covers no domain of allowed_domains: it allows nothing", i))
		}
	}
	for _, domain := range g.AllowedDomains {
		if _, ok := example(domain); ok && !g.hasRuleFor(domain) {
			what := "every request to it is refused"
			if g.AllowTunnel {
				what = "only tunnels to it are allowed"
			}
			all = append(all, domain+" is covered by no rule: "+what)
		}
	}
	return all
}

// opens says whether the grant opens a host that a rule's domain covers.
func (g *Grant) opens(entry string) bool {
	return slices.ContainsFunc(g.AllowedDomains, func(domain string) bool { return overlap(entry, domain) })
}

func (g *Grant) hasRuleFor(domain string) bool {
	return slices.ContainsFunc(g.PathRules, func(rule PathRule) bool {
		return len(rule.Domains) == 0 || slices.ContainsFunc(rule.Domains, func(entry string) bool { return overlap(entry, domain) })
	})
}

// overlap says whether there is a host that both entries cover.
func overlap(a, b string) bool {
	p, err := hostname.ParsePattern(a)
	q, err2 := hostname.ParsePattern(b)
	if err != nil || err2 != nil {
		return false
	}
	return hostname.NewSet(p).Overlaps(q)
}

func bounded(all []string) []string {
	if len(all) <= maxWarnings {
		return all
	}
	return append(all[:maxWarnings:maxWarnings], "and "+strconv.Itoa(len(all)-maxWarnings)+" more of this kind")
}

// Warning is a sentence that names what was removed, "" for nothing.
func (r Removed) Warning() string {
	if !r.Any() {
		return ""
	}
	parts := slices.Clone(r.AllowedDomains)
	for _, port := range r.AllowedPorts {
		parts = append(parts, "port "+strconv.Itoa(port))
	}
	switch n := len(r.PathRules); n {
	case 0:
	case 1:
		parts = append(parts, "a rule")
	default:
		parts = append(parts, strconv.Itoa(n)+" rules")
	}
	if r.Tunnels {
		parts = append(parts, "tunnels")
	}
	if len(parts) > maxWarnings {
		parts = append(parts[:maxWarnings:maxWarnings], "…")
	}
	return "no longer granted: " + strings.Join(parts, ", ")
}
