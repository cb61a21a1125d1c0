package auditfile

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
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
	// A member that stands twice is as it is: its last value counts, as in the programs that read these files.
	return parse(line, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
}

// ParseOf is Parse for a line of the file of a category and day, and for answers that strict parsers read: it also fails for an entry of another
// category or day, for a member that stands twice and for invalid UTF-8. Package audit writes none of these. So the order of days is the order of
// times, and no line of one file can claim to be of another.
func ParseOf(id ID, line []byte) (Entry, error) {
	e, err := parse(line)
	if err == nil && (e.Category != id.Category.String() || DayOf(e.TS) != id.Day) {
		err = errors.New("parse audit entry: it is of another category or day than its file")
	}
	return e, err
}

func parse(line []byte, options ...json.Options) (Entry, error) {
	e := Entry{Raw: line}
	if !looksWhole(line) {
		return e, errors.New("parse audit entry: the line is no JSON object")
	}
	if err := json.Unmarshal(line, &e, options...); err != nil {
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

// Searchable are the pieces of the line in which Filter.Text is looked for: all but the values of ts, request_id and trace_id. These are random, so
// every short text would be found in one of them sooner or later; and they have filters of their own.
func (e *Entry) Searchable() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		rest := e.Raw
		if begin := []byte(`{"ts":"`); bytes.HasPrefix(rest, begin) {
			rest = rest[len(begin):]
			rest = rest[max(0, bytes.IndexByte(rest, '"')):]
		}
		for _, m := range []struct{ name, value string }{{`,"request_id":"`, e.RequestID}, {`,"trace_id":"`, e.TraceID}} {
			at := bytes.LastIndex(rest, []byte(m.name)) + len(m.name)
			if m.value == "" || at < len(m.name) || !bytes.HasPrefix(rest[at:], []byte(m.value)) {
				continue // it is written in another way than package audit does; so it is looked through, too
			}
			if !yield(rest[:at]) {
				return
			}
			rest = rest[at+len(m.value):]
		}
		yield(rest)
	}
}
