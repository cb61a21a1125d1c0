// Package store keeps approval's records and their histories in a database (SQLite or PostgreSQL). It implements
// approval.Records with the types of package record.
package store

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/libs/confirm"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/services/approval/internal/record"
)

//go:embed migrations/*.sql
var files embed.FS

// Migrations are the goose files of approval's schema.
var Migrations = func() fs.FS {
	sub, err := fs.Sub(files, "migrations")
	if err != nil {
		panic(err) // the folder is compiled in
	}
	return sub
}()

// Records is the table of records, with their histories. Make one with New. Its methods are described at approval.Records.
type Records struct{ db *store.DB }

// New uses a database to which Migrations have been applied.
func New(db *store.DB) *Records { return &Records{db} }

const columns = `pack_id, status, identity, version, description, requested, created_at, updated_at, approved_at, digest, rejection_reason, last_error, revision, retired, parent_identity, request`

// Get reads one record. A pack without one is a not-found fault.
func (s *Records) Get(ctx context.Context, packID string) (*record.Record, error) {
	var r *record.Record
	err := s.db.View(ctx, func(tx *store.Tx) (err error) {
		r, err = get(tx, packID)
		return err
	})
	return r, err
}

func get(tx *store.Tx, packID string) (*record.Record, error) {
	var r *record.Record
	// Not QueryRow, whose row can be scanned once only.
	err := tx.Each(func(row func(...any) error) (err error) {
		r, err = scan(row)
		return err
	}, `SELECT `+columns+` FROM records WHERE pack_id = ?`, packID)
	switch {
	case err != nil:
		return nil, fmt.Errorf("read record of %s: %w", packID, err)
	case r == nil:
		return nil, fault.PackNotFound()
	}
	return r, nil
}

// All reads the records of all packs, by id.
func (s *Records) All(ctx context.Context) ([]*record.Record, error) {
	var all []*record.Record
	err := s.db.View(ctx, func(tx *store.Tx) error {
		all = nil
		return tx.Each(func(row func(...any) error) error {
			r, err := scan(row)
			all = append(all, r)
			return err
		}, `SELECT `+columns+` FROM records ORDER BY pack_id`)
	})
	if err != nil {
		return nil, fmt.Errorf("read records: %w", err)
	}
	return all, nil
}

// Revisions reads the revisions of all records, by pack id.
func (s *Records) Revisions(ctx context.Context) (map[string]int64, error) {
	var all map[string]int64
	err := s.db.View(ctx, func(tx *store.Tx) error {
		all = make(map[string]int64)
		return tx.Each(func(row func(...any) error) error {
			var id string
			var revision int64
			err := row(&id, &revision)
			all[id] = revision
			return err
		}, `SELECT pack_id, revision FROM records`)
	})
	if err != nil {
		return nil, fmt.Errorf("read revisions of records: %w", err)
	}
	return all, nil
}

// Changes says, again and again, whether anybody may have written to the database since.
func (s *Records) Changes() *store.Changes { return s.db.Changes() }

// History reads the events of a pack, the oldest first.
func (s *Records) History(ctx context.Context, packID string) ([]record.Event, error) {
	var events []record.Event
	err := s.db.View(ctx, func(tx *store.Tx) error {
		events = nil
		return tx.Each(func(row func(...any) error) error {
			var e record.Event
			err := row(&e.Version, store.Time(&e.Timestamp), &e.Action, &e.Digest, &e.Actor, &e.Reason, &e.RequestedBy)
			events = append(events, e)
			return err
		}, `SELECT version, ts, action, digest, actor, reason, requested_by FROM events WHERE pack_id = ? ORDER BY revision`, packID)
	})
	if err != nil {
		return nil, fmt.Errorf("read history of %s: %w", packID, err)
	}
	return events, nil
}

// Digests reads the digests of the trees that records name (current), and of those that only a history names (historic).
func (s *Records) Digests(ctx context.Context) (current, historic []string, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		current, historic = nil, nil
		return tx.Each(func(row func(...any) error) error {
			var digest string
			var isCurrent bool
			if err := row(&digest, &isCurrent); err != nil {
				return err
			}
			if isCurrent {
				current = append(current, digest)
			} else {
				historic = append(historic, digest)
			}
			return nil
		}, `SELECT digest, MAX(current) FROM (
			SELECT digest, 1 AS current FROM records UNION ALL SELECT digest, 0 AS current FROM events
		) AS named WHERE digest <> '' GROUP BY digest`)
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read digests: %w", err)
	}
	return current, historic, nil
}

// Change runs fn on a pack's record and writes the record and the event that it returns, all or nothing. fn gets nil where
// there is no record, and may return a new one; if it returns nil nothing is written. A nil event adds nothing to the history.
// The transaction keeps others from changing the record meanwhile. confirm runs when everything is written but not yet
// committed; its error rolls everything back. Both functions may run more than once.
func (s *Records) Change(ctx context.Context, packID string, fn func(*record.Record) (*record.Record, *record.Event, error), confirm func() error) error {
	return s.db.Tx(ctx, func(tx *store.Tx) error {
		r, err := get(tx, packID)
		if err != nil && !fault.Is(err, fault.KindNotFound) {
			return err
		}
		changed, event, err := fn(r)
		if err != nil || changed == nil {
			return err
		}
		if err := put(tx, changed); err != nil {
			return fmt.Errorf("write record of %s: %w", packID, err)
		}
		if event != nil {
			if err := putEvent(tx, changed, event); err != nil {
				return err
			}
		}
		return confirm()
	})
}

func putEvent(tx *store.Tx, r *record.Record, e *record.Event) error {
	_, err := tx.Exec(`INSERT INTO events (pack_id, revision, version, ts, action, digest, actor, reason, requested_by) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		r.PackID, r.Revision, e.Version, e.Timestamp, e.Action, e.Digest, e.Actor, e.Reason, e.RequestedBy)
	if err != nil {
		return fmt.Errorf("write history of %s: %w", r.PackID, err)
	}
	return nil
}

// Create writes those of the records whose packs have none yet, all or nothing. confirm gets the records that were written,
// before the commit; its error rolls everything back. It may run more than once.
func (s *Records) Create(ctx context.Context, all []record.NewRecord, confirm func(made []*record.Record) error) error {
	return s.db.Tx(ctx, func(tx *store.Tx) error {
		var made []*record.Record
		for _, n := range all {
			if _, err := get(tx, n.Record.PackID); err == nil {
				continue
			} else if !fault.Is(err, fault.KindNotFound) {
				return err
			}
			if err := put(tx, n.Record); err != nil {
				return fmt.Errorf("write record of %s: %w", n.Record.PackID, err)
			}
			if err := putEvent(tx, n.Record, n.Event); err != nil {
				return err
			}
			made = append(made, n.Record)
		}
		return confirm(made)
	})
}

// Retired lists the ids of the retired packs, in order.
func (s *Records) Retired(ctx context.Context) ([]string, error) {
	var ids []string
	err := s.db.View(ctx, func(tx *store.Tx) error {
		ids = nil
		return tx.Each(func(row func(...any) error) error {
			var id string
			err := row(&id)
			ids = append(ids, id)
			return err
		}, `SELECT pack_id FROM records WHERE retired <> 0 ORDER BY pack_id`)
	})
	if err != nil {
		return nil, fmt.Errorf("read retired packs: %w", err)
	}
	return ids, nil
}

// Remove deletes the record and the history of a retired pack; removed is false where there was none. The record of a pack that
// isn't retired stays: its uninstall would have to begin first.
func (s *Records) Remove(ctx context.Context, packID string) (removed bool, err error) {
	err = s.db.Tx(ctx, func(tx *store.Tx) error {
		r, err := get(tx, packID)
		if fault.Is(err, fault.KindNotFound) || err == nil && !r.Retired {
			removed = false
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := tx.Exec(`DELETE FROM events WHERE pack_id = ?`, packID); err != nil {
			return err
		}
		result, err := tx.Exec(`DELETE FROM records WHERE pack_id = ?`, packID)
		if err != nil {
			return err
		}
		n, err := result.RowsAffected()
		removed = n > 0
		return err
	})
	if err != nil {
		return false, fmt.Errorf("remove record of %s: %w", packID, err)
	}
	return removed, nil
}

// scan reads a row. A row that can't be read (damaged, or written by a later version) becomes a record in state error, whose
// gate is closed: one bad row must not keep all other packs from being read. The next scan of the pack writes the record anew.
func scan(row func(...any) error) (*record.Record, error) {
	var r record.Record
	var requested, request string
	err := row(&r.PackID, &r.Status, &r.Identity, &r.Version, &r.Description, &requested, store.Time(&r.CreatedAt), store.Time(&r.UpdatedAt),
		store.Time(&r.ApprovedAt), &r.Digest, &r.RejectionReason, &r.LastError, &r.Revision, &r.Retired, &r.ParentIdentity, &request)
	if err == nil {
		r.Request = confirm.Decode(request)
		err = json.Unmarshal([]byte(requested), &r.Requested)
	}
	if err == nil && !r.Status.Recorded() {
		err = fmt.Errorf("unknown state %q", r.Status)
	}
	if err == nil {
		return &r, nil
	}
	return unreadable(row, err)
}

// unreadable makes a record of a row that scan could not read, from the columns that can be read. If it isn't certain that the
// pack is not retired, it counts as retired.
func unreadable(row func(...any) error, problem error) (*record.Record, error) {
	var values [16]any
	into := make([]any, len(values))
	for i := range values {
		into[i] = &values[i]
	}
	if err := row(into...); err != nil {
		return nil, err
	}
	revision, ok := values[12].(int64)
	if !ok {
		revision = 1 << 40 // beyond those of its history
	}
	retired, ok := values[13].(int64)
	r := &record.Record{
		PackID: fmt.Sprint(values[0]), Status: pack.StatusError, Revision: revision, Retired: !ok || retired != 0,
		LastError: fmt.Sprintf("its record can't be read (%v): scan, and decide about it anew", problem),
	}
	if created, ok := values[6].(int64); ok {
		r.CreatedAt = time.UnixMicro(created).UTC()
	}
	if r.Retired {
		r.LastError = gate.UninstallIncomplete(r.PackID)
	}
	return r, nil
}

func put(tx *store.Tx, r *record.Record) error {
	requested, err := json.Marshal(r.Requested)
	if err != nil {
		return err
	}
	request, err := r.Request.Encode()
	if err != nil {
		return err
	}
	_, err = tx.Exec(`INSERT INTO records (`+columns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (pack_id) DO UPDATE SET status = excluded.status, identity = excluded.identity, version = excluded.version,
		description = excluded.description, requested = excluded.requested, created_at = excluded.created_at, updated_at = excluded.updated_at, approved_at = excluded.approved_at,
		digest = excluded.digest, rejection_reason = excluded.rejection_reason, last_error = excluded.last_error, revision = excluded.revision,
		retired = excluded.retired, parent_identity = excluded.parent_identity, request = excluded.request`,
		r.PackID, string(r.Status), r.Identity, r.Version, r.Description, string(requested), r.CreatedAt, r.UpdatedAt, r.ApprovedAt,
		r.Digest, r.RejectionReason, r.LastError, r.Revision, r.Retired, r.ParentIdentity, request)
	return err
}
