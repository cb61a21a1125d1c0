// Package store keeps what pack-registry must not forget: stagings and the journal of apply.
package store

import (
	"context"
	"crypto/rand"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/store"
)

//go:embed migrations/*.sql
var embedded embed.FS

// Migrations are the goose files of pack-registry.
func Migrations() fs.FS {
	sub, err := fs.Sub(embedded, "migrations")
	if err != nil {
		panic(err) // the folder is embedded above
	}
	return sub
}

// ErrNone is in the error of a look-up that finds nothing.
var ErrNone = errors.New("no such record")

// NewID makes an id for a record: 16 random hexadecimal digits.
func NewID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// Store is pack-registry's state in a database.
type Store struct{ db *store.DB }

// New makes a Store of a database with Migrations.
func New(db *store.DB) *Store { return &Store{db} }

// Staging is an import that may be applied. Its files are in the folder named by its id.
type Staging struct {
	ID         string // 16 hexadecimal digits
	CreatedAt  time.Time
	InputType  string // "folder", "zip" or "rumipack"
	SourcePath string // as the operator gave it
	Notes      string
	Actor      string
	Multi      bool // several packs in packs/
	Packs      []StagedPack
	Warnings   []string // what the import left out, for the operator
	Err        error    // why Packs can't be read; only Stagings sets it
}

// StagedPack is one pack of a staging.
type StagedPack struct {
	Dir      string  `json:"dir"`    // its folder's name in the staging's payload
	Folder   string  `json:"folder"` // the name that its folder had in the import
	Declared pack.ID `json:"declared"`
	Identity string  `json:"identity"`
	Version  string  `json:"version"`

	Warnings []string `json:"warnings,omitempty"` // what the operator should be told of it
}

// Operation is an apply or a rollback that has begun and not ended.
type Operation struct {
	ID        string // 16 hexadecimal digits
	StagingID string // what is applied; "" for a rollback, which puts backups back
	StartedAt time.Time
	State     State
	Packs     []OperationPack
	Err       error // why Packs can't be read; then nothing is known of them
}

// State says how far an operation is, and so what whoever finds it interrupted does with it.
type State int64

// The states of operations.
const (
	Undoing   State = 0 // nothing of it counts: it is being prepared, or has failed. It is undone
	Committed State = 1 // everything is prepared. It is finished, or undone where that is impossible
	Placed    State = 2 // all of it is in place, and that is audited. What it has left is removed
)

// OperationPack is what an operation does to one pack.
type OperationPack struct {
	ID     pack.ID `json:"id"`
	From   string  `json:"from"`   // its folder in the staging's payload, or that of a backup in the folder of backups
	New    string  `json:"new"`    // the name in ecosystem/ under which its new folder is prepared
	Backup string  `json:"backup"` // its backup, relative to the folder of backups; "" where it is not installed
	Old    string  `json:"old"`    // where it is installed in the old place, relative to ecosystem/; else ""
	Inode  uint64  `json:"inode"`  // of the new folder, by which it is known wherever it is; set when committed
	Born   int64   `json:"born"`   // when that inode was made, in ns, since numbers are used again; 0 where the file system doesn't say

	// The same of the folder that is replaced; 0 where there is none.
	OldInode uint64 `json:"old_inode"`
	OldBorn  int64  `json:"old_born"`
}

// AddStaging keeps a new staging.
func (s *Store) AddStaging(ctx context.Context, st Staging) error {
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

func scanStaging(scan func(...any) error) (Staging, error) {
	var st Staging
	var packs, warnings string
	var multi int64
	if err := scan(&st.ID, store.Time(&st.CreatedAt), &st.InputType, &st.SourcePath, &st.Notes, &st.Actor, &multi, &packs, &warnings); err != nil {
		return Staging{}, err
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

// Staging is the staging of an id; ErrNone without one.
func (s *Store) Staging(ctx context.Context, id string) (Staging, error) {
	var st Staging
	err := s.db.View(ctx, func(tx *store.Tx) (err error) {
		st, err = scanStaging(tx.QueryRow(`SELECT `+stagingColumns+` FROM staging WHERE staging_id = ?`, id).Scan)
		return err
	})
	return st, wrap("find staging", err)
}

// Stagings lists the stagings made at a time or after it, the newest first. One that can't be read is listed with its Err.
func (s *Store) Stagings(ctx context.Context, since time.Time) ([]Staging, error) {
	var all []Staging
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

// StagingTimes tells when each staging was made, by its id. It reads nothing else of them.
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

// SaveOperation keeps an operation as it is now.
func (s *Store) SaveOperation(ctx context.Context, op Operation) error {
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

// EndOperation forgets an operation, and the staging that it used up.
func (s *Store) EndOperation(ctx context.Context, op Operation) error {
	return wrap("end operation", s.db.Tx(ctx, func(tx *store.Tx) error {
		if op.State != Undoing {
			if _, err := tx.Exec(`DELETE FROM staging WHERE staging_id = ?`, op.StagingID); err != nil {
				return err
			}
		}
		_, err := tx.Exec(`DELETE FROM apply_operation WHERE operation_id = ?`, op.ID)
		return err
	}))
}

// Operations lists the operations that have not ended, the oldest first. One that can't be read is listed with its Err.
func (s *Store) Operations(ctx context.Context) ([]Operation, error) {
	var all []Operation
	err := s.db.View(ctx, func(tx *store.Tx) error {
		all = nil
		return tx.Each(func(scan func(...any) error) error {
			var op Operation
			var state int64
			var packs string
			if err := scan(&op.ID, &op.StagingID, store.Time(&op.StartedAt), &state, &packs); err != nil {
				return err
			}
			op.State = State(state)
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
		return fmt.Errorf("%s: %w", doing, ErrNone)
	default:
		return fmt.Errorf("%s: %w", doing, err)
	}
}
