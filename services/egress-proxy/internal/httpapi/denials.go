package httpapi

import (
	"context"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/grant"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/hostname"
)

type denialsRequest struct {
	PackID string `json:"-" query:"pack_id"` // "" for all packs
}

type denialsResponse struct {
	Denials []denialView `json:"denials"` // the most recent first
	Count   int          `json:"count"`
}

type denialView struct {
	PackID    string    `json:"pack_id"`
	Host      string    `json:"host"`
	Port      int       `json:"port"`
	Method    string    `json:"method"`
	Path      string    `json:"path,omitempty"` // of what a grant's rules refused
	Reason    string    `json:"reason"`
	Count     int64     `json:"count"`
	FirstSeen time.Time `json:"first_seen"`
	LastSeen  time.Time `json:"last_seen"`
}

func (r *routes) denials(ctx context.Context, req denialsRequest) (denialsResponse, error) {
	if req.PackID != "" {
		if _, err := pack.ParseID(req.PackID); err != nil {
			return denialsResponse{}, err
		}
	}
	list, err := r.log.List(ctx, req.PackID)
	if err != nil {
		return denialsResponse{}, err
	}
	views := make([]denialView, 0, len(list))
	for _, d := range list {
		views = append(views, denialView{
			PackID: d.PackID, Host: d.Host, Port: int(d.Port), Method: d.Method, Path: d.Path, Reason: d.Reason,
			Count: d.Count, FirstSeen: d.FirstSeen, LastSeen: d.LastSeen,
		})
	}
	return denialsResponse{Denials: views, Count: len(views)}, nil
}

type proposalRequest struct {
	PackID string `json:"-" query:"pack_id"`
	Since  string `json:"-" query:"since"` // RFC 3339; "" for all that is remembered
}

// proposalResponse is a grantRequest, so that it can be posted as it is.
type proposalResponse struct {
	PackID         string       `json:"pack_id"`
	AllowedDomains []string     `json:"allowed_domains"`
	AllowedPorts   []int        `json:"allowed_ports"`
	Notes          string       `json:"notes,omitempty"`
	ExpiresAt      *time.Time   `json:"expires_at,omitempty"`
	Rules          []grant.Rule `json:"rules,omitempty"`
	AllowTunnel    bool         `json:"allow_tunnel,omitzero"`

	LeftOut []leftOutView `json:"left_out,omitempty"` // refusals that no grant prevents
}

type leftOutView struct {
	Host    string `json:"host"`
	Port    int    `json:"port"`
	Method  string `json:"method"`
	Path    string `json:"path,omitempty"`
	Why     string `json:"why"`
	Setting string `json:"setting,omitempty"` // to set where its being left out is not what is wanted
}

func (r *routes) proposal(ctx context.Context, req proposalRequest) (proposalResponse, error) {
	if err := checkID(req.PackID); err != nil {
		return proposalResponse{}, err
	}
	var since time.Time
	if req.Since != "" {
		var err error
		if since, err = time.Parse(time.RFC3339, req.Since); err != nil {
			return proposalResponse{}, fault.Invalid("Invalid since: %.50q (want a time such as 2026-01-02T03:04:05Z)", req.Since).With("invalid_since")
		}
	}
	refused, err := r.log.Refusals(ctx, req.PackID, since)
	if err != nil {
		return proposalResponse{}, err
	}
	w, leftOut, err := r.grants.Propose(ctx, req.PackID, refused, r.obstacle)
	if err != nil {
		return proposalResponse{}, err
	}
	proposal := proposalResponse{
		PackID: req.PackID, AllowedDomains: w.AllowedDomains, AllowedPorts: w.AllowedPorts, Notes: w.Notes,
		Rules: w.Rules, AllowTunnel: w.AllowTunnel,
	}
	if !w.ExpiresAt.IsZero() {
		proposal.ExpiresAt = &w.ExpiresAt
	}
	for _, l := range leftOut {
		proposal.LeftOut = append(proposal.LeftOut, leftOutView{l.Host, int(l.Port), l.Method, l.Path, l.Why, l.Setting})
	}
	return proposal, nil
}

// obstacle says why no grant lets a pack reach a host.
func (r *routes) obstacle(host hostname.Host, port uint16) (why, setting string) {
	return r.addresses.Obstacle(host.Name, host.Addr, port)
}
