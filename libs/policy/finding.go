package policy

// Finding is something that was granted, approved or started and that a policy doesn't cover, with one of the rules that it breaks.
type Finding struct {
	Service   string `json:"service"` // that owns it: "egress-proxy", …
	Kind      string `json:"kind"`    // network_grant, capability_grant, container or lock
	PackID    string `json:"pack_id"`
	Name      string `json:"name"`       // the permission of a capability grant, the candidate_key of a lock; "" for the others
	GrantedBy string `json:"granted_by"` // "" where it isn't known
	Role      string `json:"granted_role"`
	Suspended bool   `json:"suspended"` // it allows nothing under the policy. Otherwise it stays as it is: a container runs on, packages stay installed
	Violation
}

// The kinds of findings.
const (
	NetworkGrant    = "network_grant"
	CapabilityGrant = "capability_grant"
	Container       = "container"
	Lock            = "lock"
)

// Findings makes a finding like like of each violation.
func (v Violations) Findings(like Finding) []Finding {
	all := make([]Finding, len(v))
	for i, one := range v {
		all[i] = like
		all[i].Violation = one
	}
	return all
}
