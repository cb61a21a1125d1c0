// Package httpapi has the egress proxy's endpoints: contract.md, "Network grants", and what other services call.
package httpapi

import (
	"context"
	"fmt"
	"time"

	api "github.com/rumi-ai/rumi/api/egress"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/rpc/server"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/address"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/denials"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/grant"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/hostname"
)

// Routes adds the endpoints to mux. remove takes a removed pack's socket away.
func Routes(mux *server.Mux, grants *grant.Service, log *denials.Log, addresses *address.Policy, remove func(packID string)) {
	r := &routes{grants, log, addresses, remove}
	mux.Route("POST /api/network/grant", rpc.Handle(r.grant), "gateway")
	mux.Route("POST /api/network/revoke", rpc.Handle(r.revoke), "gateway")
	mux.Route("POST /api/network/check", rpc.Handle(r.check), "gateway")
	mux.Route("GET /api/network/list", rpc.Handle(r.list), "gateway")
	mux.Route("GET /api/network/denials", rpc.Handle(r.denials), "gateway")
	mux.Route("GET /api/network/proposal", rpc.Handle(r.proposal), "gateway")
	mux.Route("DELETE /internal/packs/{pack_id}", rpc.Handle(r.remove), "pack-registry")
}

type routes struct {
	grants    *grant.Service
	log       *denials.Log
	addresses *address.Policy
	gone      func(packID string)
}

type grantRequest struct {
	PackID         string     `json:"pack_id"`
	AllowedDomains []string   `json:"allowed_domains"`
	AllowedPorts   []int      `json:"allowed_ports"`
	GrantedBy      string     `json:"granted_by"`
	Notes          string     `json:"notes"`
	ExpiresAt      *time.Time `json:"expires_at"`

	Rules       []grant.Rule `json:"rules"`
	AllowTunnel bool         `json:"allow_tunnel"`

	LeftOut []leftOutView `json:"left_out"` // read and not used, so that a proposal can be posted as it is
}

type grantResponse struct {
	Success  bool        `json:"success"`
	PackID   string      `json:"pack_id"`
	Grant    grantView   `json:"grant"`
	Replaced *replacedBy `json:"replaced"` // null where nothing was granted that isn't any more
	Warnings []string    `json:"warnings"`
}

// replacedBy is what the grant before granted and this one doesn't.
type replacedBy struct {
	Removed removedView `json:"removed"`
}

type removedView struct {
	AllowedDomains []string     `json:"allowed_domains"`
	AllowedPorts   []int        `json:"allowed_ports"`
	Rules          []grant.Rule `json:"rules"`
	Tunnels        bool         `json:"tunnels"`
}

// grantView is a grant as operators see it.
type grantView struct {
	PackID         string     `json:"pack_id"`
	Enabled        bool       `json:"enabled"` // false once it has expired
	AllowedDomains []string   `json:"allowed_domains"`
	AllowedPorts   []int      `json:"allowed_ports"`
	GrantedAt      time.Time  `json:"granted_at"`
	UpdatedAt      time.Time  `json:"updated_at"`
	GrantedBy      string     `json:"granted_by"`
	Notes          string     `json:"notes"`
	ExpiresAt      *time.Time `json:"expires_at"` // null for never

	Rules       []grant.Rule `json:"rules"`
	AllowTunnel bool         `json:"allow_tunnel"` // says nothing where there are no rules
}

func view(g grant.Grant) grantView {
	v := grantView{
		PackID: g.PackID, Enabled: g.InForce(time.Now()), AllowedDomains: g.AllowedDomains, AllowedPorts: g.AllowedPorts,
		GrantedAt: g.GrantedAt, UpdatedAt: g.UpdatedAt, GrantedBy: g.GrantedBy, Notes: g.Notes,
		Rules: g.Rules, AllowTunnel: g.AllowTunnel,
	}
	if !g.ExpiresAt.IsZero() {
		v.ExpiresAt = &g.ExpiresAt
	}
	return v
}

func (r *routes) grant(ctx context.Context, req grantRequest) (grantResponse, error) {
	if err := checkID(req.PackID); err != nil {
		return grantResponse{}, err
	}
	wish := grant.Wish{
		AllowedDomains: req.AllowedDomains, AllowedPorts: req.AllowedPorts, GrantedBy: req.GrantedBy, Notes: req.Notes,
		Rules: req.Rules, AllowTunnel: req.AllowTunnel,
	}
	if req.ExpiresAt != nil {
		if req.ExpiresAt.IsZero() { // which means never where it is kept
			return grantResponse{}, fault.Invalid("expires_at must lie in the future").With("invalid_expires_at")
		}
		wish.ExpiresAt = req.ExpiresAt.UTC().Truncate(time.Microsecond)
	}
	g, err := r.grants.Grant(ctx, req.PackID, wish)
	if err != nil {
		return grantResponse{}, err
	}
	response := grantResponse{Success: true, PackID: req.PackID, Grant: view(g.Grant), Warnings: append([]string{}, g.Warnings(r.obstacle)...)}
	if g.Removed.Any() {
		response.Warnings = append(response.Warnings, g.Removed.Warning())
		response.Replaced = &replacedBy{removedView{
			AllowedDomains: append([]string{}, g.Removed.AllowedDomains...), AllowedPorts: append([]int{}, g.Removed.AllowedPorts...),
			Rules: append([]grant.Rule{}, g.Removed.Rules...), Tunnels: g.Removed.Tunnels,
		}}
	}
	return response, nil
}

type revokeRequest struct {
	PackID string `json:"pack_id"`
	Reason string `json:"reason"`
}

type revokeResponse struct {
	Success bool   `json:"success"`
	PackID  string `json:"pack_id"`
	Revoked bool   `json:"revoked"`
}

func (r *routes) revoke(ctx context.Context, req revokeRequest) (revokeResponse, error) {
	if err := checkID(req.PackID); err != nil {
		return revokeResponse{}, err
	}
	revoked, err := r.grants.Revoke(ctx, req.PackID, req.Reason)
	return revokeResponse{Success: true, PackID: req.PackID, Revoked: revoked}, err
}

type checkRequest struct {
	PackID string `json:"pack_id"`
	Domain string `json:"domain"`
	Port   *int   `json:"port"`
}

type checkResponse struct {
	Allowed bool   `json:"allowed"`
	Reason  string `json:"reason"`
	PackID  string `json:"pack_id"`
	Domain  string `json:"domain"`
	Port    int    `json:"port"`

	Warnings []string `json:"warnings,omitempty"` // why an allowed host is not reached nevertheless
}

func (r *routes) check(ctx context.Context, req checkRequest) (checkResponse, error) {
	if err := checkID(req.PackID); err != nil {
		return checkResponse{}, err
	}
	switch {
	case req.Domain == "":
		return checkResponse{}, fault.Missing("domain")
	case req.Port == nil:
		return checkResponse{}, fault.Missing("port")
	case *req.Port < 1 || *req.Port > 65535:
		return checkResponse{}, fault.Invalid("Invalid port: %d", *req.Port).With("invalid_port")
	}
	d, err := r.grants.Check(ctx, req.PackID, req.Domain, uint16(*req.Port))
	response := checkResponse{Allowed: d.Allowed, Reason: d.Reason, PackID: req.PackID, Domain: req.Domain, Port: *req.Port}
	if host, parseErr := hostname.Parse(req.Domain); parseErr == nil && d.Allowed {
		if why, _ := r.obstacle(host, uint16(*req.Port)); why != "" {
			response.Warnings = append(response.Warnings, fmt.Sprintf("%.300s is %s", req.Domain, why))
		}
	}
	return response, err
}

type listResponse struct {
	Grants        map[string]grantView `json:"grants"`
	GrantCount    int                  `json:"grant_count"`
	DisabledPacks []string             `json:"disabled_packs"`
	DisabledCount int                  `json:"disabled_count"`
}

func (r *routes) list(context.Context, struct{}) (listResponse, error) {
	grants, modified := r.grants.List()
	views := make(map[string]grantView, len(grants))
	for _, g := range grants {
		views[g.PackID] = view(g)
	}
	return listResponse{Grants: views, GrantCount: len(views), DisabledPacks: modified, DisabledCount: len(modified)}, nil
}

type removeRequest struct {
	PackID string `json:"-" path:"pack_id"`
}

func (r *routes) remove(ctx context.Context, req removeRequest) (api.RemoveResponse, error) {
	if err := checkID(req.PackID); err != nil {
		return api.RemoveResponse{}, err
	}
	revoked, err := r.grants.Remove(ctx, req.PackID)
	if err != nil {
		return api.RemoveResponse{}, err
	}
	r.gone(req.PackID)
	return api.RemoveResponse{Revoked: revoked}, r.log.Forget(ctx, req.PackID)
}

func checkID(packID string) error {
	if packID == "" {
		return fault.Missing("pack_id")
	}
	_, err := pack.ParseID(packID)
	return err
}
