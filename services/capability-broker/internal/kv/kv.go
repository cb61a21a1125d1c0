// Package kv keeps JSON values under keys, in stores that packs share. Who may use which store is decided elsewhere.
//
// A store needs no making: it is there as soon as something is in it. What a write answered is on the disk, and writes
// of several replicas count one after the other.
package kv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/rumi-ai/rumi/libs/store"
)

// MaxKeys bounds the keys of a store.
const MaxKeys = 100_000

// overhead is what a key costs the disk beside its name and value, in bytes: a store of empty values is bounded, too.
const overhead = 128

// ErrFull says that a store has no room for what was to be written. Nothing was.
var ErrFull = errors.New("the store is full")

// Place is a key in a store. Both are checked by who makes it.
type Place struct {
	StoreID string
	Key     string
}

// Values are all stores' values. They are safe for concurrent use.
type Values struct {
	db       *store.DB
	maxBytes int64
	writing  chan struct{} // one write at a time: the database would have them try again
}

// New keeps values in a database that has the broker's migrations. A store may hold maxBytes, names and overhead included.
func New(db *store.DB, maxBytes int64) *Values {
	return &Values{db: db, maxBytes: maxBytes, writing: make(chan struct{}, 1)}
}

// Get gives a value; found says whether there is one.
func (v *Values) Get(ctx context.Context, at Place) (value jsontext.Value, found bool, err error) {
	err = v.db.View(ctx, func(tx *store.Tx) (err error) {
		value, found, err = read(tx, at)
		return err
	})
	if err != nil {
		return nil, false, fmt.Errorf("read value: %w", err)
	}
	return value, found, nil
}

// Set writes a value and says whether its key is new.
func (v *Values) Set(ctx context.Context, at Place, value jsontext.Value, by string) (created bool, err error) {
	err = v.write(ctx, func(tx *store.Tx) (err error) {
		created, err = v.put(tx, at, value, by)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("write value: %w", err)
	}
	return created, nil
}

// Swap writes a value if the one that is there is the same as expected, where null is also the same as none. Otherwise
// current is what is there, nil for nothing.
func (v *Values) Swap(ctx context.Context, at Place, expected, value jsontext.Value, by string) (swapped bool, current jsontext.Value, err error) {
	err = v.write(ctx, func(tx *store.Tx) error {
		swapped, current = false, nil
		there, found, err := read(tx, at)
		if err != nil {
			return err
		}
		compared := there
		if !found {
			compared = jsontext.Value("null")
		}
		if !Same(compared, expected) {
			current = there
			return nil
		}
		swapped = true
		_, err = v.put(tx, at, value, by)
		return err
	})
	if err != nil {
		return false, nil, fmt.Errorf("swap value: %w", err)
	}
	return swapped, current, nil
}

// Delete removes a key and says whether it was there.
func (v *Values) Delete(ctx context.Context, at Place) (deleted bool, err error) {
	err = v.write(ctx, func(tx *store.Tx) error {
		size, err := sizeOf(tx, at)
		if deleted = err == nil; !deleted {
			if errors.Is(err, store.ErrNoRows) {
				return nil
			}
			return err
		}
		if _, err := tx.Exec(`DELETE FROM store_values WHERE store_id = ? AND name = ?`, at.StoreID, []byte(at.Key)); err != nil {
			return err
		}
		_, err = tx.Exec(`UPDATE store_usage SET key_count = key_count - 1, byte_count = byte_count - ? WHERE store_id = ?`, size, at.StoreID)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("delete value: %w", err)
	}
	return deleted, nil
}

// Page is a part of a store's keys, in the order of their bytes.
type Page struct {
	Keys  []string
	More  bool  // there are keys behind these
	Total int64 // keys that begin with the prefix, on this page or not
}

// List gives up to limit keys that begin with prefix and come after the key after ("" for the first ones).
func (v *Values) List(ctx context.Context, storeID, prefix, after string, limit int) (Page, error) {
	var page Page
	err := v.db.View(ctx, func(tx *store.Tx) error {
		page = Page{Keys: []string{}}
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
		return Page{}, fmt.Errorf("list keys: %w", err)
	}
	return page, nil
}

// behind is the first name that comes after all that begin with prefix, nil where there is none.
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

// Batch gives the values of those keys that have one, as of one moment. Values are taken in the order of keys, no key
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

// write runs a transaction while no other of this process writes values.
func (v *Values) write(ctx context.Context, fn func(tx *store.Tx) error) error {
	select {
	case v.writing <- struct{}{}:
		defer func() { <-v.writing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	return v.db.Tx(ctx, fn)
}

func read(tx *store.Tx, at Place) (value jsontext.Value, found bool, err error) {
	var text string
	err = tx.QueryRow(`SELECT value FROM store_values WHERE store_id = ? AND name = ?`, at.StoreID, []byte(at.Key)).Scan(&text)
	if errors.Is(err, store.ErrNoRows) {
		return nil, false, nil
	}
	return jsontext.Value(text), err == nil, err
}

func sizeOf(tx *store.Tx, at Place) (size int64, err error) {
	err = tx.QueryRow(`SELECT size FROM store_values WHERE store_id = ? AND name = ?`, at.StoreID, []byte(at.Key)).Scan(&size)
	return size, err
}

// put writes a value and keeps count. What makes a store smaller is written even where it stays too large, as after the
// operator lowered the bound.
func (v *Values) put(tx *store.Tx, at Place, value jsontext.Value, by string) (created bool, err error) {
	before, err := sizeOf(tx, at)
	created = errors.Is(err, store.ErrNoRows)
	if err != nil && !created {
		return false, err
	}
	size, keys := int64(len(at.Key)+len(value)+overhead), 0
	if created {
		keys = 1
	}
	if _, err := tx.Exec(`INSERT INTO store_values (store_id, name, value, size, updated_at, updated_by) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (store_id, name) DO UPDATE SET value = excluded.value, size = excluded.size,
			updated_at = excluded.updated_at, updated_by = excluded.updated_by`,
		at.StoreID, []byte(at.Key), string(value), size, time.Now(), by); err != nil {
		return false, err
	}
	if _, err := tx.Exec(`INSERT INTO store_usage (store_id, key_count, byte_count) VALUES (?, ?, ?)
		ON CONFLICT (store_id) DO UPDATE SET key_count = store_usage.key_count + excluded.key_count,
			byte_count = store_usage.byte_count + excluded.byte_count`, at.StoreID, keys, size-before); err != nil {
		return false, err
	}
	var keyCount, byteCount int64
	if err := tx.QueryRow(`SELECT key_count, byte_count FROM store_usage WHERE store_id = ?`, at.StoreID).Scan(&keyCount, &byteCount); err != nil {
		return false, err
	}
	if keys > 0 && keyCount > MaxKeys || size > before && byteCount > v.maxBytes {
		return false, ErrFull
	}
	return created, nil
}

// Same says whether two JSON values are the same to who reads them: whatever order names are in, and however a string or a
// number with a fraction or an exponent is spelt (1.0 is 1). Integers are compared digit by digit, however long.
func Same(a, b jsontext.Value) bool { return bytes.Equal(plain(a), plain(b)) }

func plain(v jsontext.Value) jsontext.Value {
	v = v.Clone()
	if err := v.Format(jsontext.ReorderRawObjects(true), jsontext.CanonicalizeRawFloats(true), jsontext.AllowDuplicateNames(true)); err != nil {
		return nil // no JSON: it can't have got here
	}
	return v
}
