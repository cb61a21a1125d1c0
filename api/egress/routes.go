// Package egress declares the endpoints of the egress proxy: operators grant packs the network and read what was refused; pack-registry
// has a pack forgotten. See contract.md, "Network grants", and docs/api.md, "Network".
package egress

import (
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/policy"
	"github.com/rumi-ai/rumi/libs/policy/policycheck"
	"github.com/rumi-ai/rumi/libs/roster"
	"github.com/rumi-ai/rumi/libs/route"
)

// Service is the egress proxy's name.
const Service = roster.EgressProxy

// The endpoints.
var (
	PostGrant = route.New[GrantRequest, GrantResponse]("POST", "/api/network/grant", Service, route.Quick, access.GrantNetwork,
		"Grant domains and ports to a pack").
		Fails("grant_empty", "invalid_domain", "invalid_expires_at", "invalid_method", "invalid_pack_id", "invalid_path", "invalid_port",
			"invalid_rule", "missing_pack_id", "pack_not_found", "policy_violation", "too_many_entries", "uninstall_incomplete", "value_too_long")
	Revoke = route.New[RevokeRequest, RevokeResponse]("POST", "/api/network/revoke", Service, route.Quick, access.RevokeNetwork,
		"Revoke a pack's network grant").
		Fails("invalid_pack_id", "missing_pack_id", "pack_not_found", "value_too_long")
	Check = route.New[CheckRequest, CheckResponse]("POST", "/api/network/check", Service, route.Quick, access.ReadNetwork,
		"Say whether a pack may reach a domain and port").
		Fails("invalid_pack_id", "invalid_port", "missing_domain", "missing_pack_id", "missing_port")
	List = route.New[struct{}, ListResponse]("GET", "/api/network/list", Service, route.Quick, access.ReadNetwork,
		"List the network grants")
	ListDenials = route.New[DenialsRequest, DenialsResponse]("GET", "/api/network/denials", Service, route.Quick, access.ReadNetwork,
		"List what packs were refused").
		Fails("invalid_pack_id")
	Propose = route.New[ProposalRequest, Proposal]("GET", "/api/network/proposal", Service, route.Quick, access.ReadNetwork,
		"Propose the least grant that covers what a pack was refused").
		Fails("invalid_pack_id", "invalid_since", "missing_pack_id", "pack_not_found")

	Remove = route.Internal[PackRequest, RemoveResponse]("DELETE", "/internal/packs/{pack_id}", Service, roster.PackRegistry)

	// FetchKeys fetches the keys of the issuer of sign-ins that egress-proxy has in its settings. It takes no URL, so that the gateway
	// reaches nothing else by it.
	FetchKeys = route.Internal[struct{}, IssuerKeys]("GET", "/internal/issuer/keys", Service, roster.Gateway)

	CheckPolicy = policycheck.Endpoint(Service)

	// Routes are all of them.
	Routes = route.NewTable(PostGrant, Revoke, Check, List, ListDenials, Propose, Remove, FetchKeys, CheckPolicy).
		Fail("invalid_text", "no_space", "store_unavailable")
)

// Rule narrows a grant: a request must be covered by one of the grant's rules. A list that is empty covers everything; one of the
// three isn't.
type Rule struct {
	Domains      []string `json:"domains"`       // as in Grant.AllowedDomains
	Methods      []string `json:"methods"`       // of HTTP, but for CONNECT and TRACE
	PathPrefixes []string `json:"path_prefixes"` // of whole segments: "/v1" covers "/v1" and "/v1/x", not "/v10"
}

// GrantRequest grants a pack the network. It replaces the pack's grant.
type GrantRequest struct {
	PackID         string     `json:"pack_id" api:"required"`
	AllowedDomains []string   `json:"allowed_domains"` // "api.example.com", "*.example.com", "*", addresses
	AllowedPorts   []int      `json:"allowed_ports"`   // 0 for all
	GrantedBy      string     `json:"granted_by"`      // a note for the audit log; the grant is the caller's, whoever this names
	Notes          string     `json:"notes"`
	ExpiresAt      *time.Time `json:"expires_at"` // in the future; null for never

	Rules       []Rule `json:"rules"`        // at most 100
	AllowTunnel bool   `json:"allow_tunnel"` // of a grant with rules: tunnels, whose requests the proxy can't read

	LeftOut []LeftOut `json:"left_out"` // read and not used, so that a proposal can be posted as it is
}

// GrantResponse is the grant, and what is worth knowing of it.
type GrantResponse struct {
	Success  bool      `json:"success"`
	PackID   string    `json:"pack_id"`
	Grant    Grant     `json:"grant"`
	Replaced *Replaced `json:"replaced"` // null where nothing was granted that isn't any more
	Warnings []string  `json:"warnings"` // in what the grant comes to something else than its lists may promise
}

// Replaced is the grant before.
type Replaced struct {
	Removed Removed `json:"removed"`
}

// Removed lists the destinations that the replaced grant allowed and the new one doesn't.
type Removed struct {
	AllowedDomains []string `json:"allowed_domains"`
	AllowedPorts   []int    `json:"allowed_ports"`
	Rules          []Rule   `json:"rules"`
	Tunnels        bool     `json:"tunnels"`
}

// Grant is a grant as operators see it.
type Grant struct {
	PackID         string     `json:"pack_id"`
	Enabled        bool       `json:"enabled"` // false once it has expired, and while it is suspended
	AllowedDomains []string   `json:"allowed_domains"`
	AllowedPorts   []int      `json:"allowed_ports"`
	GrantedAt      time.Time  `json:"granted_at"`
	UpdatedAt      time.Time  `json:"updated_at"`
	GrantedBy      string     `json:"granted_by"`
	Notes          string     `json:"notes"`
	ExpiresAt      *time.Time `json:"expires_at"` // null for never

	Rules       []Rule `json:"rules"`
	AllowTunnel bool   `json:"allow_tunnel"` // says nothing where there are no rules

	GrantedRole string            `json:"granted_role"` // of the person who granted it; "" for a grant from before there were roles
	Suspended   *policy.Violation `json:"suspended"`    // the rule of the policy that it breaks; null where it breaks none
}

// RevokeRequest takes a pack's grant back.
type RevokeRequest struct {
	PackID string `json:"pack_id" api:"required"`
	Reason string `json:"reason"`
}

// RevokeResponse says whether there was one.
type RevokeResponse struct {
	Success bool   `json:"success"`
	PackID  string `json:"pack_id"`
	Revoked bool   `json:"revoked"`
}

// CheckRequest asks whether a pack may reach a destination.
type CheckRequest struct {
	PackID string `json:"pack_id" api:"required"`
	Domain string `json:"domain" api:"required"`
	Port   *int   `json:"port" api:"required,min=1,max=65535"` // 1 to 65535; it can't be left out
}

// CheckResponse says so.
type CheckResponse struct {
	Allowed bool   `json:"allowed"`
	Reason  string `json:"reason"`
	PackID  string `json:"pack_id"`
	Domain  string `json:"domain"`
	Port    int    `json:"port"`

	Warnings []string `json:"warnings,omitempty"` // why an allowed host is not reached nevertheless
}

// ListResponse has all grants by pack.
type ListResponse struct {
	Grants        map[string]Grant `json:"grants"`
	GrantCount    int              `json:"grant_count"`
	DisabledPacks []string         `json:"disabled_packs"` // those whose network is off because they are modified
	DisabledCount int              `json:"disabled_count"`
}

// DenialsRequest asks what was refused.
type DenialsRequest struct {
	PackID string `json:"-" query:"pack_id"` // "" for all packs
}

// DenialsResponse has at most 500 denials of each pack.
type DenialsResponse struct {
	Denials []Denial `json:"denials"` // the most recent first
	Count   int      `json:"count"`
}

// Denial is a destination that a pack was refused, with the number of times.
type Denial struct {
	PackID    string    `json:"pack_id"`
	Host      string    `json:"host"`
	Port      int       `json:"port"`
	Method    string    `json:"method"`         // CONNECT for a tunnel
	Path      string    `json:"path,omitempty"` // only of a request that the grant's path rules refused
	Reason    string    `json:"reason"`         // the audit log's blocked_reason
	Count     int64     `json:"count"`          // of requests
	FirstSeen time.Time `json:"first_seen"`
	LastSeen  time.Time `json:"last_seen"`
}

// ProposalRequest asks for the smallest grant that keeps what is granted and would have allowed what was refused.
type ProposalRequest struct {
	PackID string `json:"-" query:"pack_id" api:"required"`
	Since  string `json:"-" query:"since"` // RFC 3339; "" for all that is remembered
}

// Proposal is a GrantRequest, so that it can be posted as it is.
type Proposal struct {
	PackID         string     `json:"pack_id"`
	AllowedDomains []string   `json:"allowed_domains"`
	AllowedPorts   []int      `json:"allowed_ports"`
	Notes          string     `json:"notes,omitempty"`
	ExpiresAt      *time.Time `json:"expires_at,omitempty"`
	Rules          []Rule     `json:"rules,omitempty"`
	AllowTunnel    bool       `json:"allow_tunnel,omitzero"`

	LeftOut []LeftOut `json:"left_out,omitempty"` // refusals that no grant prevents
}

// LeftOut is a refusal that no grant prevents.
type LeftOut struct {
	Host    string `json:"host"`
	Port    int    `json:"port"`
	Method  string `json:"method"`
	Path    string `json:"path,omitempty"`
	Why     string `json:"why"`
	Setting string `json:"setting,omitempty"` // to set where its being left out is not what is wanted
}

// PackRequest names a pack.
type PackRequest struct {
	PackID string `json:"-" path:"pack_id"`
}

// RemoveResponse says what Remove found.
type RemoveResponse struct {
	Revoked bool `json:"revoked"` // there was a grant in force
}

// IssuerKeys are the keys that an OpenID Connect issuer publishes.
type IssuerKeys struct {
	Issuer string         `json:"issuer"` // RUMI_OIDC_ISSUER of egress-proxy
	Keys   jsontext.Value `json:"keys"`   // a JWK set as it came, at most 1 MiB
}
