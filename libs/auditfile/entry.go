package auditfile

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// MaxLine bounds a line, in bytes with its newline. Longer ones are foreign: package audit writes none.
const MaxLine = 64 << 10

// Entry is what a line of the audit log says, without its details. Fields that the line lacks are "".
type Entry struct {
	TS              time.Time `json:"ts"` // never zero
	Category        string    `json:"category"`
	Severity        string    `json:"severity"`
	Action          string    `json:"action"`
	Success         bool      `json:"success"`
	OwnerPack       string    `json:"owner_pack"`
	Phase           string    `json:"phase"`
	Error           string    `json:"error"`
	RejectionReason string    `json:"rejection_reason"`
	RequestID       string    `json:"request_id"`
	TraceID         string    `json:"trace_id"`
	Actor           string    `json:"actor"`
	Service         string    `json:"service"`

	Raw []byte `json:"-"` // the line, without its newline
}

// Parse reads a line without its newline. The entry keeps line, and no other memory of the caller's. It fails for what is no entry: a torn line,
// a foreign one, one without ts, category or action. Members that Entry doesn't have may be anything.
func Parse(line []byte) (Entry, error) {
	e := Entry{Raw: line}
	if !looksWhole(line) {
		return e, errors.New("parse audit entry: the line is no JSON object")
	}
	// A member that stands twice is as it is: its last value counts, as in the programs that read these files.
	if err := json.Unmarshal(line, &e, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)); err != nil {
		return e, fmt.Errorf("parse audit entry: %w", err)
	}
	if e.TS.IsZero() || e.Category == "" || e.Action == "" {
		return e, errors.New("parse audit entry: ts, category or action is missing")
	}
	return e, nil
}

// looksWhole finds the lines that a crash or a full disk has cut short, and empty ones, without parsing them.
func looksWhole(line []byte) bool {
	return len(line) >= 2 && len(line) < MaxLine && bytes.HasPrefix(line, []byte("{")) && bytes.HasSuffix(line, []byte("}"))
}
