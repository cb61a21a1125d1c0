// Package audit writes the audit log that contract.md describes: one JSON object a line, one file a category and day.
//
// Several processes append to the same files. Each line is one write(2) to a file opened with O_APPEND, so lines never
// mix. Entries of approval, permission and security are on the disk (fdatasync) before Write returns; the others are
// with the kernel, so that only a crash of the whole machine can lose them.
package audit

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/rumi-ai/rumi/libs/origin"
	"go.opentelemetry.io/otel/trace"
)

// Category is which file an entry goes to. The zero value is none, and Write refuses it.
type Category uint8

// The categories of contract.md.
const (
	FlowExecution Category = iota + 1
	ModifierApplication
	PythonFileCall
	Approval
	Permission
	Network
	Security
	System
)

var categories = [...]struct {
	name   string
	synced bool // on the disk before Write returns
}{
	FlowExecution:       {"flow_execution", false},
	ModifierApplication: {"modifier_application", false},
	PythonFileCall:      {"python_file_call", false},
	Approval:            {"approval", true},
	Permission:          {"permission", true},
	Network:             {"network", false},
	Security:            {"security", true},
	System:              {"system", false},
}

// String is the category's name in the entry and in the file's name; "" for a value that is no category.
func (c Category) String() string {
	if int(c) >= len(categories) {
		return ""
	}
	return categories[c].name
}

// Severity is how much an entry matters.
type Severity uint8

// The severities of contract.md; Info is the zero value.
const (
	Info Severity = iota
	Warning
	Error
	Critical
)

var severities = [...]string{Info: "info", Warning: "warning", Error: "error", Critical: "critical"}

// String is the severity's name in the entry; an unknown value is "critical", so that nobody overlooks it.
func (s Severity) String() string {
	if int(s) >= len(severities) {
		return severities[Critical]
	}
	return severities[s]
}

// Entry is what the caller knows about a decision. Log.Write adds when, who, in which request and in which service.
// No secret value, token or raw argument may be in any of its fields.
type Entry struct {
	Category        Category
	Severity        Severity
	Action          string // stable name, such as "pack_approved"; must not be empty
	Success         bool
	OwnerPack       string // the pack it is about, "" for none
	Details         map[string]any
	Error           string // what failed
	RejectionReason string // why it was denied
}

// Log appends entries to the files in one folder. It is safe for concurrent use.
type Log struct {
	dir     string
	service string
	log     *slog.Logger
	streams [len(categories)]stream
}

// Open prepares the log in dir, which is made (0750) when it is missing. service goes into every entry. Files are
// opened when the first entry of their category and day is written.
func Open(dir, service string, log *slog.Logger) (*Log, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	return &Log{dir: dir, service: service, log: log}, nil
}

// Write appends e. The caller must not let what it decided happen when Write fails. A cancelled ctx does not stop it:
// what was decided is written.
func (l *Log) Write(ctx context.Context, e Entry) error {
	if err := l.write(ctx, e); err != nil {
		err = fmt.Errorf("write audit entry: %w", err)
		l.log.ErrorContext(ctx, "write audit entry failed", "category", e.Category.String(), "action", e.Action, "error", err)
		return err
	}
	return nil
}

func (l *Log) write(ctx context.Context, e Entry) error {
	if e.Category.String() == "" {
		return fmt.Errorf("no such category: %d", e.Category)
	}
	if e.Action == "" {
		return fmt.Errorf("no action in an entry of %s", e.Category)
	}
	from := origin.Of(ctx)
	rest := line{
		Category: e.Category.String(), Severity: e.Severity.String(), Action: e.Action, Success: e.Success,
		OwnerPack: e.OwnerPack, Details: e.Details, Error: e.Error, RejectionReason: e.RejectionReason,
		RequestID: from.RequestID, Actor: from.Actor, Service: l.service,
	}
	if span := trace.SpanContextFromContext(ctx); span.HasTraceID() {
		rest.TraceID = span.TraceID().String()
	}
	body, err := rest.encode()
	if err != nil {
		return err
	}
	return l.streams[e.Category].append(body, func(day string) string {
		return filepath.Join(l.dir, e.Category.String()+"_"+day+".jsonl")
	}, categories[e.Category].synced)
}

// Close syncs and closes the files. The Log must not be written to any more.
func (l *Log) Close() error {
	var first error
	for i := range l.streams {
		if err := l.streams[i].close(); err != nil && first == nil {
			first = fmt.Errorf("close audit log: %w", err)
		}
	}
	return first
}

// stream is one category: the file of the current day, and the clock that says which day it is. Time is read under
// its lock, so that a file's lines are in the order of their ts (as far as one process writes them).
type stream struct {
	mu   sync.Mutex
	file *file
	buf  []byte
}

// append writes one line, whose body lacks only the leading `{"ts":"…",`, and waits for the disk when synced.
func (s *stream) append(body []byte, name func(day string) string, synced bool) error {
	s.mu.Lock()
	now := time.Now().UTC()
	day := now.Format(time.DateOnly)
	if s.file == nil || s.file.day != day || s.file.gone() {
		f, err := openFile(name(day), day)
		if err != nil {
			s.mu.Unlock()
			return err
		}
		if s.file != nil {
			s.file.retire()
		}
		s.file = f
	}
	f := s.file
	s.buf = append(s.buf[:0], `{"ts":"`...)
	s.buf = now.AppendFormat(s.buf, "2006-01-02T15:04:05.000000Z")
	s.buf = append(s.buf, `",`...)
	s.buf = append(append(s.buf, body[1:]...), '\n')
	ticket, err := f.write(s.buf)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if !synced {
		f.release()
		return nil
	}
	return f.sync(ticket)
}

func (s *stream) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		return nil
	}
	f := s.file
	s.file = nil
	err := f.flush()
	f.retire()
	return err
}
