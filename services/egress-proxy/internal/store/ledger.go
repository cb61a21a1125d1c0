package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/ledger"
)

// rowsAtOnce are written by one statement, to save a database that is elsewhere the trips.
const rowsAtOnce = 100

// Ledger implements ledger.Store.
type Ledger struct{ db *store.DB }

// NewLedger makes the store over a database that has Migrations.
func NewLedger(db *store.DB) *Ledger { return &Ledger{db} }

// Record implements ledger.Store.
func (s *Ledger) Record(ctx context.Context, denials []ledger.Denial, usage []ledger.Usage, day int64) (totals map[string]int64, err error) {
	read := func(tx *store.Tx) error {
		totals, err = readUsage(tx, day)
		return err
	}
	if len(denials) == 0 && len(usage) == 0 {
		err = s.db.View(ctx, read)
		return totals, err
	}
	// In one order, so that replicas wait for each other rather than deadlock.
	slices.SortFunc(denials, func(a, b ledger.Denial) int {
		return cmp.Or(cmp.Compare(a.PackID, b.PackID), cmp.Compare(a.Host, b.Host), cmp.Compare(a.Port, b.Port),
			cmp.Compare(a.Method, b.Method), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Path, b.Path))
	})
	slices.SortFunc(usage, func(a, b ledger.Usage) int {
		return cmp.Or(cmp.Compare(a.PackID, b.PackID), cmp.Compare(a.Day, b.Day))
	})
	err = s.db.Tx(ctx, func(tx *store.Tx) error {
		if err := addDenials(tx, denials); err != nil {
			return err
		}
		if err := addUsage(tx, usage); err != nil {
			return err
		}
		return read(tx)
	})
	return totals, err
}

func addDenials(tx *store.Tx, denials []ledger.Denial) error {
	for rows := range slices.Chunk(denials, rowsAtOnce) {
		args := make([]any, 0, len(rows)*9)
		for _, d := range rows {
			args = append(args, d.PackID, d.Host, int(d.Port), d.Method, d.Reason, d.Path, d.Count, d.FirstSeen, d.LastSeen)
		}
		_, err := tx.Exec(`INSERT INTO network_denials (pack_id, host, port, method, reason, path, count, first_seen, last_seen)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`+strings.Repeat(", (?, ?, ?, ?, ?, ?, ?, ?, ?)", len(rows)-1)+`
			ON CONFLICT (pack_id, host, port, method, reason, path) DO UPDATE SET
				count = network_denials.count + excluded.count,
				first_seen = CASE WHEN excluded.first_seen < network_denials.first_seen THEN excluded.first_seen ELSE network_denials.first_seen END,
				last_seen = CASE WHEN excluded.last_seen > network_denials.last_seen THEN excluded.last_seen ELSE network_denials.last_seen END`, args...)
		if err != nil {
			return fmt.Errorf("add denials: %w", err)
		}
	}
	last := ""
	for _, d := range denials {
		if d.PackID == last {
			continue
		}
		last = d.PackID
		_, err := tx.Exec(`DELETE FROM network_denials WHERE pack_id = ? AND (host, port, method, reason, path) IN (
			SELECT host, port, method, reason, path FROM network_denials WHERE pack_id = ?
			ORDER BY last_seen DESC, host, port, method, reason, path LIMIT 1000000000 OFFSET ?)`, last, last, ledger.MaxDenials)
		if err != nil {
			return fmt.Errorf("drop old denials: %w", err)
		}
	}
	return nil
}

// addUsage keeps the day before, too: a replica's clock may be behind.
func addUsage(tx *store.Tx, usage []ledger.Usage) error {
	newest := int64(0)
	for _, u := range usage {
		newest = max(newest, u.Day)
		_, err := tx.Exec(`INSERT INTO network_usage (pack_id, day, bytes) VALUES (?, ?, ?)
			ON CONFLICT (pack_id, day) DO UPDATE SET bytes = network_usage.bytes + excluded.bytes`, u.PackID, u.Day, u.Bytes)
		if err != nil {
			return fmt.Errorf("add bytes sent: %w", err)
		}
	}
	if _, err := tx.Exec("DELETE FROM network_usage WHERE day < ?", newest-1); err != nil {
		return fmt.Errorf("drop bytes sent on old days: %w", err)
	}
	return nil
}

func readUsage(tx *store.Tx, day int64) (map[string]int64, error) {
	totals := make(map[string]int64)
	err := tx.Each(func(scan func(...any) error) error {
		var packID string
		var bytes int64
		if err := scan(&packID, &bytes); err != nil {
			return err
		}
		totals[packID] = bytes
		return nil
	}, "SELECT pack_id, bytes FROM network_usage WHERE day = ?", day)
	if err != nil {
		return nil, fmt.Errorf("read bytes sent: %w", err)
	}
	return totals, nil
}

// Denials implements ledger.Store.
func (s *Ledger) Denials(ctx context.Context, packID string) (denials []ledger.Denial, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		denials = nil
		return tx.Each(func(scan func(...any) error) error {
			var d ledger.Denial
			err := scan(&d.PackID, &d.Host, &d.Port, &d.Method, &d.Reason, &d.Path, &d.Count, store.Time(&d.FirstSeen), store.Time(&d.LastSeen))
			denials = append(denials, d)
			return err
		}, `SELECT pack_id, host, port, method, reason, path, count, first_seen, last_seen FROM network_denials
			WHERE pack_id = ? OR ? = '' ORDER BY last_seen DESC, pack_id, host, port, method, reason, path`, packID, packID)
	})
	if err != nil {
		return nil, fmt.Errorf("read denials: %w", err)
	}
	return denials, nil
}

// Forget implements ledger.Store.
func (s *Ledger) Forget(ctx context.Context, packID string) error {
	return s.db.Tx(ctx, func(tx *store.Tx) error {
		if _, err := tx.Exec("DELETE FROM network_denials WHERE pack_id = ?", packID); err != nil {
			return fmt.Errorf("delete denials: %w", err)
		}
		return nil
	})
}
