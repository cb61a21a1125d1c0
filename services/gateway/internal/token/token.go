// Package token has the API tokens. Those of the database (Token) are made, listed, revoked and rotated by operators through the API
// (Service); each gateway decides by a copy in its memory (Cache). The first token, named init, is a file (File): it works whatever is in
// the database, so that nobody can lock the operator of the machine out.
package token

import (
	"context"
	"encoding/hex"
	"slices"
	"time"

	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/services/gateway/internal/principal"
)

// Token is the record of a token. The token itself isn't in it.
type Token struct {
	ID      string
	Name    string // unique for ever: audit entries name it, and must mean the same token in a year
	Role    access.Role
	Scopes  access.Scopes
	Notes   string
	Lineage []string // the names of those who have seen the secret, when they made or rotated it, and of those who made theirs; the nearest first

	Hash     string // SHA-256 of the secret, in hexadecimal
	OldHash  string // of the secret before the last rotation, while it is still good; "" for none
	OldUntil time.Time

	CreatedAt, ExpiresAt, RotatedAt, RevokedAt time.Time // zero for never
	CreatedBy, RotatedBy, RevokedBy            string

	Revision   int64  // of the store, when it was last changed; set by the store
	Unreadable string // why the record can't be understood; such a token is refused. "" for all others
}

// State is whether a token is good.
type State string

// The states.
const (
	Active  State = "active"
	Expired State = "expired"
	Revoked State = "revoked"
	Damaged State = "unreadable" // its record can't be understood: another version has written it, or the database is damaged
)

// State is the token's at a time.
func (t *Token) State(now time.Time) State {
	switch {
	case t.Unreadable != "":
		return Damaged
	case !t.RevokedAt.IsZero():
		return Revoked
	case !t.ExpiresAt.IsZero() && !now.Before(t.ExpiresAt):
		return Expired
	}
	return Active
}

// Store keeps the tokens; all gateways share one.
type Store interface {
	// Revision is the store's revision, which every change of a token raises. It must be cheap: it is asked ten times a second.
	Revision(ctx context.Context) (int64, error)
	// Changed is the newest revision, and when it was raised; see snapshot.NewPropagation.
	Changed(ctx context.Context) (revision int64, at time.Time, err error)
	// Tokens reads the tokens that have changed since a revision, all for 0, and the revision that they are of. No token is ever removed.
	Tokens(ctx context.Context, since int64) ([]Token, int64, error)
	// Create adds a token. before is called in its transaction, before the commit, perhaps several times; its error is returned and nothing
	// is added. taken is true, and nothing added, where there is or was a token of that name.
	Create(ctx context.Context, t *Token, before func() error) (taken bool, err error)
	// Change changes a token in one transaction. An error of change is returned as it is, and nothing is changed. change may run several times. found
	// is false for an id of no token.
	Change(ctx context.Context, id string, change func(*Token) error) (found bool, err error)
	// Uses reads the last use of each token, by id.
	Uses(ctx context.Context) (map[string]principal.Use, error)
	// SaveUses keeps last uses, by id, unless a later one is kept already.
	SaveUses(ctx context.Context, uses map[string]principal.Use) error
}

func (h hash) String() string { return hex.EncodeToString(h[:]) }

// parseHash is the inverse of String; ok is false for "" and whatever else is no hash.
func parseHash(s string) (h hash, ok bool) {
	n, err := hex.Decode(h[:], []byte(s[:min(len(s), 2*len(h))]))
	return h, err == nil && n == len(h) && len(s) == 2*len(h)
}

// descend puts names before a lineage, each once.
func descend(lineage []string, names ...string) []string {
	all := make([]string, 0, len(names)+len(lineage))
	for _, name := range append(slices.Clone(names), lineage...) {
		if name != "" && !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	return all
}
