package grant

import (
	"fmt"
	"time"

	"github.com/rumi-ai/rumi/libs/hostname"
)

// Decision is the answer to whether a pack may reach a host and port, with the reason in the words of docs/contract.md. ForRequest and
// ForTunnel narrow it by the grant's path rules.
type Decision struct {
	Allowed bool
	Reason  string
	ForPack string // what the pack reads in place of Reason; only where the policy denies, about which packs need not know

	noTunnels *Decision      // the denial of a tunnel by the policy; nil for none
	ruled     *compiledGrant // the grant, where it allows and has path rules; else nil
	host      hostname.Host
}

// The reasons of docs/contract.md that don't depend on what was asked, and the one for a store that can't be read.
const (
	ReasonModified = "Pack is disabled due to modification"
	ReasonNone     = "No network grant for this pack"
	ReasonDisabled = "Network grant is disabled"
	ReasonGranted  = "Access granted"
	ReasonUnknown  = "Network grants can't be read at the moment"
)

// compiledGrant is a grant made ready for decisions: texts parsed, lists as sets. A decision costs two look-ups, and one comparison
// for each wildcard.
type compiledGrant struct {
	grant     Grant
	everyHost bool
	exact     map[string]bool
	wildcards []hostname.Pattern
	everyPort bool
	ports     map[uint16]bool
	pathRules []compiledPathRule

	suspended *Decision // the denial by the policy; nil where the grant is within it. Set by judged, as is the next
	noTunnels *Decision // the denial of tunnels by the policy; nil for none
}

func compile(g Grant) (*compiledGrant, error) {
	c := &compiledGrant{grant: g, exact: make(map[string]bool), ports: make(map[uint16]bool)}
	for _, text := range g.AllowedDomains {
		p, err := hostname.ParsePattern(text)
		switch {
		case err != nil:
			return nil, fmt.Errorf("compile grant of %s: domain %q: %w", g.PackID, text, err)
		case p.Any():
			c.everyHost = true
		case p.Wildcard():
			c.wildcards = append(c.wildcards, p)
		default:
			c.exact[p.String()] = true
		}
	}
	for _, port := range g.AllowedPorts {
		if port == 0 {
			c.everyPort = true
			continue
		}
		c.ports[uint16(port)] = true
	}
	for i, text := range g.PathRules {
		n, err := compilePathRule(text)
		if err != nil {
			return nil, fmt.Errorf("compile grant of %s: rule %d: %w", g.PackID, i, err)
		}
		c.pathRules = append(c.pathRules, n)
	}
	return c, nil
}

// check decides. shown is how the host is named in the reason. The order of the cases is the contract's: the first that applies
// gives the reason.
func (c *compiledGrant) check(host hostname.Host, shown string, port uint16, now time.Time) Decision {
	switch {
	case !c.grant.InForce(now):
		return Decision{Reason: ReasonDisabled}
	case c.suspended != nil:
		return *c.suspended
	case !c.allowsHost(host):
		return Decision{Reason: "Domain '" + shown + "' not in allowed list"}
	case !c.everyPort && !c.ports[port]:
		return Decision{Reason: fmt.Sprintf("Port %d not in allowed list", port)}
	case len(c.pathRules) > 0:
		return Decision{Allowed: true, Reason: ReasonGranted, noTunnels: c.noTunnels, ruled: c, host: host}
	default:
		return Decision{Allowed: true, Reason: ReasonGranted, noTunnels: c.noTunnels}
	}
}

func (c *compiledGrant) allowsHost(host hostname.Host) bool {
	if host.Name == "" { // the zero Host, which even "*" doesn't cover
		return false
	}
	if c.everyHost || c.exact[host.Name] {
		return true
	}
	for _, p := range c.wildcards {
		if p.Match(host) {
			return true
		}
	}
	return false
}
