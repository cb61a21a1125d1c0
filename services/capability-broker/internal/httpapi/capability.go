package httpapi

import (
	"context"
	"slices"
	"strings"
	"time"

	api "github.com/rumi-ai/rumi/api/broker"
	"github.com/rumi-ai/rumi/libs/candidate"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/grant"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/handler"
)

// grantsVersion is that of a principal's entry in the list of grants.
const grantsVersion = "1.0"

type capability struct {
	grants   *grant.Cache
	handlers *handler.Service
}

func (c capability) grant(ctx context.Context, req api.GrantRequest) (api.GrantResponse, error) {
	before := c.grants.Chain(req.PrincipalID, req.PermissionID)[0]
	g, err := c.grants.Grant(ctx, request(req))
	if err != nil {
		return api.GrantResponse{}, err
	}
	return api.GrantResponse{
		Success: true, PrincipalID: g.PrincipalID, PermissionID: g.PermissionID, Granted: true, Config: g.Config, ExpiresAt: at(g.ExpiresAt),
		Warnings: append(c.warnings(&g), removed(before, &g)...), Terms: wireTerms(g.Terms),
	}, nil
}

// removed says what the replaced grant named and the new one doesn't: posting a grant replaces the one before.
func removed(before, now *grant.Grant) []string {
	if before.Decide(time.Now()) != grant.Allowed || before.Settings() == nil || now.Settings() == nil {
		return nil
	}
	var dropped []string
	kept := now.Settings().Details()
	for name, value := range before.Settings().Details() {
		had, _ := value.([]string)
		has, _ := kept[name].([]string)
		for _, entry := range had {
			if !slices.Contains(has, entry) {
				dropped = append(dropped, entry)
			}
		}
	}
	if len(dropped) == 0 {
		return nil
	}
	slices.Sort(dropped)
	return []string{"no longer granted: " + strings.Join(dropped, ", ")}
}

func (c capability) revoke(ctx context.Context, req api.RevokeRequest) (api.RevokeResponse, error) {
	revoked, err := c.grants.Revoke(ctx, request(req.GrantRequest))
	if err != nil {
		return api.RevokeResponse{}, err
	}
	return api.RevokeResponse{Success: true, PrincipalID: req.PrincipalID, PermissionID: req.PermissionID, Revoked: revoked}, nil
}

// warnings say why calls of a grant that is itself in order would be refused as things are: what isn't trusted, or is
// trusted twice, and what a parent isn't granted.
func (c capability) warnings(g *grant.Grant) []string {
	list := []string{}
	if !grant.Reserved(g.PermissionID) {
		serving := c.handlers.Registry.For(g.PermissionID)
		t, reason := handler.Choose(serving, g.Terms.Handler)
		if t != nil {
			reason = t.CheckConfig(g.Config)
		} else if len(serving) == 0 {
			reason = c.noHandler(g.PermissionID)
		}
		if reason != "" {
			list = append(list, reason)
		}
	}
	if settings := g.Settings(); settings != nil && settings.Warning() != "" {
		list = append(list, settings.Warning())
	}
	if _, reason := c.grants.Chain(g.PrincipalID, g.PermissionID).Decide(time.Now()); reason != grant.Allowed {
		list = append(list, string(reason))
	}
	return list
}

// noHandler is the warning that no handler serves a permission. It names those that are served, in case the permission is misspelt.
func (c capability) noHandler(permission string) string {
	const most = 20
	served := c.handlers.Registry.Permissions()
	if len(served) == 0 {
		return "No trusted handler for " + permission + " yet"
	}
	if len(served) > most {
		served = append(served[:most], "…")
	}
	return "No trusted handler for " + permission + " yet (trusted: " + strings.Join(served, ", ") + ")"
}

func (c capability) list(ctx context.Context, req api.GrantsRequest) (api.GrantsResponse, error) {
	if req.PrincipalID != "" {
		if _, err := pack.ParseID(req.PrincipalID); err != nil {
			return api.GrantsResponse{}, fault.InvalidPrincipal()
		}
	}
	grants, err := c.grants.List(ctx, req.PrincipalID)
	if err != nil {
		return api.GrantsResponse{}, err
	}
	now := time.Now()
	answer := api.GrantsResponse{Grants: make(map[string]api.PrincipalGrants)}
	for id, held := range grants {
		p := api.PrincipalGrants{Version: grantsVersion, PrincipalID: id, Permissions: make(map[string]api.Grant, len(held))}
		for _, g := range held {
			reason := g.Decide(now)
			held := api.Grant{Enabled: reason == grant.Allowed, Config: g.Config, ExpiresAt: at(g.ExpiresAt), GrantedAt: g.GrantedAt,
				UpdatedAt: g.UpdatedAt, GrantedBy: g.GrantedBy, Reason: string(reason), Terms: wireTerms(g.Terms),
				GrantedRole: string(g.Role), Warnings: []string{}}
			if g.Enabled {
				held.Suspended = g.Suspended()
			}
			if g.Terms.MaxUses != nil {
				held.Uses = &g.Uses
			}
			if held.Enabled {
				held.Warnings = c.warnings(g)
			}
			p.Permissions[g.PermissionID] = held
			p.Enabled = p.Enabled || held.Enabled
			if p.GrantedAt.IsZero() || g.GrantedAt.Before(p.GrantedAt) {
				p.GrantedAt = g.GrantedAt
			}
			if g.UpdatedAt.After(p.UpdatedAt) {
				p.UpdatedAt = g.UpdatedAt
			}
		}
		answer.Grants[id] = p
	}
	answer.Count = len(answer.Grants)
	return answer, nil
}

// at is a time as answers have it: null for none.
func at(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func (c capability) scan(ctx context.Context, _ struct{}) (candidate.ScanResult, error) {
	return c.handlers.Scan(ctx)
}

func (c capability) approve(ctx context.Context, req api.ApproveRequest) (api.ApproveResponse, error) {
	if !handler.ValidKey(req.Key) {
		return api.ApproveResponse{}, fault.InvalidCandidateKey(fault.HandlerKeyForm)
	}
	item, err := c.handlers.Approve(ctx, req.Key, req.Notes)
	if err != nil {
		return api.ApproveResponse{}, err
	}
	answer := api.ApproveResponse{
		Status: string(item.State), HandlerID: item.Payload.HandlerID, Permission: item.Payload.PermissionID, SHA256: item.Payload.ScriptSHA256,
		Warnings: c.handlers.Effects(item.Payload),
	}
	if answer.Confirmation = c.handlers.Candidates().Confirmation(item); answer.Confirmation != nil {
		return answer, nil
	}
	answer.Success, answer.RequestedBy = true, item.Request.Requester()
	trusted := handler.Trust{PackID: item.PackID, Slug: item.Payload.Slug, FolderDigest: item.Payload.FolderDigest}
	answer.InstalledTo, answer.Digest = trusted.InstalledTo(), trusted.FolderDigest
	return answer, nil
}

func (c capability) withdraw(ctx context.Context, req api.WithdrawRequest) (api.WithdrawResponse, error) {
	if !handler.ValidKey(req.Key) {
		return api.WithdrawResponse{}, fault.InvalidCandidateKey(fault.HandlerKeyForm)
	}
	effects := []string{} // computed before the withdrawal, from what is trusted now
	if item, err := c.handlers.Candidates().Get(ctx, req.Key); err == nil {
		effects = c.handlers.Withdrawn(item.Payload)
	}
	item, err := c.handlers.Withdraw(ctx, req.Key, req.Reason)
	if err != nil {
		return api.WithdrawResponse{}, err
	}
	return api.WithdrawResponse{
		Success: true, Status: string(item.State), RejectCount: item.RejectCount, CooldownUntil: item.CoolsUntil(), Warnings: effects,
	}, nil
}

func (c capability) view(item candidate.Item[handler.Candidate]) api.HandlerItem {
	v := api.HandlerItem{Key: item.Key, Status: string(item.State), RejectCount: item.RejectCount, CooldownUntil: item.CoolsUntil(),
		LastEventTS: item.UpdatedAt, CreatedAt: item.CreatedAt, Candidate: shipped(item.Payload)}
	if t := c.handlers.Registry.Of(item.Payload.PackID, item.Payload.Slug); t != nil && t.CandidateKey == item.Key {
		to := t.InstalledTo()
		v.InstalledTo = &to
	}
	if item.LastError != "" {
		v.LastError = &item.LastError
	}
	v.RequestedBy, v.Confirmation = item.Request.Requester(), c.handlers.Candidates().Confirmation(item)
	if item.State == candidate.Pending || v.Confirmation != nil {
		v.Effects = c.handlers.Effects(item.Payload)
	}
	return v
}

// shipped is a candidate as answers have it.
func shipped(c handler.Candidate) api.HandlerCandidate {
	return api.HandlerCandidate{
		PackID: c.PackID, Slug: c.Slug, HandlerID: c.HandlerID, PermissionID: c.PermissionID, Entrypoint: c.Entrypoint, SourceDir: c.SourceDir,
		ScriptSHA256: c.ScriptSHA256, Description: c.Description, Risk: c.Risk, ConfigSchema: c.ConfigSchema, FolderDigest: c.FolderDigest, Notes: c.Notes,
	}
}

// request is what the grants are asked for.
func request(r api.GrantRequest) grant.Request {
	request := grant.Request{PrincipalID: r.PrincipalID, PermissionID: r.PermissionID, Config: r.Config, ExpiresAt: r.ExpiresAt, Terms: grant.Terms{
		MaxUses: r.MaxUses, RateLimit: r.RateLimit, ArgsSchema: r.ArgsSchema, Handler: (*grant.HandlerRef)(r.Handler), Limits: (*grant.Limits)(r.Limits),
	}}
	if r.Mounts != nil {
		request.Mounts = make([]grant.Mount, len(r.Mounts))
	}
	for i, m := range r.Mounts {
		request.Mounts[i] = grant.Mount(m)
	}
	return request
}

// wireTerms are the terms of a grant as answers have them.
func wireTerms(t grant.Terms) api.Terms {
	terms := api.Terms{
		MaxUses: t.MaxUses, RateLimit: t.RateLimit, ArgsSchema: t.ArgsSchema, Handler: (*api.HandlerRef)(t.Handler), Limits: (*api.Limits)(t.Limits),
	}
	if t.Mounts != nil {
		terms.Mounts = make([]api.Mount, len(t.Mounts))
	}
	for i, m := range t.Mounts {
		terms.Mounts[i] = api.Mount(m)
	}
	return terms
}
