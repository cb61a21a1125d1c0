package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/denials"
)

// rowsAtOnce is how many rows one statement writes. One row a statement would be a network round trip a row.
const rowsAtOnce = 100

// Denials implements denials.Store.
type Denials struct{ db *store.DB }

// NewDenials makes the store over a database that has Migrations.
func NewDenials(db *store.DB) *Denials { return &Denials{db} }

// AddDenials implements denials.Store.
func (s *Denials) AddDenials(ctx context.Context, list []denials.Denial) error {
	// Rows are locked in one order by all replicas: two that lock the same rows in different orders would deadlock.
	slices.SortFunc(list, func(a, b denials.Denial) int {
		return cmp.Or(cmp.Compare(a.PackID, b.PackID), cmp.Compare(a.Host, b.Host), cmp.Compare(a.Port, b.Port),
			cmp.Compare(a.Method, b.Method), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Path, b.Path))
	})
	return s.db.Tx(ctx, func(tx *store.Tx) error {
		if err := upsertDenials(tx, list); err != nil {
			return err
		}
		return dropOldDenials(tx, list)
	})
}

func upsertDenials(tx *store.Tx, list []denials.Denial) error {
	for rows := range slices.Chunk(list, rowsAtOnce) {
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
	return nil
}

// dropOldDenials keeps the MaxDenials most recent of each pack in the list, which is sorted by pack.
func dropOldDenials(tx *store.Tx, list []denials.Denial) error {
	last := ""
	for _, d := range list {
		if d.PackID == last {
			continue
		}
		last = d.PackID
		_, err := tx.Exec(`DELETE FROM network_denials WHERE pack_id = ? AND (host, port, method, reason, path) IN (
			SELECT host, port, method, reason, path FROM network_denials WHERE pack_id = ?
			ORDER BY last_seen DESC, host, port, method, reason, path LIMIT 1000000000 OFFSET ?)`, last, last, denials.MaxDenials)
		if err != nil {
			return fmt.Errorf("drop old denials: %w", err)
		}
	}
	return nil
}

// Denials implements denials.Store.
func (s *Denials) Denials(ctx context.Context, packID string) (list []denials.Denial, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		list = nil // the transaction may run again
		return tx.Each(func(scan func(...any) error) error {
			var d denials.Denial
			err := scan(&d.PackID, &d.Host, &d.Port, &d.Method, &d.Reason, &d.Path, &d.Count, store.Time(&d.FirstSeen), store.Time(&d.LastSeen))
			list = append(list, d)
			return err
		}, `SELECT pack_id, host, port, method, reason, path, count, first_seen, last_seen FROM network_denials
			WHERE pack_id = ? OR ? = '' ORDER BY last_seen DESC, pack_id, host, port, method, reason, path`, packID, packID)
	})
	if err != nil {
		return nil, fmt.Errorf("read denials: %w", err)
	}
	return list, nil
}

// ForgetDenials implements denials.Store.
func (s *Denials) ForgetDenials(ctx context.Context, packID string) error {
	return s.db.Tx(ctx, func(tx *store.Tx) error {
		if _, err := tx.Exec("DELETE FROM network_denials WHERE pack_id = ?", packID); err != nil {
			return fmt.Errorf("delete denials: %w", err)
		}
		return nil
	})
}
