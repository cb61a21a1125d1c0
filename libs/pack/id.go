// Package pack knows what a pack is: its id, its descriptor ecosystem.json, its status, and in which folders packs lie.
//
// Everything here reads what a stranger wrote. Therefore every size and number is bounded, and no link is followed out of the
// ecosystem folder.
package pack

import (
	"strings"

	"github.com/rumi-ai/rumi/libs/fault"
)

// MaxID is the longest id, in bytes.
const MaxID = 64

// LegacyDir is the folder in the ecosystem folder in which earlier versions of Rumi had all packs. Packs in it are still found,
// with a warning. No pack may have its name.
const LegacyDir = "packs"

// ID names a pack: 1 to 64 of [a-zA-Z0-9_-]. It is safe as the name of a file and in a URL. "parent__child" names a child.
type ID string

// ParseID checks a whole string from outside. The error is a fault: 400 "Invalid pack_id".
func ParseID(s string) (ID, error) {
	if !valid(s) {
		return "", fault.Invalid("Invalid pack_id").With("invalid_pack_id")
	}
	return ID(s), nil
}

func valid(s string) bool {
	if len(s) == 0 || len(s) > MaxID || s == LegacyDir {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}

// Parent is the pack that id is a child of: the part before the last "__" that has something on both sides. ok is false for a
// pack without a parent.
func Parent(id ID) (parent ID, ok bool) {
	if id == "" {
		return "", false
	}
	i := strings.LastIndex(string(id[:len(id)-1]), "__")
	if i <= 0 {
		return "", false
	}
	return id[:i], true
}
