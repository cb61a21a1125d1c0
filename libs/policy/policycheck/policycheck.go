// Package policycheck is how the gateway asks the owners of grants what a policy doesn't cover of what there is: for GET /api/policy by the
// policy in force, for POST /api/policy/check by one that an operator wants to put in force. Nothing is changed by the question.
package policycheck

import (
	"cmp"
	"context"
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/policy"
	"github.com/rumi-ai/rumi/libs/roster"
	"github.com/rumi-ai/rumi/libs/route"
	"github.com/rumi-ai/rumi/libs/rpc/client"
)

// MaxFindings bounds the findings of one report.
const MaxFindings = 1000

// Owners are the services that enforce the policy, sorted.
func Owners() []string {
	return []string{roster.CapabilityBroker, roster.EgressProxy, roster.PipInstaller}
}

// Request asks for a report.
type Request struct {
	Policy jsontext.Value `json:"policy"` // the document to check by; absent or null for the one in force
}

// Report is an owner's answer.
type Report struct {
	Policy   jsontext.Value   `json:"policy"`   // the document in force at the owner, whatever was asked
	Digest   string           `json:"digest"`   // of that document
	Problem  string           `json:"problem"`  // why the operator's newest policy is not in force; "" where it is
	Findings []policy.Finding `json:"findings"` // under the policy that was asked about, sorted by pack, kind and name; at most MaxFindings
	Omitted  int              `json:"omitted"`  // findings beyond that
}

// Endpoint is the endpoint of an owner, for the gateway only.
func Endpoint(owner string) route.Endpoint[Request, Report] {
	return route.Internal[Request, Report]("POST", "/internal/policy/check", owner, roster.Gateway)
}

// Ask gets the report of the owner that peer calls. The owner isn't needed: all of them answer at the same path.
func Ask(ctx context.Context, peer *client.Peer, req Request) (Report, error) {
	return route.Call(ctx, peer, Endpoint(""), req)
}

// Parse reads the policy of a request; nil for the one in force. The error is an invalid fault, with line and column.
func (r Request) Parse() (*policy.Policy, error) {
	if len(r.Policy) == 0 || r.Policy.Kind() == 'n' {
		return nil, nil
	}
	p, err := policy.Parse(r.Policy)
	if err != nil {
		return nil, fault.Invalid("Invalid policy: %v", err).With("invalid_policy")
	}
	return p, nil
}

// Find finds what a policy doesn't cover of what the owner has.
type Find func(ctx context.Context, p *policy.Policy) ([]policy.Finding, error)

// Handle answers e with the findings of find.
func Handle(h *route.Handlers, e route.Endpoint[Request, Report], reader *policy.Reader, find Find) {
	route.Handle(h, e, func(ctx context.Context, req Request) (Report, error) {
		asked, err := req.Parse()
		if err != nil {
			return Report{}, err
		}
		current := reader.Current()
		report := Report{Policy: current.Document(), Digest: current.Digest()}
		if err := reader.Ready(); err != nil {
			report.Problem = err.Error()
		}
		report.Findings, err = find(ctx, cmp.Or(asked, current))
		for i := range report.Findings {
			report.Findings[i].Service = e.Route().Owner
		}
		report.Findings, report.Omitted = Bound(report.Findings)
		return report, err
	})
}

// Bound sorts findings by pack, kind, name and rule, and keeps the first MaxFindings. The result isn't nil.
func Bound(all []policy.Finding) (kept []policy.Finding, omitted int) {
	slices.SortStableFunc(all, func(a, b policy.Finding) int {
		return cmp.Or(cmp.Compare(a.PackID, b.PackID), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	if len(all) > MaxFindings {
		return all[:MaxFindings], len(all) - MaxFindings
	}
	return append([]policy.Finding{}, all...), 0
}
