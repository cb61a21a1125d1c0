// Package httpapi answers the endpoints of api/egress: it checks requests, calls the grants and the log of refusals, and turns what
// they find into answers.
package httpapi

import (
	"context"
	"fmt"
	"time"

	api "github.com/rumi-ai/rumi/api/egress"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/hostname"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/policy"
	"github.com/rumi-ai/rumi/libs/policy/policycheck"
	"github.com/rumi-ai/rumi/libs/route"
	"github.com/rumi-ai/rumi/libs/rpc/server"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/address"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/denials"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/grant"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/issuer"
)

// Parts are what the endpoints are answered with.
type Parts struct {
	Grants    *grant.Service
	Denials   *denials.Log
	Addresses *address.Policy
	Ceiling   *policy.Reader
	Remove    func(packID string) // removes the socket of a removed pack
	Issuer    *issuer.Fetcher     // nil where nobody signs in
}

// Serve answers the endpoints on mux.
func Serve(mux *server.Mux, p Parts) error {
	r, h := &routes{p.Grants, p.Denials, p.Addresses, p.Ceiling, p.Remove, p.Issuer}, route.NewHandlers(api.Routes)
	route.Handle(h, api.PostGrant, r.grant)
	route.Handle(h, api.Revoke, r.revoke)
	route.Handle(h, api.Check, r.check)
	route.Handle(h, api.List, r.list)
	route.Handle(h, api.ListDenials, r.denials)
	route.Handle(h, api.Propose, r.proposal)
	route.Handle(h, api.Remove, r.remove)
	route.Handle(h, api.FetchKeys, r.fetchKeys)
	policycheck.Handle(h, api.CheckPolicy, p.Ceiling, p.Grants.Findings)
	return h.Mount(mux)
}

type routes struct {
	grants    *grant.Service
	log       *denials.Log
	addresses *address.Policy
	ceiling   policy.Source
	forget    func(packID string)
	issuer    *issuer.Fetcher
}

func view(g grant.Grant) api.Grant {
	v := api.Grant{
		PackID: g.PackID, Enabled: g.InForce(time.Now()) && g.Suspended == nil, AllowedDomains: g.AllowedDomains, AllowedPorts: g.AllowedPorts,
		GrantedAt: g.GrantedAt, UpdatedAt: g.UpdatedAt, GrantedBy: g.GrantedBy, Notes: g.Notes,
		Rules: wireRules(g.PathRules), AllowTunnel: g.AllowTunnel,
		GrantedRole: string(g.Role),
	}
	if g.Enabled {
		v.Suspended = g.Suspended
	}
	if !g.ExpiresAt.IsZero() {
		v.ExpiresAt = &g.ExpiresAt
	}
	return v
}

func (r *routes) grant(ctx context.Context, req api.GrantRequest) (api.GrantResponse, error) {
	if err := checkID(req.PackID); err != nil {
		return api.GrantResponse{}, err
	}
	request := grant.Request{
		AllowedDomains: req.AllowedDomains, AllowedPorts: req.AllowedPorts, GrantedByNote: req.GrantedBy, Notes: req.Notes,
		PathRules: domainRules(req.Rules), AllowTunnel: req.AllowTunnel,
	}
	if req.ExpiresAt != nil {
		if req.ExpiresAt.IsZero() { // which means never where it is kept
			return api.GrantResponse{}, fault.ExpiresTooEarly()
		}
		request.ExpiresAt = req.ExpiresAt.UTC().Truncate(time.Microsecond)
	}
	g, err := r.grants.Grant(ctx, req.PackID, request)
	if err != nil {
		return api.GrantResponse{}, err
	}
	response := api.GrantResponse{Success: true, PackID: req.PackID, Grant: view(g.Grant), Warnings: append([]string{}, g.Warnings(r.obstacle)...)}
	if g.Removed.Any() {
		response.Warnings = append(response.Warnings, g.Removed.Warning())
		response.Replaced = &api.Replaced{Removed: api.Removed{
			AllowedDomains: append([]string{}, g.Removed.AllowedDomains...), AllowedPorts: append([]int{}, g.Removed.AllowedPorts...),
			Rules: wireRules(g.Removed.PathRules), Tunnels: g.Removed.Tunnels,
		}}
	}
	return response, nil
}

func (r *routes) revoke(ctx context.Context, req api.RevokeRequest) (api.RevokeResponse, error) {
	if err := checkID(req.PackID); err != nil {
		return api.RevokeResponse{}, err
	}
	revoked, err := r.grants.Revoke(ctx, req.PackID, req.Reason)
	return api.RevokeResponse{Success: true, PackID: req.PackID, Revoked: revoked}, err
}

func (r *routes) check(ctx context.Context, req api.CheckRequest) (api.CheckResponse, error) {
	if err := checkID(req.PackID); err != nil {
		return api.CheckResponse{}, err
	}
	switch {
	case req.Domain == "":
		return api.CheckResponse{}, fault.Missing("domain")
	case req.Port == nil:
		return api.CheckResponse{}, fault.Missing("port")
	case *req.Port < 1 || *req.Port > 65535:
		return api.CheckResponse{}, fault.Invalid("Invalid port: %d", *req.Port).With("invalid_port")
	}
	d, err := r.grants.Check(ctx, req.PackID, req.Domain, uint16(*req.Port))
	response := api.CheckResponse{Allowed: d.Allowed, Reason: d.Reason, PackID: req.PackID, Domain: req.Domain, Port: *req.Port}
	if host, parseErr := hostname.Parse(req.Domain); parseErr == nil && d.Allowed {
		if why, _ := r.obstacle(host, uint16(*req.Port)); why != "" {
			response.Warnings = append(response.Warnings, fmt.Sprintf("%.300s is %s", req.Domain, why))
		}
	}
	return response, err
}

func (r *routes) list(context.Context, struct{}) (api.ListResponse, error) {
	grants, modified := r.grants.List()
	views := make(map[string]api.Grant, len(grants))
	for _, g := range grants {
		views[g.PackID] = view(g)
	}
	return api.ListResponse{Grants: views, GrantCount: len(views), DisabledPacks: modified, DisabledCount: len(modified)}, nil
}

func (r *routes) remove(ctx context.Context, req api.PackRequest) (api.RemoveResponse, error) {
	if err := checkID(req.PackID); err != nil {
		return api.RemoveResponse{}, err
	}
	revoked, err := r.grants.Remove(ctx, req.PackID)
	if err != nil {
		return api.RemoveResponse{}, err
	}
	r.forget(req.PackID)
	return api.RemoveResponse{Revoked: revoked}, r.log.Forget(ctx, req.PackID)
}

func (r *routes) fetchKeys(ctx context.Context, _ struct{}) (api.IssuerKeys, error) {
	if r.issuer == nil {
		return api.IssuerKeys{}, fault.Unavailable("RUMI_OIDC_ISSUER is not set for egress-proxy").With("oidc_unavailable")
	}
	keys, err := r.issuer.Keys(ctx)
	if err != nil {
		return api.IssuerKeys{}, fault.Unavailable("The issuer's keys can't be fetched: %.500s", err).With("oidc_unavailable")
	}
	return api.IssuerKeys{Issuer: r.issuer.Name(), Keys: keys}, nil
}

func checkID(packID string) error {
	if packID == "" {
		return fault.Missing("pack_id")
	}
	_, err := pack.ParseID(packID)
	return err
}

// wireRules are rules as answers have them.
func wireRules(rules []grant.PathRule) []api.Rule {
	return converted(rules, func(r grant.PathRule) api.Rule { return api.Rule(r) })
}

// domainRules are rules as requests bring them; whether they can be is the grant's to say.
func domainRules(rules []api.Rule) []grant.PathRule {
	return converted(rules, func(r api.Rule) grant.PathRule { return grant.PathRule(r) })
}

// converted is nil where list is.
func converted[A, B any](list []A, convert func(A) B) []B {
	if list == nil {
		return nil
	}
	all := make([]B, len(list))
	for i, one := range list {
		all[i] = convert(one)
	}
	return all
}
