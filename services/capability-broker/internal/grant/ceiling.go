package grant

import (
	"context"
	"math"
	"time"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/policy"
	"github.com/rumi-ai/rumi/libs/sandbox"
)

// Violations are the rules of a policy that the grant breaks, also where it isn't in force.
func (g *Grant) Violations(p *policy.Policy) policy.Violations {
	asked := policy.Capability{Permission: g.PermissionID}
	for _, m := range g.Terms.Mounts {
		asked.Mounts = append(asked.Mounts, policy.Mount{Path: m.Source, ReadOnly: !m.Writable()})
	}
	if l := g.Terms.Limits; l != nil && l.MemoryMB != nil {
		asked.Memory = min(*l.MemoryMB, math.MaxInt64>>20) << 20
	}
	return p.Capability(g.Role, asked)
}

// Suspended is the first rule of the policy that the grant breaks: it allows nothing while that is so. nil for none.
func (g *Grant) Suspended() *policy.Violation { return g.suspended }

// judge sets what the policy says of the grant. It is computed once for each policy, so that a call costs nothing more.
func (g *Grant) judge(p *policy.Policy) {
	g.suspended, g.suspendedReason, g.unasked = g.Violations(p).First(), Allowed, nil
	if v := g.suspended; v != nil {
		g.suspendedReason = Suspended + Reason(": "+v.Rule+": "+v.Reason)
	}
	if most := p.MaxMemory(g.Role); most > 0 && most < sandbox.DefaultLimits.Memory {
		g.unasked = &Limits{MemoryMB: new(most >> 20)}
	}
}

// refuse writes the audit entry of a grant that the policy forbids, and returns the fault that answers the request for it.
func (c *Cache) refuse(ctx context.Context, g *Grant, broken policy.Violations) error {
	refusal := broken.Err()
	e := entry("policy_refused", g, map[string]any{"rules": broken.Rules()})
	e.Category, e.Severity, e.Success, e.RejectionReason = audit.Security, audit.Warning, false, refusal.Error()
	if err := c.Audit.Write(ctx, e); err != nil {
		return err
	}
	return refusal
}

// Findings are the grants that a policy doesn't cover, without those that are revoked or have expired.
func (c *Cache) Findings(p *policy.Policy) (all []policy.Finding) {
	now := time.Now()
	c.Each(func(g *Grant) {
		if g.Enabled && !g.expired(now) {
			all = append(all, g.Violations(p).Findings(policy.Finding{
				Kind: policy.CapabilityGrant, PackID: g.PrincipalID, Name: g.PermissionID, GrantedBy: g.GrantedBy, Role: string(g.Role), Suspended: true,
			})...)
		}
	})
	return all
}
