// Package store keeps the API tokens in libs/store's database (SQLite or PostgreSQL). It implements the Store interface that package token
// declares.
package store

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/services/gateway/internal/principal"
	"github.com/rumi-ai/rumi/services/gateway/internal/token"
)

//go:embed migrations/*.sql
var files embed.FS

// Migrations are goose's SQL files that make and change the tables, for store.Open.
var Migrations = func() fs.FS {
	sub, err := fs.Sub(files, "migrations")
	if err != nil {
		panic(err) // the folder is embedded
	}
	return sub
}()

// Tokens implements token.Store.
type Tokens struct {
	db *store.DB

	mu      sync.Mutex
	changes *store.Changes
	last    int64 // the revision that was last read
}

// NewTokens makes the store over a database that has Migrations.
func NewTokens(db *store.DB) *Tokens { return &Tokens{db: db, changes: db.Changes()} }

const columns = `id, name, role, scopes, notes, lineage, hash, old_hash, old_until, created_at, created_by, expires_at, rotated_at, rotated_by,
	revoked_at, revoked_by, revision`

// Revision implements token.Store. It queries the database only if another process may have written to it since the last time.
func (s *Tokens) Revision(ctx context.Context) (revision int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.changes.Pending() {
		return s.last, nil
	}
	if err = s.db.View(ctx, func(tx *store.Tx) error { revision, err = readRevision(tx); return err }); err != nil {
		s.changes.Recheck()
		return 0, err
	}
	s.last = revision
	return revision, nil
}

// Tokens implements token.Store.
func (s *Tokens) Tokens(ctx context.Context, since int64) (tokens []token.Token, revision int64, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		tokens = nil
		if revision, err = readRevision(tx); err != nil {
			return err
		}
		return tx.Each(func(scan func(...any) error) error {
			t, err := scanToken(scan)
			if errors.Is(err, errUnreadable) { // one damaged record must not keep all others from being used
				t.Unreadable, err = err.Error(), nil
			}
			tokens = append(tokens, t)
			return err
		}, "SELECT "+columns+" FROM tokens WHERE revision > ? ORDER BY created_at, id", since)
	})
	return tokens, revision, err
}

// Create implements token.Store.
func (s *Tokens) Create(ctx context.Context, t *token.Token, before func() error) (taken bool, err error) {
	err = s.db.Tx(ctx, func(tx *store.Tx) error {
		revision, err := raiseRevision(tx)
		if err != nil {
			return err
		}
		var others int
		if err := tx.QueryRow("SELECT COUNT(*) FROM tokens WHERE name = ?", t.Name).Scan(&others); err != nil {
			return fmt.Errorf("look for a token's name: %w", err)
		}
		if taken = others > 0; taken {
			return errTaken
		}
		if err := before(); err != nil {
			return err
		}
		t.Revision = revision
		return insert(tx, t)
	})
	if errors.Is(err, errTaken) {
		return true, nil
	}
	return false, err
}

// errTaken ends a transaction without a change.
var errTaken = errors.New("the name is taken")

// Change implements token.Store.
func (s *Tokens) Change(ctx context.Context, id string, change func(*token.Token) error) (found bool, err error) {
	err = s.db.Tx(ctx, func(tx *store.Tx) error {
		found = false
		revision, err := raiseRevision(tx)
		if err != nil {
			return err
		}
		t, err := scanToken(tx.QueryRow("SELECT "+columns+" FROM tokens WHERE id = ?", id).Scan)
		switch {
		case errors.Is(err, store.ErrNoRows):
			return nil
		case errors.Is(err, errUnreadable): // what is written back would be another token
			return fault.Conflict("The record of this token can't be read. It is refused already: make another one").With("token_unreadable").Because(err)
		case err != nil:
			return err
		}
		found = true
		if err := change(&t); err != nil {
			return err
		}
		if _, err := tx.Exec("DELETE FROM tokens WHERE id = ?", id); err != nil {
			return fmt.Errorf("replace token: %w", err)
		}
		t.Revision = revision
		return insert(tx, &t)
	})
	return found, err
}

// Uses implements token.Store.
func (s *Tokens) Uses(ctx context.Context) (uses map[string]principal.Use, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		uses = map[string]principal.Use{}
		return tx.Each(func(scan func(...any) error) error {
			var id string
			var use principal.Use
			err := scan(&id, store.Time(&use.At), &use.From)
			uses[id] = use
			return err
		}, "SELECT id, used_at, used_from FROM token_uses")
	})
	return uses, err
}

// SaveUses implements token.Store. The row says which of several gateways saw the later use.
func (s *Tokens) SaveUses(ctx context.Context, uses map[string]principal.Use) error {
	return s.db.Tx(ctx, func(tx *store.Tx) error {
		for id, use := range uses {
			_, err := tx.Exec(`INSERT INTO token_uses (id, used_at, used_from) VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE
				SET used_at = excluded.used_at, used_from = excluded.used_from WHERE excluded.used_at > token_uses.used_at`, id, use.At, use.From)
			if err != nil {
				return fmt.Errorf("keep the last use of a token: %w", err)
			}
		}
		return nil
	})
}

// raiseRevision comes first in each transaction that writes: with PostgreSQL it locks the row until the commit, so that changes run one after
// the other and each sees the one before.
func raiseRevision(tx *store.Tx) (int64, error) {
	if _, err := tx.Exec("UPDATE token_revision SET revision = revision + 1, changed_at = ? WHERE id = 1", time.Now()); err != nil {
		return 0, fmt.Errorf("count token revision: %w", err)
	}
	return readRevision(tx)
}

// Changed implements token.Store.
func (s *Tokens) Changed(ctx context.Context) (revision int64, at time.Time, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		return tx.QueryRow("SELECT revision, changed_at FROM token_revision WHERE id = 1").Scan(&revision, store.Time(&at))
	})
	return revision, at, err
}

func readRevision(tx *store.Tx) (revision int64, err error) {
	if err := tx.QueryRow("SELECT revision FROM token_revision WHERE id = 1").Scan(&revision); err != nil {
		return 0, fmt.Errorf("read token revision: %w", err)
	}
	return revision, nil
}

func insert(tx *store.Tx, t *token.Token) error {
	scopes, err := json.Marshal(t.Scopes)
	if err != nil {
		return fmt.Errorf("encode scopes: %w", err)
	}
	lineage, err := json.Marshal(t.Lineage)
	if err != nil {
		return fmt.Errorf("encode lineage: %w", err)
	}
	_, err = tx.Exec("INSERT INTO tokens ("+columns+") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
		t.ID, t.Name, string(t.Role), string(scopes), t.Notes, string(lineage), t.Hash, t.OldHash, t.OldUntil, t.CreatedAt, t.CreatedBy,
		t.ExpiresAt, t.RotatedAt, t.RotatedBy, t.RevokedAt, t.RevokedBy, t.Revision)
	if err != nil {
		return fmt.Errorf("insert token: %w", err)
	}
	return nil
}

// errUnreadable is the error for a row that this version doesn't understand.
var errUnreadable = errors.New("unreadable record")

func scanToken(scan func(...any) error) (t token.Token, err error) {
	var role, scopes, lineage string
	err = scan(&t.ID, &t.Name, &role, &scopes, &t.Notes, &lineage, &t.Hash, &t.OldHash, store.Time(&t.OldUntil), store.Time(&t.CreatedAt),
		&t.CreatedBy, store.Time(&t.ExpiresAt), store.Time(&t.RotatedAt), &t.RotatedBy, store.Time(&t.RevokedAt), &t.RevokedBy, &t.Revision)
	if err != nil {
		return t, fmt.Errorf("read token: %w", err)
	}
	t.Role = access.Role(role)
	if !t.Role.Known() {
		return t, fmt.Errorf("%w of token %s: the role is %q", errUnreadable, t.ID, role)
	}
	// A field that isn't known may narrow the scope: without it the token would be wider than it was made.
	if err := json.Unmarshal([]byte(scopes), &t.Scopes, json.RejectUnknownMembers(true)); err != nil {
		return t, fmt.Errorf("%w of token %s: scopes: %w", errUnreadable, t.ID, err)
	}
	if err := json.Unmarshal([]byte(lineage), &t.Lineage); err != nil {
		return t, fmt.Errorf("%w of token %s: lineage: %w", errUnreadable, t.ID, err)
	}
	return t, nil
}
