// Package review has the types of what approval shows of a pack before a person decides about it: the answers of GET /api/packs/{pack_id}/review and
// of GET /api/packs/{pack_id}/review/file. Approval's own package review makes them.
package review

import "github.com/go-json-experiment/json/jsontext"

// Review is the whole answer. A person reads it from the top, so what matters most comes first, and long lists come last.
type Review struct {
	Digest         string         `json:"digest"`          // of the pack's folder now; an approval can be bound to it
	ApprovedDigest *string        `json:"approved_digest"` // null before the first approval
	ApprovedLost   bool           `json:"approved_lost"`   // the approved tree is missing from the store, so nothing is compared with it
	Notes          []string       `json:"notes"`           // remarks about the review itself: a missing tree, lists that are cut
	Summary        Summary        `json:"summary"`
	WarningCounts  map[string]int `json:"warning_counts"` // kind → all there are, also those that are not listed
	Warnings       []Warning      `json:"warnings"`
	Descriptor     []Field        `json:"descriptor_changes"`
	Requests       Requests       `json:"requests"`
	NewRequests    Requests       `json:"new_requests"` // requests that the approved version didn't have
	Changed        []Change       `json:"changed"`
	Renamed        []Rename       `json:"renamed"`
	Added          []Addition     `json:"added"`
	Removed        []File         `json:"removed"`
	ModeChanges    []ModeChange   `json:"mode_changes"`
	Truncated      bool           `json:"truncated"` // there are more warnings or diffs than are shown
	Files          []Listed       `json:"files"`     // every file and folder there is now
}

// Summary counts files and folders.
type Summary struct {
	Entries   int   `json:"entries"` // that there are now
	Bytes     int64 `json:"bytes"`
	Added     int   `json:"added"`
	Removed   int   `json:"removed"`
	Changed   int   `json:"changed"` // content or kind
	Renamed   int   `json:"renamed"`
	ModeOnly  int   `json:"mode_only"` // nothing but the mode changed
	Unchanged int   `json:"unchanged"`
}

// File is a file or a folder of one version.
type File struct {
	Path   string `json:"path"`
	Kind   string `json:"kind"` // file or dir
	Mode   string `json:"mode"` // octal, "0644"
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256,omitzero"`
}

// Listed is an entry of the reviewed tree.
type Listed struct {
	File
	Content    Content `json:"content,omitzero"`     // of a file
	Change     string  `json:"change"`               // added, changed, renamed, mode, none
	ModeBefore string  `json:"mode_before,omitzero"` // where it is another
}

// Addition is an entry that the approved version doesn't have.
type Addition struct {
	File
	Content   Content   `json:"content,omitzero"`
	Diff      *string   `json:"diff"` // from nothing
	DiffState DiffState `json:"diff_state"`
}

// Change is an entry that both versions have, with another content or kind.
type Change struct {
	Path      string    `json:"path"`
	Before    File      `json:"before"`
	After     File      `json:"after"`
	Content   Content   `json:"content,omitzero"` // after the change
	Diff      *string   `json:"diff"`             // unified; null where DiffState says so
	DiffState DiffState `json:"diff_state"`
}

// Rename is a file that has another path and the same content.
type Rename struct {
	From   string `json:"from"`
	To     string `json:"to"`
	Before File   `json:"before"`
	After  File   `json:"after"`
}

// ModeChange is a change of mode that entries have in common whose content is the same. Those of Files with it have the change
// "mode".
type ModeChange struct {
	Before string `json:"before"`
	After  string `json:"after"`
	Kind   string `json:"kind"`
	Count  int    `json:"count"`
	First  string `json:"first"` // the path of the first
}

// Warning is something that a reviewer should know of. If Count is more than 1, it is about several findings: all in the folder
// Path, or all in the file Path.
type Warning struct {
	Path   string `json:"path"`
	Kind   string `json:"kind"`
	Detail string `json:"detail"`
	Line   int    `json:"line,omitzero"` // of the first finding in a file, from 1
	Count  int    `json:"count"`         // of findings, or of files under a folder
}

// Field is a member of ecosystem.json that the approved version has otherwise, or not; all of them at a first review. Members of
// objects are fields of their own: "resources.memory_mb".
type Field struct {
	Name   string         `json:"field"`
	Before jsontext.Value `json:"before"` // null for none
	After  jsontext.Value `json:"after"`  // null for none
}

// Requests are the permissions that a pack asks for. An approval grants none of them.
type Requests struct {
	Secrets     []string       `json:"secrets"`
	Domains     []string       `json:"allowed_domains"`
	Ports       []uint16       `json:"allowed_ports"`
	Handlers    []Handler      `json:"handlers"`
	Packages    []string       `json:"packages"`    // the lines of its requirements.lock
	Permissions jsontext.Value `json:"permissions"` // its permissions.json as it is; null for none
	Unread      []string       `json:"unread"`      // files that are too large to say what they ask for, or can't be understood
}

// Handler is a capability handler that the pack ships: trusted code that it wants to have run for packs.
type Handler struct {
	Slug         string `json:"slug"`
	HandlerID    string `json:"handler_id"`
	PermissionID string `json:"permission_id"`
	Risk         string `json:"risk,omitzero"`
	SHA256       string `json:"sha256"` // of its handler.py
}

// Content says how a file can be read.
type Content string

// The contents.
const (
	Text        Content = "text"        // UTF-8 without NUL
	Binary      Content = "binary"      // has NUL
	Undecodable Content = "undecodable" // no NUL, but not UTF-8: another encoding, or compressed data
)

// DiffState says what a diff is, or why there is none.
type DiffState string

// The states. The text of any file can be fetched.
const (
	DiffShown     DiffState = "shown"
	DiffShortened DiffState = "shortened" // of long lines only the part that changed is shown
	DiffSame      DiffState = "same"      // the content is the same, or there is none
	DiffBinary    DiffState = "binary"
	DiffUnread    DiffState = "undecodable"
	DiffTooLarge  DiffState = "too_large" // too much changed to be shown as a diff
	DiffOmitted   DiffState = "omitted"   // all diffs together are larger than a review may be
)

// Excerpt is a part of a file of one tree.
type Excerpt struct {
	PackID string `json:"pack_id"`
	Tree   string `json:"tree"`   // current or approved
	Digest string `json:"digest"` // of that tree
	File
	Content  Content `json:"content"`     // of the whole file
	Encoding string  `json:"encoding"`    // of Data: utf-8 or base64
	Offset   int64   `json:"offset"`      // of Data in the file, in bytes
	Length   int     `json:"length"`      // of Data in the file, in bytes
	Next     *int64  `json:"next_offset"` // of what follows; null at the end
	Data     string  `json:"data"`
}
