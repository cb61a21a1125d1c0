package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/services/egress-proxy/internal/quota"
)

// Usage implements quota.Store.
type Usage struct{ db *store.DB }

// NewUsage makes the store over a database that has Migrations.
func NewUsage(db *store.DB) *Usage { return &Usage{db} }

// AddUsage implements quota.Store.
func (s *Usage) AddUsage(ctx context.Context, usage []quota.Usage, day int64) (totals map[string]int64, err error) {
	read := func(tx *store.Tx) error {
		totals, err = readUsage(tx, day)
		return err
	}
	if len(usage) == 0 { // most seconds: a read takes no lock
		err = s.db.View(ctx, read)
		return totals, err
	}
	// Rows are locked in one order by all replicas: two that lock the same rows in different orders would deadlock.
	slices.SortFunc(usage, func(a, b quota.Usage) int {
		return cmp.Or(cmp.Compare(a.PackID, b.PackID), cmp.Compare(a.Day, b.Day))
	})
	err = s.db.Tx(ctx, func(tx *store.Tx) error {
		if err := upsertUsage(tx, usage); err != nil {
			return err
		}
		return read(tx)
	})
	return totals, err
}

// upsertUsage adds usage to the sums and drops old days. The day before the newest is kept: the clock of another replica may be
// behind.
func upsertUsage(tx *store.Tx, usage []quota.Usage) error {
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
