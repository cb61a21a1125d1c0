// Package store keeps stagings and the journal of pack-registry in a database (SQLite or PostgreSQL). It implements
// staging.Store and ecosystem.Journal with their types.
package store

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/journal"
	"github.com/rumi-ai/rumi/services/pack-registry/internal/staging"
)

//go:embed migrations/*.sql
var embedded embed.FS

// Migrations are the goose files of pack-registry's schema.
func Migrations() fs.FS {
	sub, err := fs.Sub(embedded, "migrations")
	if err != nil {
		panic(err) // the folder is embedded above
	}
	return sub
}

// Store is pack-registry's state in a database. Its methods are described at staging.Store and ecosystem.Journal.
type Store struct{ db *store.DB }

// New uses a database to which Migrations have been applied.
func New(db *store.DB) *Store { return &Store{db} }

// AddStaging stores a new staging.
func (s *Store) AddStaging(ctx context.Context, st staging.Staging) error {
	packs, err := json.Marshal(st.Packs)
	if err != nil {
		return fmt.Errorf("add staging: %w", err)
	}
	warnings, err := json.Marshal(st.Warnings)
	if err != nil {
		return fmt.Errorf("add staging: %w", err)
	}
	err = s.db.Tx(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(`INSERT INTO staging (`+stagingColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			st.ID, st.CreatedAt, st.InputType, st.SourcePath, st.Notes, st.Actor, st.Multi, string(packs), string(warnings))
		return err
	})
	return wrap("add staging", err)
}

const stagingColumns = `staging_id, created_at, input_type, source_path, notes, actor, multi, packs, warnings`

func scanStaging(scan func(...any) error) (staging.Staging, error) {
	var st staging.Staging
	var packs, warnings string
	var multi int64
	if err := scan(&st.ID, store.Time(&st.CreatedAt), &st.InputType, &st.SourcePath, &st.Notes, &st.Actor, &multi, &packs, &warnings); err != nil {
		return staging.Staging{}, err
	}
	st.Multi = multi != 0
	if err := errors.Join(json.Unmarshal([]byte(packs), &st.Packs), json.Unmarshal([]byte(warnings), &st.Warnings)); err != nil {
		return st, fmt.Errorf("packs of staging %s: %w", st.ID, err)
	}
	if len(st.Warnings) == 0 {
		st.Warnings = nil
	}
	return st, nil
}

// Staging reads a staging; without one the error is staging.ErrUnknown.
func (s *Store) Staging(ctx context.Context, id string) (staging.Staging, error) {
	var st staging.Staging
	err := s.db.View(ctx, func(tx *store.Tx) (err error) {
		st, err = scanStaging(tx.QueryRow(`SELECT `+stagingColumns+` FROM staging WHERE staging_id = ?`, id).Scan)
		return err
	})
	return st, wrap("find staging", err)
}

// Stagings lists the stagings made at a time or after it, the newest first. One that can't be read is listed with its Err.
func (s *Store) Stagings(ctx context.Context, since time.Time) ([]staging.Staging, error) {
	var all []staging.Staging
	err := s.db.View(ctx, func(tx *store.Tx) error {
		all = nil
		return tx.Each(func(scan func(...any) error) error {
			st, err := scanStaging(scan)
			if st.ID != "" { // else the row could not be had at all
				st.Err, err = err, nil
			}
			all = append(all, st)
			return err
		}, `SELECT `+stagingColumns+` FROM staging WHERE created_at >= ? ORDER BY created_at DESC, staging_id`, since)
	})
	return all, wrap("list stagings", err)
}

// StagingTimes reads when each staging was made, by id, and nothing else of it.
func (s *Store) StagingTimes(ctx context.Context) (made map[string]time.Time, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		made = map[string]time.Time{}
		return tx.Each(func(scan func(...any) error) error {
			var id string
			var created time.Time
			if err := scan(&id, store.Time(&created)); err != nil {
				return err
			}
			made[id] = created
			return nil
		}, `SELECT staging_id, created_at FROM staging`)
	})
	return made, wrap("list stagings", err)
}

// RemoveStaging forgets a staging, if there is one.
func (s *Store) RemoveStaging(ctx context.Context, id string) error {
	return wrap("remove staging", s.db.Tx(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(`DELETE FROM staging WHERE staging_id = ?`, id)
		return err
	}))
}

// SaveOperation stores an operation as it is now.
func (s *Store) SaveOperation(ctx context.Context, op journal.Operation) error {
	packs, err := json.Marshal(op.Packs)
	if err != nil {
		return fmt.Errorf("save operation: %w", err)
	}
	return wrap("save operation", s.db.Tx(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(`INSERT INTO apply_operation (operation_id, staging_id, started_at, committed, packs) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (operation_id) DO UPDATE SET committed = excluded.committed, packs = excluded.packs`,
			op.ID, op.StagingID, op.StartedAt, int64(op.State), string(packs))
		return err
	}))
}

// EndOperation forgets an operation and, unless it was undone, the staging that it used up.
func (s *Store) EndOperation(ctx context.Context, op journal.Operation) error {
	return wrap("end operation", s.db.Tx(ctx, func(tx *store.Tx) error {
		if op.State != journal.Undoing {
			if _, err := tx.Exec(`DELETE FROM staging WHERE staging_id = ?`, op.StagingID); err != nil {
				return err
			}
		}
		_, err := tx.Exec(`DELETE FROM apply_operation WHERE operation_id = ?`, op.ID)
		return err
	}))
}

// Operations lists the operations that have not ended, the oldest first. One that can't be read is listed with its Err.
func (s *Store) Operations(ctx context.Context) ([]journal.Operation, error) {
	var all []journal.Operation
	err := s.db.View(ctx, func(tx *store.Tx) error {
		all = nil
		return tx.Each(func(scan func(...any) error) error {
			var op journal.Operation
			var state int64
			var packs string
			if err := scan(&op.ID, &op.StagingID, store.Time(&op.StartedAt), &state, &packs); err != nil {
				return err
			}
			op.State = journal.State(state)
			op.Err = json.Unmarshal([]byte(packs), &op.Packs)
			all = append(all, op)
			return nil
		}, `SELECT operation_id, staging_id, started_at, committed, packs FROM apply_operation ORDER BY started_at, operation_id`)
	})
	return all, wrap("list operations", err)
}

func wrap(doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrNoRows):
		return fmt.Errorf("%s: %w", doing, staging.ErrUnknown)
	default:
		return fmt.Errorf("%s: %w", doing, err)
	}
}
