package gateway

import (
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/policy"
	"github.com/rumi-ai/rumi/libs/route"
)

// The endpoints of the policy. See docs/policy.md.
var (
	GetPolicy = route.New[struct{}, Policy]("GET", "/api/policy", Service, route.Class{}, access.ReadPolicy,
		"Show the policy in force, and what it does not cover")
	CheckPolicy = route.New[CheckPolicyRequest, CheckPolicyResponse]("POST", "/api/policy/check", Service, route.Class{}, access.ReadPolicy,
		"Say what another policy would not cover").
		Fails("invalid_policy")
)

// Policy is the policy in force, as the services that enforce it have it.
type Policy struct {
	Policy     jsontext.Value      `json:"policy"`     // the document; null where none of them could be asked
	Digest     string              `json:"digest"`     // of the document: "sha256:<hex>"; "" where none could be asked
	Services   map[string]PolicyAt `json:"services"`   // by service; they differ for a moment only, when the policy changes
	Violations []policy.Finding    `json:"violations"` // at most 1000, sorted by pack
	Count      int                 `json:"count"`      // of all violations
	Errors     map[string]string   `json:"errors"`     // by service: why it could not be asked. Its violations are missing then
}

// PolicyAt is the policy that one service goes by.
type PolicyAt struct {
	Digest  string `json:"digest"`
	Problem string `json:"problem"` // why the operator's newest policy is not in force; "" where it is
}

// CheckPolicyRequest asks which of today's grants and containers a policy would forbid.
type CheckPolicyRequest struct {
	Policy jsontext.Value `json:"policy"` // a document as in docs/policy.md; absent or null for the one in force
}

// CheckPolicyResponse lists them. The check changes nothing.
type CheckPolicyResponse struct {
	Violations []policy.Finding  `json:"violations"` // at most 1000, sorted by pack
	Count      int               `json:"count"`      // of all violations
	Errors     map[string]string `json:"errors"`     // by service: why it could not be asked. Its violations are missing then
}
