package httpapi

import (
	"context"
	"time"

	api "github.com/rumi-ai/rumi/api/egress"
	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/hostname"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/policy"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/grant"
)

func (r *routes) denials(ctx context.Context, req api.DenialsRequest) (api.DenialsResponse, error) {
	if req.PackID != "" {
		if _, err := pack.ParseID(req.PackID); err != nil {
			return api.DenialsResponse{}, err
		}
	}
	list, err := r.log.List(ctx, req.PackID)
	if err != nil {
		return api.DenialsResponse{}, err
	}
	views := make([]api.Denial, 0, len(list))
	for _, d := range list {
		views = append(views, api.Denial{
			PackID: d.PackID, Host: d.Host, Port: int(d.Port), Method: d.Method, Path: d.Path, Reason: d.Reason,
			Count: d.Count, FirstSeen: d.FirstSeen, LastSeen: d.LastSeen,
		})
	}
	return api.DenialsResponse{Denials: views, Count: len(views)}, nil
}

func (r *routes) proposal(ctx context.Context, req api.ProposalRequest) (api.Proposal, error) {
	if err := checkID(req.PackID); err != nil {
		return api.Proposal{}, err
	}
	var since time.Time
	if req.Since != "" {
		var err error
		if since, err = time.Parse(time.RFC3339, req.Since); err != nil {
			return api.Proposal{}, fault.Invalid("Invalid since: %.50q (want a time such as 2026-01-02T03:04:05Z)", req.Since).With("invalid_since")
		}
	}
	refused, err := r.log.Refusals(ctx, req.PackID, since)
	if err != nil {
		return api.Proposal{}, err
	}
	w, leftOut, err := r.grants.Propose(ctx, req.PackID, refused, r.obstacleFor(origin.Of(ctx).Role))
	if err != nil {
		return api.Proposal{}, err
	}
	proposal := api.Proposal{
		PackID: req.PackID, AllowedDomains: w.AllowedDomains, AllowedPorts: w.AllowedPorts, Notes: w.Notes,
		Rules: wireRules(w.PathRules), AllowTunnel: w.AllowTunnel,
	}
	if !w.ExpiresAt.IsZero() {
		proposal.ExpiresAt = &w.ExpiresAt
	}
	for _, l := range leftOut {
		proposal.LeftOut = append(proposal.LeftOut, api.LeftOut{Host: l.Host, Port: int(l.Port), Method: l.Method, Path: l.Path, Why: l.Why, Setting: l.Setting})
	}
	return proposal, nil
}

// obstacle says why no grant lets a pack reach a host.
func (r *routes) obstacle(host hostname.Host, port uint16) (why, setting string) {
	return r.addresses.Obstacle(host.Name, host.Addr, port)
}

// obstacleFor is obstacle, and the policy as it is for a grant of the role.
func (r *routes) obstacleFor(role access.Role) grant.Obstacle {
	ceiling := r.ceiling.Current()
	return func(host hostname.Host, port uint16) (why, setting string) {
		if why, setting = r.obstacle(host, port); why != "" {
			return why, setting
		}
		broken := ceiling.Network(role, policy.Network{Domains: []string{host.Name}, Ports: []int{int(port)}}).First()
		if broken == nil {
			return "", ""
		}
		return "forbidden by the policy (" + broken.Rule + ")", policy.Path
	}
}
