package auditlog

import (
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/libs/audit"
)

// Bounds.
const (
	maxBatch  = 1 << 16  // lines of one Sealed: a proof has to read the hashes of all of them
	maxRecord = 64 << 10 // bytes of a record, and so of a line of records.jsonl
	maxSealed = 128      // members of Record.Sealed, each at most 300 bytes
	maxFound  = 64       // members of Record.Found
)

// Record is one leaf of the log: a sealing. Its bytes, a line of records.jsonl without the newline, are what the tree hashes.
type Record struct {
	Number uint64    `json:"n"`      // of the record, from 0
	At     time.Time `json:"at"`     // UTC; when it was sealed
	Before root      `json:"before"` // the hash of the record before it, so that a changed record is named; of nothing for the first
	Sealed []Sealed  `json:"sealed,omitzero"`
	Found  []Found   `json:"found,omitzero"`

	Removed []Retired `json:"removed,omitzero"`
}

// Sealed is a number of lines, one after the other, of one file.
type Sealed struct {
	File  string `json:"file"`  // its name when it was sealed: "security_2026-01-31.jsonl"
	Part  int    `json:"part"`  // from 1. A file that was put in the place of another begins a new part
	First uint64 `json:"first"` // the number of the first line, from 1
	Lines uint64 `json:"lines"` // at least 1, at most maxBatch
	Bytes int64  `json:"bytes"` // of the file, up to the end of the last line
	Inode uint64 `json:"inode"`
	Root  root   `json:"root"` // of the tree of these lines
}

// last is the number of the last line.
func (s Sealed) last() uint64 { return s.First + s.Lines - 1 }

// Found is a change of sealed lines that the sealer noticed while it ran.
type Found struct {
	File string `json:"file"`
	Part int    `json:"part"`
	Kind Kind   `json:"kind"`
	Line uint64 `json:"line,omitzero"` // the first one that is concerned; 0 if all are
}

// Retired is a file that the sealer removes, because its day is older than what is kept. It is written before that.
type Retired struct {
	File string `json:"file"` // as it was called when it was sealed
	Part int    `json:"part"` // the last one of the parts that are removed
}

// root is a hash that is written in base64.
type root hash

// MarshalText writes 44 characters.
func (r root) MarshalText() ([]byte, error) {
	return base64.StdEncoding.AppendEncode(nil, r[:]), nil
}

// UnmarshalText reads 44 characters, and no other spelling of the same hash.
func (r *root) UnmarshalText(text []byte) error {
	data, err := base64.StdEncoding.Strict().DecodeString(string(text))
	if err != nil || len(data) != hashSize {
		return errors.New("no hash in base64")
	}
	*r = root(data)
	return nil
}

// fileName is the form of the names of audit files, also of categories that this version doesn't know.
var fileName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}_([0-9]{4}-[0-9]{2}-[0-9]{2})\.jsonl$`)

// isAuditFile says whether services write to files of this name. What else lies in the folder, such as files that were rotated away, isn't
// followed.
func isAuditFile(name string) bool {
	if !fileName.MatchString(name) {
		return false
	}
	category := name[:len(name)-len("_2026-01-31.jsonl")]
	for c := audit.FlowExecution; c.String() != ""; c++ {
		if c.String() == category {
			return true
		}
	}
	return false
}

// firstDay is a day before the first audit log was written.
const firstDay = "2025-01-01"

// followed says whether a file may be one to be sealed. Whoever may write to the folder can make files of any day: only those of days that can
// be are opened, so that the descriptors suffice for them.
func followed(name string, now time.Time) bool {
	return isAuditFile(name) && dayOf(name) >= firstDay && dayOf(name) <= lastYoung(now)
}

// dayOf is the day in a file's name, "2026-01-31".
func dayOf(name string) string {
	stem := strings.TrimSuffix(name, ".jsonl")
	return stem[max(0, len(stem)-len(time.DateOnly)):]
}

// parseRecord reads a line of records.jsonl and checks what can be checked of it alone.
func parseRecord(line []byte) (Record, error) {
	var r Record
	if err := json.Unmarshal(line, &r, json.RejectUnknownMembers(true)); err != nil {
		return Record{}, fmt.Errorf("it can't be read: %w", err)
	}
	for _, s := range r.Sealed {
		switch {
		case !fileName.MatchString(s.File):
			return Record{}, fmt.Errorf("it names the file %q, which is no name of an audit file", s.File)
		case s.Part < 1 || s.First < 1 || s.First > 1<<48 || s.Lines < 1 || s.Lines > maxBatch || s.Bytes < 1:
			return Record{}, fmt.Errorf("its numbers for %s are impossible", s.File)
		}
	}
	for _, f := range r.Removed {
		if !namesPart(f.File, f.Part) {
			return Record{}, fmt.Errorf("what it removed names the file %q, which is no name of an audit file", f.File)
		}
	}
	for _, f := range r.Found {
		if !namesPart(f.File, f.Part) {
			return Record{}, fmt.Errorf("what it found names the file %q, which is no name of an audit file", f.File)
		}
	}
	return r, nil
}

// namesPart says whether there can be such a part of such a file.
func namesPart(file string, number int) bool { return number >= 1 && fileName.MatchString(file) }

// part is a file as it was sealed: its name, and which of the files that had this name one after the other.
type part struct {
	file string
	part int
}

// String is the name, and the number where there is more than one.
func (p part) String() string {
	if p.part > 1 {
		return fmt.Sprintf("%s (part %d)", p.file, p.part)
	}
	return p.file
}

// hashesName is the file with the hashes of its lines, in the folder hashes.
func (p part) hashesName() string { return fmt.Sprintf("%s.%d", p.file, p.part) }

// extent is how much of a part is sealed.
type extent struct {
	lines uint64
	bytes int64
	inode uint64
	at    time.Time // of the last record about it
}

// extents is how much of each part is sealed.
type extents map[part]extent

// add continues the parts by a record's lines. It fails if there is a gap.
func (e extents) add(r Record) error {
	for _, s := range r.Sealed {
		p := part{s.File, s.Part}
		before := e[p]
		if s.First != before.lines+1 || s.Bytes < before.bytes {
			return fmt.Errorf("it continues %s at line %d, want line %d", p, s.First, before.lines+1)
		}
		if _, known := e[part{s.File, s.Part - 1}]; s.Part > 1 && !known {
			return fmt.Errorf("it names %s, and there is no part %d", p, s.Part-1)
		}
		e[p] = extent{s.last(), s.Bytes, s.Inode, r.At}
	}
	return nil
}
