package grant

import (
	"fmt"
	"time"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/hostname"
)

// Decision is the answer to whether a pack may reach a host and port, with the reason in the words of contract.md.
type Decision struct {
	Allowed bool
	Reason  string

	rule *compiledGrant // of an allowed decision whose grant has rules; nil for no rules
	host hostname.Host
}

// The reasons of contract.md that don't depend on what was asked, and the one for a store that can't be read.
const (
	ReasonModified = "Pack is disabled due to modification"
	ReasonNone     = "No network grant for this pack"
	ReasonDisabled = "Network grant is disabled"
	ReasonGranted  = "Access granted"
	ReasonUnknown  = "Network grants can't be read at the moment"
)

// rule is a grant made ready for decisions.
type compiledGrant struct {
	grant     Grant
	everyHost bool
	exact     map[string]bool
	wildcards []hostname.Pattern
	everyPort bool
	ports     map[uint16]bool
	pathRules []compiledPathRule
}

func compile(g Grant) (*compiledGrant, error) {
	r := &compiledGrant{grant: g, exact: make(map[string]bool), ports: make(map[uint16]bool)}
	for _, text := range g.AllowedDomains {
		p, err := hostname.ParsePattern(text)
		switch {
		case err != nil:
			return nil, fmt.Errorf("compile grant of %s: domain %q: %w", g.PackID, text, err)
		case p.Any():
			r.everyHost = true
		case p.Wildcard():
			r.wildcards = append(r.wildcards, p)
		default:
			r.exact[p.String()] = true
		}
	}
	for _, port := range g.AllowedPorts {
		if port == 0 {
			r.everyPort = true
			continue
		}
		r.ports[uint16(port)] = true
	}
	for i, text := range g.PathRules {
		n, err := compilePathRule(text)
		if err != nil {
			return nil, fmt.Errorf("compile grant of %s: rule %d: %w", g.PackID, i, err)
		}
		r.pathRules = append(r.pathRules, n)
	}
	return r, nil
}

// check decides; shown is how the host is named in the reason.
func (r *compiledGrant) check(host hostname.Host, shown string, port uint16, now time.Time) Decision {
	switch {
	case !r.grant.InForce(now):
		return Decision{Reason: ReasonDisabled}
	case !r.allowsHost(host):
		return Decision{Reason: "Domain '" + shown + "' not in allowed list"}
	case !r.everyPort && !r.ports[port]:
		return Decision{Reason: fmt.Sprintf("Port %d not in allowed list", port)}
	case len(r.pathRules) > 0:
		return Decision{Allowed: true, Reason: ReasonGranted, rule: r, host: host}
	default:
		return Decision{Allowed: true, Reason: ReasonGranted}
	}
}

func (r *compiledGrant) allowsHost(host hostname.Host) bool {
	if host.Name == "" {
		return false
	}
	if r.everyHost || r.exact[host.Name] {
		return true
	}
	for _, p := range r.wildcards {
		if p.Match(host) {
			return true
		}
	}
	return false
}
