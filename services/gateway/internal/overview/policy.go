package overview

import (
	"context"
	"sync"

	api "github.com/rumi-ai/rumi/api/gateway"
	"github.com/rumi-ai/rumi/libs/policy"
	"github.com/rumi-ai/rumi/libs/policy/policycheck"
)

// reports are what the owners answer.
type reports struct {
	mu       sync.Mutex
	findings []policy.Finding
	omitted  int
	byOwner  map[string]policycheck.Report
}

// askPolicy asks all services that enforce the policy.
func (v *Views) askPolicy(ctx context.Context, req policycheck.Request) (all *reports, errors map[string]string) {
	all = &reports{byOwner: make(map[string]policycheck.Report)}
	s := newSections(ctx)
	for _, owner := range policycheck.Owners() {
		s.add(owner, func(ctx context.Context) error {
			report, err := policycheck.Ask(ctx, v.Peer(owner), req)
			if err != nil {
				return err
			}
			all.mu.Lock()
			defer all.mu.Unlock()
			all.byOwner[owner] = report
			all.findings = append(all.findings, report.Findings...)
			all.omitted += report.Omitted
			return nil
		})
	}
	errors = s.wait()
	found, omitted := policycheck.Bound(all.findings)
	all.findings, all.omitted = found, all.omitted+omitted
	return all, errors
}

// Policy is the policy in force, as the services that enforce it have it, and what it doesn't cover.
func (v *Views) Policy(ctx context.Context) api.Policy {
	all, errors := v.askPolicy(ctx, policycheck.Request{})
	answer := api.Policy{
		Policy: nil, Services: make(map[string]api.PolicyAt), Violations: all.findings, Count: len(all.findings) + all.omitted, Errors: errors,
	}
	for _, owner := range policycheck.Owners() {
		report, ok := all.byOwner[owner]
		if !ok {
			continue
		}
		if answer.Policy == nil {
			answer.Policy, answer.Digest = report.Policy, report.Digest
		}
		answer.Services[owner] = api.PolicyAt{Digest: report.Digest, Problem: report.Problem}
	}
	return answer
}

// CheckPolicy is what another policy, or the one in force, doesn't cover. A document that can't be read is an invalid fault.
func (v *Views) CheckPolicy(ctx context.Context, req api.CheckPolicyRequest) (api.CheckPolicyResponse, error) {
	asked := policycheck.Request{Policy: req.Policy}
	if _, err := asked.Parse(); err != nil {
		return api.CheckPolicyResponse{}, err
	}
	all, errors := v.askPolicy(ctx, asked)
	return api.CheckPolicyResponse{Violations: all.findings, Count: len(all.findings) + all.omitted, Errors: errors}, nil
}
