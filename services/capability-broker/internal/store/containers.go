package store

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/go-json-experiment/json"
	"github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/container"
)

// Containers implements container.Records for one host.
type Containers struct {
	db   *store.DB
	node string

	mu      sync.Mutex
	changes *store.Changes
}

// NewContainers gives the records of the host that goes by the name of node.
func NewContainers(db *store.DB, node string) *Containers {
	return &Containers{db: db, node: node, changes: db.Changes()}
}

// Records implements container.Records.
func (c *Containers) Records(ctx context.Context) (list []container.Record, changed bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.changes.Pending() {
		return nil, false, nil
	}
	err = c.db.View(ctx, func(tx *store.Tx) error {
		list = nil
		return tx.Each(func(scan func(...any) error) error {
			var text string
			if err := scan(&text); err != nil {
				return err
			}
			r, err := decodeRecord(text)
			list = append(list, r)
			return err
		}, `SELECT record FROM capability_containers WHERE node = ? ORDER BY pack_id`, c.node)
	})
	if err != nil {
		c.changes.Again()
	}
	return list, true, err
}

func decodeRecord(text string) (r container.Record, err error) {
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return r, fmt.Errorf("read record of a container: %w", err)
	}
	return r, nil
}

// Record implements container.Records.
func (c *Containers) Record(ctx context.Context, packID string) (container.Record, error) {
	r := container.Record{PackID: packID}
	err := c.db.View(ctx, func(tx *store.Tx) error {
		var text string
		err := tx.QueryRow(`SELECT record FROM capability_containers WHERE node = ? AND pack_id = ?`, c.node, packID).Scan(&text)
		if errors.Is(err, store.ErrNoRows) {
			return nil
		}
		if err == nil {
			r, err = decodeRecord(text)
		}
		return err
	})
	return r, err
}

// PutRecord implements container.Records.
func (c *Containers) PutRecord(ctx context.Context, r container.Record) error {
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write record of a container: %w", err)
	}
	return c.db.Tx(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(`INSERT INTO capability_containers (node, pack_id, record) VALUES (?, ?, ?)
			ON CONFLICT (node, pack_id) DO UPDATE SET record = excluded.record`, c.node, r.PackID, string(text))
		return err
	})
}

// RemoveRecord implements container.Records.
func (c *Containers) RemoveRecord(ctx context.Context, packID string) error {
	return c.db.Tx(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(`DELETE FROM capability_containers WHERE node = ? AND pack_id = ?`, c.node, packID)
		return err
	})
}
