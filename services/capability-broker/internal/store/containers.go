package store

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/go-json-experiment/json"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/container"
)

// Containers implements container.Records: the records of the containers of one host. Other hosts that share the database have their own.
type Containers struct {
	db   *store.DB
	node string

	mu      sync.Mutex
	changes *store.Changes
}

// NewContainers makes Containers of the host that replica.Node has named.
func NewContainers(db *store.DB, node string) *Containers {
	return &Containers{db: db, node: node, changes: db.Changes()}
}

// Claim assigns to this host the records of all other hosts. It is for SQLite: a database in a file is used by one host only, so records of
// another host are this one's, from before the Rumi home was moved here without the file that has the host's name.
func (c *Containers) Claim(ctx context.Context) error {
	return c.db.Tx(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(`UPDATE capability_containers SET node = ? WHERE node <> ?
			AND pack_id NOT IN (SELECT pack_id FROM capability_containers WHERE node = ?)`, c.node, c.node, c.node)
		return err
	})
}

// Records implements container.Records.
func (c *Containers) Records(ctx context.Context) (list []container.Record, changed bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.changes.Pending() {
		return nil, false, nil
	}
	var unread []error
	err = c.db.View(ctx, func(tx *store.Tx) error {
		list, unread = nil, nil
		return tx.Each(func(scan func(...any) error) error {
			var id, text string
			if err := scan(&id, &text); err != nil {
				return err
			}
			if r, err := decodeRecord(id, text); err != nil {
				unread = append(unread, err)
			} else {
				list = append(list, r)
			}
			return nil
		}, `SELECT pack_id, record FROM capability_containers WHERE node = ? ORDER BY pack_id`, c.node)
	})
	if err != nil {
		c.changes.Recheck()
		return nil, false, err
	}
	return list, true, errors.Join(unread...)
}

// decodeRecord reads a record. One that can't be read is that pack's trouble alone.
func decodeRecord(packID, text string) (r container.Record, err error) {
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return container.Record{PackID: packID}, fault.Conflict("What is recorded of the container of pack '%s' can't be read. Run: DELETE /api/containers/%s", packID, packID).
			With("record_unreadable").Because(err)
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
			r, err = decodeRecord(packID, text)
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
