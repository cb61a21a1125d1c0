// Package httpapi is the broker's HTTP API: routes, requests and answers.
package httpapi

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/rumi-ai/rumi/libs/candidate"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/rpc"
	"github.com/rumi-ai/rumi/libs/rpc/server"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/grant"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/handler"
)

// grantsVersion is that of a principal's entry in the list of grants.
const grantsVersion = "1.0"

type capability struct {
	grants   *grant.Cache
	handlers *handler.Service
}

// Capability serves grants and handler candidates.
func Capability(mux *server.Mux, grants *grant.Cache, handlers *handler.Service) {
	c := capability{grants, handlers}
	mux.Route("GET /api/capability/grants", rpc.Handle(c.list), "gateway")
	mux.Route("POST /api/capability/grants/grant", rpc.Handle(c.grant), "gateway")
	mux.Route("POST /api/capability/grants/revoke", rpc.Handle(c.revoke), "gateway")
	mux.Route("POST /api/capability/candidates/scan", rpc.Handle(c.scan), "gateway")
	mux.Route("POST /api/capability/requests/{candidate_key}/approve", rpc.Handle(c.approve), "gateway")
	mux.Route("POST /api/capability/requests/{candidate_key}/revoke", rpc.Handle(c.withdraw), "gateway")
	candidate.Routes(mux, handlers.Candidates(), candidate.Wire[handler.Candidate]{
		KeyForm: fault.HandlerKeyForm,
		Prefix:  "/api/capability", ValidKey: handler.ValidKey, View: c.view,
	})
}

type grantRequest struct {
	PrincipalID  string         `json:"principal_id"`
	PermissionID string         `json:"permission_id"`
	Config       jsontext.Value `json:"config"`
	ExpiresAt    *string        `json:"expires_at"`
	grant.Terms
}

type grantResponse struct {
	Success      bool           `json:"success"`
	PrincipalID  string         `json:"principal_id"`
	PermissionID string         `json:"permission_id"`
	Granted      bool           `json:"granted"`
	Config       jsontext.Value `json:"config"`
	ExpiresAt    *time.Time     `json:"expires_at"`
	Warnings     []string       `json:"warnings"` // why calls will be refused as things are
	grant.Terms
}

func (c capability) grant(ctx context.Context, req grantRequest) (grantResponse, error) {
	before := c.grants.Chain(req.PrincipalID, req.PermissionID)[0]
	g, err := c.grants.Grant(ctx, grant.Request(req))
	if err != nil {
		return grantResponse{}, err
	}
	return grantResponse{true, g.PrincipalID, g.PermissionID, true, g.Config, at(g.ExpiresAt), append(c.warnings(&g), removed(before, &g)...), g.Terms}, nil
}

// removed says what a grant named that the one in its place doesn't: posting a grant replaces the one before.
func removed(before, now *grant.Grant) []string {
	if before.Decide(time.Now()) != grant.Allowed || before.Settings() == nil || now.Settings() == nil {
		return nil
	}
	var gone []string
	kept := now.Settings().Details()
	for name, value := range before.Settings().Details() {
		had, _ := value.([]string)
		has, _ := kept[name].([]string)
		for _, entry := range had {
			if !slices.Contains(has, entry) {
				gone = append(gone, entry)
			}
		}
	}
	if len(gone) == 0 {
		return nil
	}
	slices.Sort(gone)
	return []string{"no longer granted: " + strings.Join(gone, ", ")}
}

// revokeRequest has the fields of a grant, since callers may send what they granted; only the names count.
type revokeRequest struct {
	grantRequest
	Reason string `json:"reason"`
}

type revokeResponse struct {
	Success      bool   `json:"success"`
	PrincipalID  string `json:"principal_id"`
	PermissionID string `json:"permission_id"`
	Revoked      bool   `json:"revoked"`
}

func (c capability) revoke(ctx context.Context, req revokeRequest) (revokeResponse, error) {
	revoked, err := c.grants.Revoke(ctx, grant.Request(req.grantRequest))
	if err != nil {
		return revokeResponse{}, err
	}
	return revokeResponse{true, req.PrincipalID, req.PermissionID, revoked}, nil
}

type listRequest struct {
	PrincipalID string `query:"principal_id" json:"-"`
}

type listResponse struct {
	Grants map[string]principalGrants `json:"grants"`
	Count  int                        `json:"count"`
}

type principalGrants struct {
	Version     string                `json:"version"`
	PrincipalID string                `json:"principal_id"`
	Enabled     bool                  `json:"enabled"` // any permission is
	GrantedAt   time.Time             `json:"granted_at"`
	UpdatedAt   time.Time             `json:"updated_at"`
	Permissions map[string]permission `json:"permissions"`
}

type permission struct {
	Enabled   bool           `json:"enabled"` // neither revoked nor expired
	Config    jsontext.Value `json:"config"`
	ExpiresAt *time.Time     `json:"expires_at"`
	GrantedAt time.Time      `json:"granted_at"`
	UpdatedAt time.Time      `json:"updated_at"`
	GrantedBy string         `json:"granted_by"`
	Reason    grant.Reason   `json:"reason,omitzero"` // why it allows nothing
	grant.Terms
	Uses     *int64   `json:"uses,omitzero"` // calls that have started, of a grant with max_uses
	Warnings []string `json:"warnings"`      // as when it is granted
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

// noHandler names the permissions that are served, for whoever misspelt one.
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

func (c capability) list(ctx context.Context, req listRequest) (listResponse, error) {
	if req.PrincipalID != "" {
		if _, err := pack.ParseID(req.PrincipalID); err != nil {
			return listResponse{}, fault.InvalidPrincipal()
		}
	}
	grants, err := c.grants.List(ctx, req.PrincipalID)
	if err != nil {
		return listResponse{}, err
	}
	now := time.Now()
	answer := listResponse{Grants: make(map[string]principalGrants)}
	for id, held := range grants {
		p := principalGrants{Version: grantsVersion, PrincipalID: id, Permissions: make(map[string]permission, len(held))}
		for _, g := range held {
			reason := g.Decide(now)
			held := permission{Enabled: reason == grant.Allowed, Config: g.Config, ExpiresAt: at(g.ExpiresAt), GrantedAt: g.GrantedAt,
				UpdatedAt: g.UpdatedAt, GrantedBy: g.GrantedBy, Reason: reason, Terms: g.Terms,
				Warnings: []string{}}
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

type approveRequest struct {
	Key   string `path:"candidate_key" json:"-"`
	Notes string `json:"notes"`
}

type approveResponse struct {
	Success     bool            `json:"success"`
	Status      candidate.State `json:"status"`
	InstalledTo string          `json:"installed_to"`
	HandlerID   string          `json:"handler_id"`
	Permission  string          `json:"permission_id"`
	SHA256      string          `json:"sha256"`
	Digest      string          `json:"digest"`   // of the whole folder
	Warnings    []string        `json:"warnings"` // what it did to grants
}

func (c capability) approve(ctx context.Context, req approveRequest) (approveResponse, error) {
	if !handler.ValidKey(req.Key) {
		return approveResponse{}, fault.InvalidCandidateKey(fault.HandlerKeyForm)
	}
	t, err := c.handlers.Approve(ctx, req.Key, req.Notes)
	if err != nil {
		return approveResponse{}, err
	}
	effects := []string{}
	if item, err := c.handlers.Candidates().Get(ctx, req.Key); err == nil {
		effects = c.handlers.Effects(item.Payload)
	}
	return approveResponse{true, candidate.Installed, t.InstalledTo(), t.HandlerID, t.PermissionID, t.ScriptSHA256, t.FolderDigest, effects}, nil
}

type withdrawRequest struct {
	Key    string `path:"candidate_key" json:"-"`
	Reason string `json:"reason"`
}

type withdrawResponse struct {
	Success       bool            `json:"success"`
	Status        candidate.State `json:"status"`
	RejectCount   int             `json:"reject_count"`
	CooldownUntil *time.Time      `json:"cooldown_until"`
	Warnings      []string        `json:"warnings"` // which grants are refused now
}

func (c capability) withdraw(ctx context.Context, req withdrawRequest) (withdrawResponse, error) {
	if !handler.ValidKey(req.Key) {
		return withdrawResponse{}, fault.InvalidCandidateKey(fault.HandlerKeyForm)
	}
	effects := []string{} // told by what is trusted before
	if item, err := c.handlers.Candidates().Get(ctx, req.Key); err == nil {
		effects = c.handlers.Withdrawn(item.Payload)
	}
	item, err := c.handlers.Withdraw(ctx, req.Key, req.Reason)
	if err != nil {
		return withdrawResponse{}, err
	}
	return withdrawResponse{true, item.State, item.RejectCount, item.CoolsUntil(), effects}, nil
}

type itemView struct {
	Key           string            `json:"candidate_key"`
	Status        candidate.State   `json:"status"`
	RejectCount   int               `json:"reject_count"`
	CooldownUntil *time.Time        `json:"cooldown_until"`
	LastEventTS   time.Time         `json:"last_event_ts"`
	CreatedAt     time.Time         `json:"created_at"`
	Candidate     handler.Candidate `json:"candidate"`
	InstalledTo   *string           `json:"installed_to"` // null also for one that another version has replaced
	LastError     *string           `json:"last_error"`
	Effects       []string          `json:"effects,omitempty"` // of one that waits: what approving it does to grants
}

func (c capability) view(item candidate.Item[handler.Candidate]) any {
	v := itemView{Key: item.Key, Status: item.State, RejectCount: item.RejectCount, CooldownUntil: item.CoolsUntil(),
		LastEventTS: item.UpdatedAt, CreatedAt: item.CreatedAt, Candidate: item.Payload}
	if t := c.handlers.Registry.Of(item.Payload.PackID, item.Payload.Slug); t != nil && t.CandidateKey == item.Key {
		to := t.InstalledTo()
		v.InstalledTo = &to
	}
	if item.LastError != "" {
		v.LastError = &item.LastError
	}
	if item.State == candidate.Pending {
		v.Effects = c.handlers.Effects(item.Payload)
	}
	return v
}
