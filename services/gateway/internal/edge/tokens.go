package edge

import (
	"context"
	"strings"
	"time"

	api "github.com/rumi-ai/rumi/api/gateway"
	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/services/gateway/internal/principal"
	"github.com/rumi-ai/rumi/services/gateway/internal/token"
)

// tokens adds the handlers of the API tokens.
func (e *Edge) tokens(handlers map[string]handler) {
	service := e.cfg.Tokens
	handle(handlers, api.ListTokens, func(ctx context.Context, _ struct{}) (api.TokensResponse, error) {
		list, err := service.List(ctx)
		answer := api.TokensResponse{Tokens: make([]api.Token, 0, len(list)), Count: len(list)}
		for _, t := range list {
			answer.Tokens = append(answer.Tokens, wireToken(t))
		}
		return answer, err
	})
	handle(handlers, api.CreateToken, func(ctx context.Context, req api.CreateTokenRequest) (api.IssuedToken, error) {
		r := token.Request{Name: req.Name, Role: req.Role, Scopes: req.Scopes, Notes: req.Notes}
		if req.ExpiresAt != nil {
			r.ExpiresAt = req.ExpiresAt.UTC()
		}
		text, t, err := service.Create(ctx, r)
		return api.IssuedToken{Success: err == nil, Token: text, Metadata: wireToken(token.Listed{Token: t})}, err
	})
	handle(handlers, api.RevokeToken, func(ctx context.Context, req api.TokenRequest) (api.RevokeTokenResponse, error) {
		t, revoked, err := service.Revoke(ctx, req.TokenID)
		return api.RevokeTokenResponse{Success: err == nil, ID: t.ID, Name: t.Name, Revoked: revoked}, err
	})
	handle(handlers, api.RotateToken, func(ctx context.Context, req api.RotateTokenRequest) (api.IssuedToken, error) {
		text, t, err := service.Rotate(ctx, req.TokenID, req.OverlapSeconds)
		return api.IssuedToken{Success: err == nil, Token: text, Metadata: wireToken(token.Listed{Token: t})}, err
	})
	handle(handlers, api.Self, func(ctx context.Context, _ struct{}) (api.SelfResponse, error) {
		return self(principal.Of(ctx)), nil
	})
}

func self(p *principal.Principal) api.SelfResponse {
	answer := api.SelfResponse{
		Name: p.Name, TokenID: p.TokenID, Role: p.Role, Scopes: p.Scopes, Lineage: []string{}, ExpiresAt: orNull(p.Expires), Verbs: []access.Verb{},
	}
	if p.Lineage != "" {
		answer.Lineage = strings.Split(p.Lineage, ",")
	}
	for _, v := range access.Verbs() {
		if p.Role.May(v) && p.Scopes.Mention(v) {
			answer.Verbs = append(answer.Verbs, v)
		}
	}
	return answer
}

func wireToken(t token.Listed) api.Token {
	now := time.Now()
	wire := api.Token{
		ID: t.ID, Name: t.Name, Role: t.Role, Scopes: t.Scopes, State: string(t.State(now)), Notes: t.Notes, CreatedAt: orNull(t.CreatedAt),
		CreatedBy: t.CreatedBy, Lineage: t.Lineage, ExpiresAt: orNull(t.ExpiresAt), RotatedAt: orNull(t.RotatedAt), RotatedBy: t.RotatedBy,
		RevokedAt: orNull(t.RevokedAt), RevokedBy: t.RevokedBy, LastUsedAt: orNull(t.LastUse.At), LastUsedFrom: t.LastUse.From,
	}
	if t.OldUntil.After(now) {
		wire.OldUntil = orNull(t.OldUntil)
	}
	if len(wire.Scopes) == 0 {
		wire.Scopes = nil // or an empty list would stand for "nothing"
	}
	return wire
}

func orNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
