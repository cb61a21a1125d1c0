// Package store keeps grants, denials and daily usage in libs/store's database (SQLite or PostgreSQL). It implements the Store
// interfaces that packages grant, denials and quota declare.
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

	"github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/grant"
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

// Grants implements grant.Store.
type Grants struct {
	db *store.DB

	mu      sync.Mutex
	changes *store.Changes
	last    int64 // the revision that was last read
}

// NewGrants makes the store over a database that has Migrations.
func NewGrants(db *store.DB) *Grants { return &Grants{db: db, changes: db.Changes()} }

const columns = "pack_id, enabled, allowed_domains, allowed_ports, granted_at, updated_at, granted_by, notes, expires_at, revision, rules, allow_tunnel, granted_role"

// Revision implements grant.Store. It is called 50 times a second and queries the database only if another process may have written
// to it since the last time.
func (s *Grants) Revision(ctx context.Context) (revision int64, err error) {
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

// Changed is the newest revision, and when it was raised; the zero time for one that an older version raised. See snapshot.NewPropagation.
func (s *Grants) Changed(ctx context.Context) (revision int64, at time.Time, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		return tx.QueryRow("SELECT revision, changed_at FROM grant_revision WHERE id = 1").Scan(&revision, store.Time(&at))
	})
	return revision, at, err
}

// Grants implements grant.Store.
func (s *Grants) Grants(ctx context.Context) (grants []grant.Grant, revision int64, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		grants = nil
		if revision, err = readRevision(tx); err != nil {
			return err
		}
		return tx.Each(func(scan func(...any) error) error {
			g, err := scanGrant(scan)
			grants = append(grants, g)
			return err
		}, "SELECT "+columns+" FROM network_grants")
	})
	return grants, revision, err
}

// Apply implements grant.Store.
func (s *Grants) Apply(ctx context.Context, packID string, change func(*grant.Grant) (*grant.Grant, error)) error {
	return s.db.Tx(ctx, func(tx *store.Tx) error {
		// This comes first: with PostgreSQL it locks the row until the commit, so that changes run one after the other and the read
		// below sees the one before.
		if _, err := tx.Exec("UPDATE grant_revision SET revision = revision + 1, changed_at = ? WHERE id = 1", time.Now()); err != nil {
			return fmt.Errorf("count grant revision: %w", err)
		}
		revision, err := readRevision(tx)
		if err != nil {
			return err
		}
		var old *grant.Grant
		switch g, err := scanGrant(tx.QueryRow("SELECT "+columns+" FROM network_grants WHERE pack_id = ?", packID).Scan); {
		case err == nil:
			old = &g
		case !errors.Is(err, store.ErrNoRows):
			return err
		}
		next, err := change(old)
		if err != nil {
			return err
		}
		if _, err := tx.Exec("DELETE FROM network_grants WHERE pack_id = ?", packID); err != nil {
			return fmt.Errorf("delete grant: %w", err)
		}
		if next == nil {
			return nil
		}
		next.Revision = revision
		return insert(tx, next)
	})
}

func insert(tx *store.Tx, g *grant.Grant) error {
	domains, err := json.Marshal(g.AllowedDomains)
	if err != nil {
		return fmt.Errorf("encode allowed_domains: %w", err)
	}
	ports, err := json.Marshal(g.AllowedPorts)
	if err != nil {
		return fmt.Errorf("encode allowed_ports: %w", err)
	}
	rules, err := json.Marshal(g.PathRules)
	if err != nil {
		return fmt.Errorf("encode rules: %w", err)
	}
	_, err = tx.Exec("INSERT INTO network_grants ("+columns+") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
		g.PackID, g.Enabled, string(domains), string(ports), g.GrantedAt, g.UpdatedAt, g.GrantedBy, g.Notes, g.ExpiresAt, g.Revision,
		string(rules), g.AllowTunnel, string(g.Role))
	if err != nil {
		return fmt.Errorf("insert grant: %w", err)
	}
	return nil
}

func readRevision(tx *store.Tx) (revision int64, err error) {
	if err := tx.QueryRow("SELECT revision FROM grant_revision WHERE id = 1").Scan(&revision); err != nil {
		return 0, fmt.Errorf("read grant revision: %w", err)
	}
	return revision, nil
}

func scanGrant(scan func(...any) error) (g grant.Grant, err error) {
	var enabled, tunnel int
	var domains, ports, rules string
	err = scan(&g.PackID, &enabled, &domains, &ports, store.Time(&g.GrantedAt), store.Time(&g.UpdatedAt), &g.GrantedBy, &g.Notes,
		store.Time(&g.ExpiresAt), &g.Revision, &rules, &tunnel, &g.Role)
	if err != nil {
		return g, fmt.Errorf("read grant: %w", err)
	}
	g.Enabled, g.AllowTunnel = enabled != 0, tunnel != 0
	if err := json.Unmarshal([]byte(domains), &g.AllowedDomains); err != nil {
		return g, fmt.Errorf("read allowed_domains of %s: %w", g.PackID, err)
	}
	if err := json.Unmarshal([]byte(ports), &g.AllowedPorts); err != nil {
		return g, fmt.Errorf("read allowed_ports of %s: %w", g.PackID, err)
	}
	if rules != "[]" {
		if err := json.Unmarshal([]byte(rules), &g.PathRules); err != nil {
			return g, fmt.Errorf("read rules of %s: %w", g.PackID, err)
		}
	}
	return g, nil
}
