// Package kv has what store.* is about: JSON values under keys, in stores that packs share. Which pack may use which store is decided by
// package builtin; the values are in the database (internal/store).
//
// A store isn't made by anybody: it is there as soon as a value is in it.
package kv

import (
	"bytes"
	"errors"

	"github.com/go-json-experiment/json/jsontext"
)

// MaxKeys bounds the keys of a store.
const MaxKeys = 100_000

// ErrFull says that a store has no room for what was to be written. Nothing was.
var ErrFull = errors.New("the store is full")

// Key names a value: a store and a name in it. Whoever makes a Key has checked both.
type Key struct {
	StoreID string
	Name    string
}

// Page is a part of a store's names, in the order of their bytes.
type Page struct {
	Keys  []string
	More  bool  // there are names after these
	Total int64 // names that begin with the prefix that was asked for, on this page or not
}

// Same says whether two JSON values are the same to a program that reads them: whatever order names are in, and however a string or a
// number with a fraction or an exponent is spelt (1.0 is 1). Integers are compared digit by digit, however long.
func Same(a, b jsontext.Value) bool { return bytes.Equal(plain(a), plain(b)) }

func plain(v jsontext.Value) jsontext.Value {
	v = v.Clone()
	if err := v.Format(jsontext.ReorderRawObjects(true), jsontext.CanonicalizeRawFloats(true), jsontext.AllowDuplicateNames(true)); err != nil {
		return nil // no JSON, which no value in a store is
	}
	return v
}
