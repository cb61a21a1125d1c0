// Package store keeps the broker's grants, trust, container records and values of store.* in its database. It implements the stores that
// packages grant, handler, container and builtin declare.
//
// Replicas share the database. For grants and for trust a row of capability_revisions counts the writes: it is raised in the transaction of
// each write, and replicas compare it with the revision of their copy in memory (libs/store/snapshot).
package store

import (
	"context"
	"embed"
	"errors"
	"io/fs"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/grant"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/handler"
)

//go:embed migrations/*.sql
var files embed.FS

// Migrations are the goose files of the broker's schema.
func Migrations() fs.FS {
	sub, err := fs.Sub(files, "migrations")
	if err != nil {
		panic(err) // the folder is embedded above
	}
	return sub
}

// Subjects of capability_revisions, one row each.
const (
	grants = "grants"
	trust  = "trust"
)

// Store implements grant.Store and handler.Store. It is safe for concurrent use.
type Store struct {
	db            *store.DB
	grants, trust revision
}

// New makes a Store of an open database that has Migrations.
func New(db *store.DB) *Store {
	return &Store{db: db, grants: revision{subject: grants, changes: db.Changes()}, trust: revision{subject: trust, changes: db.Changes()}}
}

// revision is one row of capability_revisions. It is asked for many times a second, so it is read only if the database may have changed.
type revision struct {
	subject string
	mu      sync.Mutex
	changes *store.Changes
	last    int64
}

func (r *revision) read(ctx context.Context, db *store.DB) (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.changes.Pending() {
		return r.last, nil
	}
	err := db.View(ctx, func(tx *store.Tx) error { return readRevision(tx, r.subject, &r.last) })
	if err != nil {
		r.changes.Recheck()
	}
	return r.last, err
}

func readRevision(tx *store.Tx, subject string, n *int64) error {
	return tx.QueryRow(`SELECT revision FROM capability_revisions WHERE subject = ?`, subject).Scan(n)
}

func raise(tx *store.Tx, subject string) error {
	_, err := tx.Exec(`UPDATE capability_revisions SET revision = revision + 1, changed_at = ? WHERE subject = ?`, time.Now(), subject)
	return err
}

// GrantsChanged is the newest revision of grants, and when it was raised; the zero time for one that an older version raised. See
// snapshot.NewPropagation.
func (s *Store) GrantsChanged(ctx context.Context) (revision int64, at time.Time, err error) {
	return s.changed(ctx, grants)
}

// TrustChanged is GrantsChanged for trust.
func (s *Store) TrustChanged(ctx context.Context) (revision int64, at time.Time, err error) {
	return s.changed(ctx, trust)
}

func (s *Store) changed(ctx context.Context, subject string) (revision int64, at time.Time, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		return tx.QueryRow(`SELECT revision, changed_at FROM capability_revisions WHERE subject = ?`, subject).Scan(&revision, store.Time(&at))
	})
	return revision, at, err
}

// Revision implements grant.Store.
func (s *Store) Revision(ctx context.Context) (int64, error) { return s.grants.read(ctx, s.db) }

// TrustRevision implements handler.TrustStore.
func (s *Store) TrustRevision(ctx context.Context) (int64, error) { return s.trust.read(ctx, s.db) }

const grantColumns = `principal_id, permission_id, enabled, config, expires_at, granted_at, updated_at, granted_by, terms, uses, granted_role`

func scanGrant(scan func(...any) error) (*grant.Grant, error) {
	var g grant.Grant
	var config, terms string
	if err := scan(&g.PrincipalID, &g.PermissionID, &g.Enabled, &config, store.Time(&g.ExpiresAt), store.Time(&g.GrantedAt),
		store.Time(&g.UpdatedAt), &g.GrantedBy, &terms, &g.Uses, &g.Role); err != nil {
		return nil, err
	}
	g.Config = jsontext.Value(config)
	g.ReadTerms([]byte(terms))
	return &g, nil
}

// Grants implements grant.Store.
func (s *Store) Grants(ctx context.Context) (list []grant.Grant, revision int64, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		list = nil
		if err := readRevision(tx, grants, &revision); err != nil {
			return err
		}
		return tx.Each(func(scan func(...any) error) error {
			g, err := scanGrant(scan)
			if err == nil {
				list = append(list, *g)
			}
			return err
		}, `SELECT `+grantColumns+` FROM capability_grants`)
	})
	return list, revision, err
}

// Apply implements grant.Store.
func (s *Store) Apply(ctx context.Context, principal, permission string, change func(*grant.Grant) (*grant.Grant, error)) error {
	return s.db.Tx(ctx, func(tx *store.Tx) error {
		current, err := scanGrant(tx.QueryRow(`SELECT `+grantColumns+` FROM capability_grants
			WHERE principal_id = ? AND permission_id = ?`, principal, permission).Scan)
		if err != nil && !errors.Is(err, store.ErrNoRows) {
			return err
		}
		next, err := change(current)
		if err != nil || next == nil {
			return err
		}
		terms, err := json.Marshal(next.Terms)
		if err != nil {
			return err
		}
		var uses int64
		if next.Terms.MaxUses != nil {
			uses = *next.Terms.MaxUses
		}
		if _, err := tx.Exec(`INSERT INTO capability_grants (`+grantColumns+`, max_uses) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (principal_id, permission_id) DO UPDATE SET enabled = excluded.enabled, config = excluded.config,
				expires_at = excluded.expires_at, granted_at = excluded.granted_at, updated_at = excluded.updated_at,
				granted_by = excluded.granted_by, terms = excluded.terms, uses = excluded.uses, max_uses = excluded.max_uses,
				granted_role = excluded.granted_role`,
			next.PrincipalID, next.PermissionID, next.Enabled, string(next.Config), next.ExpiresAt, next.GrantedAt,
			next.UpdatedAt, next.GrantedBy, string(terms), next.Uses, string(next.Role), uses); err != nil {
			return err
		}
		return raise(tx, grants)
	})
}

// errUnused rolls back a transaction that has counted uses in some grants of a chain, and can't in another.
var errUnused = errors.New("no use is left")

// Use implements grant.Store. Each use is one conditional UPDATE, so that of two replicas that use the last one only one succeeds. It raises
// no revision: a use changes nothing that replicas decide by in memory, and every call would make them all reload.
func (s *Store) Use(ctx context.Context, list []*grant.Grant) (reason grant.Reason, of int, err error) {
	err = s.db.Tx(ctx, func(tx *store.Tx) error {
		reason = grant.Allowed
		for i, g := range list {
			result, err := tx.Exec(`UPDATE capability_grants SET uses = uses + 1 WHERE principal_id = ? AND permission_id = ?
				AND granted_at = ? AND enabled = 1 AND uses < max_uses`, g.PrincipalID, g.PermissionID, g.GrantedAt)
			if err != nil {
				return err
			}
			if n, err := result.RowsAffected(); err != nil {
				return err
			} else if n == 1 {
				continue
			}
			of = i
			if reason, err = unused(tx, g); err != nil {
				return err
			}
			return errUnused
		}
		return nil
	})
	if errors.Is(err, errUnused) {
		err = nil
	}
	return reason, of, err
}

// unused says, in the same transaction, why no use could be counted in a grant. Times are compared as the database has them, in microseconds.
func unused(tx *store.Tx, g *grant.Grant) (grant.Reason, error) {
	var grantedAt time.Time
	var enabled bool
	err := tx.QueryRow(`SELECT granted_at, enabled FROM capability_grants WHERE principal_id = ? AND permission_id = ?`,
		g.PrincipalID, g.PermissionID).Scan(store.Time(&grantedAt), &enabled)
	switch {
	case errors.Is(err, store.ErrNoRows):
		return grant.None, nil
	case err != nil:
		return "", err
	case !grantedAt.Equal(g.GrantedAt.Truncate(time.Microsecond)):
		return grant.Changed, nil
	case !enabled:
		return grant.Disabled, nil
	}
	return grant.UsedUp, nil
}

// Remove implements grant.Store.
func (s *Store) Remove(ctx context.Context, principal string, commit func(n int) error) error {
	return s.db.Tx(ctx, func(tx *store.Tx) error {
		n, err := deleted(tx, `DELETE FROM capability_grants WHERE principal_id = ?`, principal)
		if err != nil {
			return err
		}
		if n > 0 {
			if err := raise(tx, grants); err != nil {
				return err
			}
		}
		return commit(n)
	})
}

func deleted(tx *store.Tx, query string, args ...any) (int, error) {
	result, err := tx.Exec(query, args...)
	if err != nil {
		return 0, err
	}
	n, err := result.RowsAffected()
	return int(n), err
}

// Trusts implements handler.TrustStore.
func (s *Store) Trusts(ctx context.Context) (list []handler.Trust, revision int64, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		if err := readRevision(tx, trust, &revision); err != nil {
			return err
		}
		list, err = readTrusts(tx, "")
		return err
	})
	return list, revision, err
}

// PutTrust implements handler.Store.
func (s *Store) PutTrust(tx *store.Tx, t handler.Trust) error {
	_, err := tx.Exec(`INSERT INTO capability_trust (pack_id, slug, candidate_key, handler_id, permission_id, entrypoint,
			script_sha256, folder_digest, installed_at, installed_by, config_schema) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (pack_id, slug) DO UPDATE SET candidate_key = excluded.candidate_key, handler_id = excluded.handler_id,
			permission_id = excluded.permission_id, entrypoint = excluded.entrypoint, script_sha256 = excluded.script_sha256,
			folder_digest = excluded.folder_digest, installed_at = excluded.installed_at, installed_by = excluded.installed_by,
			config_schema = excluded.config_schema`,
		t.PackID, t.Slug, t.CandidateKey, t.HandlerID, t.PermissionID, t.Entrypoint, t.ScriptSHA256, t.FolderDigest,
		t.InstalledAt, t.InstalledBy, string(t.ConfigSchema))
	if err != nil {
		return err
	}
	return raise(tx, trust)
}

// TrustedKey implements handler.Store.
func (s *Store) TrustedKey(tx *store.Tx, packID, slug string) (key string, err error) {
	err = tx.QueryRow(`SELECT candidate_key FROM capability_trust WHERE pack_id = ? AND slug = ?`, packID, slug).Scan(&key)
	if errors.Is(err, store.ErrNoRows) {
		return "", nil
	}
	return key, err
}

// DropTrust implements handler.Store.
func (s *Store) DropTrust(tx *store.Tx, key string) error {
	if _, err := tx.Exec(`DELETE FROM capability_trust WHERE candidate_key = ?`, key); err != nil {
		return err
	}
	return raise(tx, trust)
}

// RemoveTrust implements handler.Store.
func (s *Store) RemoveTrust(ctx context.Context, packID string, commit func([]handler.Trust) error) error {
	return s.db.Tx(ctx, func(tx *store.Tx) error {
		removed, err := readTrusts(tx, `WHERE pack_id = ?`, packID)
		if err != nil || len(removed) == 0 {
			return err
		}
		if _, err := tx.Exec(`DELETE FROM capability_trust WHERE pack_id = ?`, packID); err != nil {
			return err
		}
		if err := raise(tx, trust); err != nil {
			return err
		}
		return commit(removed)
	})
}

func readTrusts(tx *store.Tx, where string, args ...any) (list []handler.Trust, err error) {
	err = tx.Each(func(scan func(...any) error) error {
		var t handler.Trust
		var config string
		err := scan(&t.PackID, &t.Slug, &t.CandidateKey, &t.HandlerID, &t.PermissionID, &t.Entrypoint,
			&t.ScriptSHA256, &t.FolderDigest, store.Time(&t.InstalledAt), &t.InstalledBy, &config)
		if config != "" {
			t.ConfigSchema = jsontext.Value(config)
		}
		list = append(list, t)
		return err
	}, `SELECT pack_id, slug, candidate_key, handler_id, permission_id, entrypoint, script_sha256, folder_digest,
		installed_at, installed_by, config_schema FROM capability_trust `+where+` ORDER BY pack_id, slug`, args...)
	return list, err
}
