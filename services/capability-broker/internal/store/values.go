package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/kv"
)

// overhead is what a key costs the disk beside its name and value, in bytes: a store of many empty values must count, too.
const overhead = 128

// Values implements builtin.Values: the values of all stores. They are safe for concurrent use. A write that was answered is on the disk, and
// writes of several replicas count one after the other.
type Values struct {
	db       *store.DB
	maxBytes int64
	writing  chan struct{} // holds a token while this process writes: see write
}

// NewValues makes Values of a database that has Migrations. Each store may hold maxBytes, names and overhead included.
func NewValues(db *store.DB, maxBytes int64) *Values {
	return &Values{db: db, maxBytes: maxBytes, writing: make(chan struct{}, 1)}
}

// Get implements builtin.Values.
func (v *Values) Get(ctx context.Context, key kv.Key) (value jsontext.Value, found bool, err error) {
	err = v.db.View(ctx, func(tx *store.Tx) (err error) {
		value, found, err = read(tx, key)
		return err
	})
	if err != nil {
		return nil, false, fmt.Errorf("read value: %w", err)
	}
	return value, found, nil
}

// Set writes a value and says whether its key is new.
func (v *Values) Set(ctx context.Context, key kv.Key, value jsontext.Value, by string) (created bool, err error) {
	err = v.write(ctx, func(tx *store.Tx) (err error) {
		created, err = v.put(tx, key, value, by)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("write value: %w", err)
	}
	return created, nil
}

// Swap writes a value if the one that is there is the same as expected, where null is also the same as none. Otherwise
// current is the present value, nil for none.
func (v *Values) Swap(ctx context.Context, key kv.Key, expected, value jsontext.Value, by string) (swapped bool, current jsontext.Value, err error) {
	err = v.write(ctx, func(tx *store.Tx) error {
		swapped, current = false, nil
		there, found, err := read(tx, key)
		if err != nil {
			return err
		}
		compared := there
		if !found {
			compared = jsontext.Value("null")
		}
		if !kv.Same(compared, expected) {
			current = there
			return nil
		}
		swapped = true
		_, err = v.put(tx, key, value, by)
		return err
	})
	if err != nil {
		return false, nil, fmt.Errorf("swap value: %w", err)
	}
	return swapped, current, nil
}

// Delete removes a key and says whether it was there.
func (v *Values) Delete(ctx context.Context, key kv.Key) (deleted bool, err error) {
	err = v.write(ctx, func(tx *store.Tx) error {
		size, err := sizeOf(tx, key)
		if deleted = err == nil; !deleted {
			if errors.Is(err, store.ErrNoRows) {
				return nil
			}
			return err
		}
		if _, err := tx.Exec(`DELETE FROM store_values WHERE store_id = ? AND name = ?`, key.StoreID, []byte(key.Name)); err != nil {
			return err
		}
		_, err = tx.Exec(`UPDATE store_usage SET key_count = key_count - 1, byte_count = byte_count - ? WHERE store_id = ?`, size, key.StoreID)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("delete value: %w", err)
	}
	return deleted, nil
}

// List returns up to limit keys that begin with prefix and come after the key after ("" for the first ones).
func (v *Values) List(ctx context.Context, storeID, prefix, after string, limit int) (kv.Page, error) {
	var page kv.Page
	err := v.db.View(ctx, func(tx *store.Tx) error {
		page = kv.Page{Keys: []string{}}
		where, args := `store_id = ? AND name >= ?`, []any{storeID, []byte(prefix)}
		if end := behind(prefix); end != nil {
			where, args = where+` AND name < ?`, append(args, end)
		}
		if err := tx.QueryRow(`SELECT COUNT(*) FROM store_values WHERE `+where, args...).Scan(&page.Total); err != nil {
			return err
		}
		return tx.Each(func(scan func(...any) error) error {
			var key []byte
			if err := scan(&key); err != nil {
				return err
			}
			if page.More = len(page.Keys) == limit; !page.More {
				page.Keys = append(page.Keys, string(key))
			}
			return nil
		}, `SELECT name FROM store_values WHERE `+where+` AND name > ? ORDER BY name LIMIT ?`, append(args, []byte(after), limit+1)...)
	})
	if err != nil {
		return kv.Page{}, fmt.Errorf("list keys: %w", err)
	}
	return page, nil
}

// behind is the first name after all that begin with prefix, in the order of bytes; nil where there is none.
func behind(prefix string) []byte {
	end := []byte(prefix)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] < 0xff {
			end[i]++
			return end[:i+1]
		}
	}
	return nil
}

// Batch returns the values of those keys that have one, as of one moment. Values are taken in the order of keys, no key
// being there twice; left are the keys whose values would make them more than budget bytes together.
func (v *Values) Batch(ctx context.Context, storeID string, keys []string, budget int) (found map[string]jsontext.Value, left []string, err error) {
	err = v.db.View(ctx, func(tx *store.Tx) error {
		found, left = make(map[string]jsontext.Value), nil
		sizes := make(map[string]int, len(keys))
		if err := each(tx, `name, OCTET_LENGTH(value)`, storeID, keys, func(scan func(...any) error) error {
			var key []byte
			var size int
			err := scan(&key, &size)
			sizes[string(key)] = size
			return err
		}); err != nil {
			return err
		}
		var fit []string
		for _, key := range keys {
			size, ok := sizes[key]
			switch {
			case !ok:
			case size > budget:
				left = append(left, key)
			default:
				budget -= size
				fit = append(fit, key)
			}
		}
		return each(tx, `name, value`, storeID, fit, func(scan func(...any) error) error {
			var key []byte
			var value string
			err := scan(&key, &value)
			found[string(key)] = jsontext.Value(value)
			return err
		})
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read values: %w", err)
	}
	return found, left, nil
}

func each(tx *store.Tx, columns, storeID string, keys []string, row func(scan func(...any) error) error) error {
	if len(keys) == 0 {
		return nil
	}
	args := []any{storeID}
	for _, key := range keys {
		args = append(args, []byte(key))
	}
	return tx.Each(row, `SELECT `+columns+` FROM store_values WHERE store_id = ? AND name IN (?`+strings.Repeat(`, ?`, len(keys)-1)+`)`, args...)
}

// write runs a transaction while no other of this process writes values. The database would refuse one of two writers and have it try again;
// waiting here costs less, and is fair.
func (v *Values) write(ctx context.Context, fn func(tx *store.Tx) error) error {
	select {
	case v.writing <- struct{}{}:
		defer func() { <-v.writing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	return v.db.Tx(ctx, fn)
}

func read(tx *store.Tx, key kv.Key) (value jsontext.Value, found bool, err error) {
	var text string
	err = tx.QueryRow(`SELECT value FROM store_values WHERE store_id = ? AND name = ?`, key.StoreID, []byte(key.Name)).Scan(&text)
	if errors.Is(err, store.ErrNoRows) {
		return nil, false, nil
	}
	return jsontext.Value(text), err == nil, err
}

func sizeOf(tx *store.Tx, key kv.Key) (size int64, err error) {
	err = tx.QueryRow(`SELECT size FROM store_values WHERE store_id = ? AND name = ?`, key.StoreID, []byte(key.Name)).Scan(&size)
	return size, err
}

// put writes a value and keeps count of the store's keys and bytes. A write that makes a store smaller is allowed even where the store stays
// too large, as after the operator has lowered the bound: otherwise nobody could make room.
func (v *Values) put(tx *store.Tx, key kv.Key, value jsontext.Value, by string) (created bool, err error) {
	before, err := sizeOf(tx, key)
	created = errors.Is(err, store.ErrNoRows)
	if err != nil && !created {
		return false, err
	}
	size, keys := int64(len(key.Name)+len(value)+overhead), 0
	if created {
		keys = 1
	}
	if _, err := tx.Exec(`INSERT INTO store_values (store_id, name, value, size, updated_at, updated_by) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (store_id, name) DO UPDATE SET value = excluded.value, size = excluded.size,
			updated_at = excluded.updated_at, updated_by = excluded.updated_by`,
		key.StoreID, []byte(key.Name), string(value), size, time.Now(), by); err != nil {
		return false, err
	}
	if _, err := tx.Exec(`INSERT INTO store_usage (store_id, key_count, byte_count) VALUES (?, ?, ?)
		ON CONFLICT (store_id) DO UPDATE SET key_count = store_usage.key_count + excluded.key_count,
			byte_count = store_usage.byte_count + excluded.byte_count`, key.StoreID, keys, size-before); err != nil {
		return false, err
	}
	var keyCount, byteCount int64
	if err := tx.QueryRow(`SELECT key_count, byte_count FROM store_usage WHERE store_id = ?`, key.StoreID).Scan(&keyCount, &byteCount); err != nil {
		return false, err
	}
	if keys > 0 && keyCount > kv.MaxKeys || size > before && byteCount > v.maxBytes {
		return false, kv.ErrFull
	}
	return created, nil
}
