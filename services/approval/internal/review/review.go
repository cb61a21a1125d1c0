// Package review shows a person what a decision about a pack would be about: what it asks for, what changed since the
// last approval, and what deserves a second look.
package review

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/aymanbagabas/go-udiff"

	"github.com/rumi-ai/rumi/libs/tree"
)

// Bounds of a review, so that a pack can't bury its reader or exhaust us. Sizes are in bytes.
const (
	maxDiffFile = 256 << 10 // of each side of a diff
	maxDiffs    = 2 << 20   // of all diffs together
	maxLook     = 4 << 20   // of a file that is searched for odd characters
	maxWarnings = 500
)

// Review is the whole picture.
type Review struct {
	Digest         string    `json:"digest"`          // of what lies there now; approve takes it
	ApprovedDigest *string   `json:"approved_digest"` // null before the first approval
	Requests       Requests  `json:"requests"`
	NewRequests    Requests  `json:"new_requests"` // those that the approved version didn't have
	Added          []File    `json:"added"`
	Removed        []File    `json:"removed"`
	Changed        []Change  `json:"changed"`
	Warnings       []Warning `json:"warnings"`
	Truncated      bool      `json:"truncated"` // there are more warnings or diffs than are shown
}

// File is a file or a folder of one version.
type File struct {
	Path   string `json:"path"`
	Kind   string `json:"kind"` // file or dir
	Mode   string `json:"mode"` // octal, "0644"
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256,omitzero"`
}

// Change is an entry that both versions have, differently.
type Change struct {
	Path   string  `json:"path"`
	Before File    `json:"before"`
	After  File    `json:"after"`
	Diff   *string `json:"diff"` // unified; null for what is no text or too large
}

// Open opens the content of a file by its SHA-256.
type Open func(sha256 string) (io.ReadCloser, error)

// Of reviews the tree now against the one that was approved, nil for none. open serves the contents of both.
func Of(now tree.Manifest, approved *tree.Manifest, open Open) (*Review, error) {
	r := &Review{Digest: now.Digest(), Added: []File{}, Removed: []File{}, Changed: []Change{}, Warnings: []Warning{}}
	before := map[string]tree.Entry{}
	if approved != nil {
		digest := approved.Digest()
		r.ApprovedDigest = &digest
		for _, e := range approved.Entries {
			before[e.Path] = e
		}
		old, err := requestsOf(*approved, open)
		if err != nil {
			return nil, err
		}
		if r.Requests, err = requestsOf(now, open); err != nil {
			return nil, err
		}
		r.NewRequests = r.Requests.without(old)
	} else {
		var err error
		if r.Requests, err = requestsOf(now, open); err != nil {
			return nil, err
		}
		r.NewRequests = r.Requests
	}
	if err := r.compare(now, before, open); err != nil {
		return nil, err
	}
	return r, r.warn(now, open)
}

func (r *Review) compare(now tree.Manifest, before map[string]tree.Entry, open Open) error {
	first := len(before) == 0
	room := maxDiffs
	for _, e := range now.Entries {
		old, ok := before[e.Path]
		delete(before, e.Path)
		switch {
		case !ok && !first:
			r.Added = append(r.Added, describe(e))
		case ok && old != e:
			change := Change{Path: e.Path, Before: describe(old), After: describe(e)}
			diff, err := diffOf(old, e, open)
			if err != nil {
				return err
			}
			if len(diff) > room {
				r.Truncated = true
			} else if diff != "" {
				room -= len(diff)
				change.Diff = &diff
			}
			r.Changed = append(r.Changed, change)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(before)) {
		r.Removed = append(r.Removed, describe(before[path]))
	}
	return nil
}

// diffOf is "" where a diff says nothing: no text, too large, or nothing but the mode changed.
func diffOf(old, now tree.Entry, open Open) (string, error) {
	if old.Kind != tree.File || now.Kind != tree.File || old.SHA256 == now.SHA256 || max(old.Size, now.Size) > maxDiffFile {
		return "", nil
	}
	a, err := read(old, open)
	if err != nil {
		return "", err
	}
	b, err := read(now, open)
	if err != nil {
		return "", err
	}
	if !isText(a) || !isText(b) {
		return "", nil
	}
	return udiff.Unified(shown("approved/"+old.Path), shown("now/"+now.Path), string(a), string(b)), nil
}

// shown is a path in the head of a diff, quoted where it could pass for something else.
func shown(path string) string {
	if len(odd(path, "")) > 0 {
		return strconv.Quote(path)
	}
	return path
}

func describe(e tree.Entry) File {
	return File{Path: e.Path, Kind: string(e.Kind), Mode: fmt.Sprintf("%04o", e.Mode), Size: e.Size, SHA256: e.SHA256}
}

func read(e tree.Entry, open Open) ([]byte, error) {
	f, err := open(e.SHA256)
	if err != nil {
		return nil, fmt.Errorf("review %q: %w", e.Path, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, e.Size))
	if err != nil {
		return nil, fmt.Errorf("review %q: %w", e.Path, err)
	}
	return data, nil
}

// isText says whether a person could read data: UTF-8 without NUL.
func isText(data []byte) bool {
	return utf8.Valid(data) && !slices.Contains(data, 0)
}
