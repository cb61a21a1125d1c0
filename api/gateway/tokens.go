package gateway

import (
	"time"

	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/route"
)

// The endpoints of API tokens. See docs/tokens.md.
var (
	ListTokens = route.New[struct{}, TokensResponse]("GET", "/api/tokens", Service, route.Class{}, access.ReadTokens,
		"List the API tokens").
		Fails("store_unavailable")
	CreateToken = route.New[CreateTokenRequest, IssuedToken]("POST", "/api/tokens", Service, route.Class{}, access.CreateTokens,
		"Make an API token").
		Fails("invalid_expires_at", "invalid_pack_id", "invalid_scopes", "invalid_text", "invalid_token_name", "lineage_too_long",
			"missing_name", "missing_role", "no_space", "store_unavailable", "token_name_reserved", "token_name_taken",
			"token_too_wide", "unknown_verb", "value_too_long")
	Self = route.New[struct{}, SelfResponse]("GET", "/api/tokens/self", Service, route.Class{}, access.ReadSelf,
		"Show whose token this is, and what it may do")
	RevokeToken = route.New[TokenRequest, RevokeTokenResponse]("DELETE", "/api/tokens/{token_id}", Service, route.Class{}, access.RevokeTokens,
		"Revoke an API token").
		Fails("init_token", "invalid_text", "no_space", "store_unavailable", "token_not_found", "token_unreadable")
	RotateToken = route.New[RotateTokenRequest, IssuedToken]("POST", "/api/tokens/{token_id}/rotate", Service, route.Class{}, access.RotateTokens,
		"Give an API token a new secret").
		Fails("init_token", "invalid_text", "lineage_too_long", "no_space", "store_unavailable", "token_not_active", "token_not_found",
			"token_too_wide", "token_unreadable")
)

// CreateTokenRequest asks for a token. The caller can't ask for more than its own role and scopes have.
type CreateTokenRequest struct {
	Name      string        `json:"name" api:"required,pattern=^[a-z0-9][a-z0-9._-]{0,63}$"` // ^[a-z0-9][a-z0-9._-]{0,63}$; one that was never used
	Role      access.Role   `json:"role" api:"required"`                                     // viewer, operator or admin
	Scopes    access.Scopes `json:"scopes"`
	ExpiresAt *time.Time    `json:"expires_at"` // in the future; null for never
	Notes     string        `json:"notes"`      // at most 4096 bytes
}

// TokenRequest names a token.
type TokenRequest struct {
	TokenID string `json:"-" path:"token_id"`
}

// RotateTokenRequest asks for another secret of a token.
type RotateTokenRequest struct {
	TokenID        string `json:"-" path:"token_id"`
	OverlapSeconds int    `json:"overlap_seconds" api:"min=0,max=86400"` // for which the old secret works on, 0 to 86400
}

// Token is a token as operators see it: everything but its secret.
type Token struct {
	ID           string        `json:"id"`
	Name         string        `json:"name"`
	Role         access.Role   `json:"role" api:"enum="`
	Scopes       access.Scopes `json:"scopes,omitzero"`                                    // absent where nothing narrows the role
	State        string        `json:"state" api:"enum=active|expired|revoked|unreadable"` // active, expired, revoked or unreadable
	Notes        string        `json:"notes"`
	CreatedAt    *time.Time    `json:"created_at"` // null for init's, as created_by is ""
	CreatedBy    string        `json:"created_by"`
	Lineage      []string      `json:"lineage"`    // the names of the tokens that made it, the nearest first, and of those that rotated it
	ExpiresAt    *time.Time    `json:"expires_at"` // null for never
	RotatedAt    *time.Time    `json:"rotated_at"` // null for never
	RotatedBy    string        `json:"rotated_by"`
	OldUntil     *time.Time    `json:"old_secret_until"` // when the secret before the last rotation ends; null where it has
	RevokedAt    *time.Time    `json:"revoked_at"`       // null for never
	RevokedBy    string        `json:"revoked_by"`
	LastUsedAt   *time.Time    `json:"last_used_at"` // null for never; some seconds late for another gateway's requests
	LastUsedFrom string        `json:"last_used_from"`
}

// TokensResponse lists the tokens, init's first, then the oldest first.
type TokensResponse struct {
	Tokens []Token `json:"tokens"`
	Count  int     `json:"count"`
}

// IssuedToken has a token's secret. No other call shows it again.
type IssuedToken struct {
	Success  bool   `json:"success"`
	Token    string `json:"token"` // rumi_<id>_<secret><checksum>
	Metadata Token  `json:"metadata"`
}

// RevokeTokenResponse says whether the token was good until now.
type RevokeTokenResponse struct {
	Success bool   `json:"success"`
	ID      string `json:"id"`
	Name    string `json:"name"`
	Revoked bool   `json:"revoked"` // false where it had been revoked before
}

// SelfResponse describes the caller: its name, and what it may do.
type SelfResponse struct {
	Name      string        `json:"name"`
	TokenID   string        `json:"token_id"` // "" where the caller has no token, but has signed in
	Role      access.Role   `json:"role"`
	Scopes    access.Scopes `json:"scopes,omitzero"` // absent where nothing narrows the role
	Lineage   []string      `json:"lineage"`
	ExpiresAt *time.Time    `json:"expires_at"` // null for never
	Verbs     []access.Verb `json:"verbs"`      // all that role and scopes allow, on some packs at least
}
