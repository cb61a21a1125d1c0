package grant

import (
	"context"
	"time"

	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/policy"
)

// PolicyDenied is the blocked_reason of what the policy denies; no grant allows it.
const PolicyDenied = "policy_denied"

// What a pack reads of a denial by the policy: no more than if its operator had granted less.
const (
	forPackSuspended = ReasonDisabled
	forPackTunnel    = "Grant does not allow tunnels"
)

// asked is the grant as the policy judges it. A grant without path rules doesn't name tunnels, though it allows them: the policy refuses its
// tunnels (NoTunnels), not the grant.
func asked(domains []string, ports []int, rules []PathRule, tunnels bool) policy.Network {
	return policy.Network{Domains: domains, Ports: ports, Tunnels: len(rules) > 0 && tunnels}
}

// violations are the rules that the request would break if someone of that role granted it.
func (r Request) violations(p *policy.Policy, role access.Role) policy.Violations {
	return p.Network(role, asked(r.AllowedDomains, r.AllowedPorts, r.PathRules, r.AllowTunnel))
}

// Violations are the rules of a policy that the grant breaks, also where it isn't in force.
func (g *Grant) Violations(p *policy.Policy) policy.Violations {
	return p.Network(g.Role, asked(g.AllowedDomains, g.AllowedPorts, g.PathRules, g.AllowTunnel))
}

// judge sets what the policy says of the grant. One that is partly over the ceiling is suspended as a whole: if only some of its domains were
// taken away, the record would show what the pack doesn't have.
func (g *Grant) judge(p *policy.Policy) {
	g.Suspended, g.NoTunnels = g.Violations(p).First(), p.Tunnels(g.Role)
}

// judged is the compiled grant under another policy. The lists, which don't change, are shared.
func (c *compiledGrant) judged(p *policy.Policy) *compiledGrant {
	next := *c
	next.grant.judge(p)
	next.suspended, next.noTunnels = nil, nil
	if v := next.grant.Suspended; v != nil {
		next.suspended = &Decision{Reason: "Network grant is suspended by the policy: " + v.Rule + ": " + v.Reason, ForPack: forPackSuspended}
	}
	if v := next.grant.NoTunnels; v != nil {
		next.noTunnels = &Decision{Reason: "Tunnels are not allowed by the policy: " + v.Rule, ForPack: forPackTunnel}
	}
	return &next
}

// narrowedByPolicy says whether the policy allows less of g than it did of old, which was in force.
func (g *Grant) narrowedByPolicy(old *Grant) bool {
	return g.Suspended != nil || g.NoTunnels != nil && old.NoTunnels == nil && old.tunnels()
}

// refuse writes the audit entry of a grant that the policy forbids, and returns the fault that answers the request for it.
func (s *Service) refuse(ctx context.Context, packID string, r Request, broken policy.Violations) error {
	refusal := broken.Err()
	err := s.audit.Write(ctx, audit.Entry{
		Category: audit.Security, Severity: audit.Warning, Action: "policy_refused", OwnerPack: packID, RejectionReason: refusal.Error(),
		Details: map[string]any{"permission_type": "network", "rules": broken.Rules(), "allowed_domains": r.AllowedDomains, "allowed_ports": r.AllowedPorts},
	})
	if err != nil {
		return err
	}
	return refusal
}

// Findings are the grants in force that a policy doesn't cover.
func (s *Service) Findings(_ context.Context, p *policy.Policy) (all []policy.Finding, err error) {
	now := time.Now()
	for _, g := range s.cache.List() {
		if g.InForce(now) {
			all = append(all, g.Violations(p).Findings(policy.Finding{
				Kind: policy.NetworkGrant, PackID: g.PackID, GrantedBy: g.GrantedBy, Role: string(g.Role), Suspended: true,
			})...)
		}
	}
	return all, nil
}
