// Package audit writes the audit log that contract.md describes: one JSON object a line, one file a category and day.
//
// Several processes append to the same files. Lines are written whole, one or several by one write(2) to a file opened
// with O_APPEND, so they never mix. Entries of approval, permission and security are on the disk (fdatasync) before
// Write returns; the others are with the kernel, so that only a crash of the whole machine can lose them.
package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/origin"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sys/unix"
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

// Categories are all of them, in the order of their values.
func Categories() []Category {
	var all []Category
	for c := FlowExecution; int(c) < len(categories); c++ {
		all = append(all, c)
	}
	return all
}

// ParseCategory is the inverse of String; ok is false for a name of no category.
func ParseCategory(name string) (c Category, ok bool) {
	for _, c := range Categories() {
		if c.String() == name {
			return c, true
		}
	}
	return 0, false
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

// Entry describes a decision, as far as the caller knows it. Log.Write adds when, who, in which request and in which service.
// No secret value, token or raw argument may be in any of its fields.
type Entry struct {
	Category        Category
	Severity        Severity
	Action          string // stable name, such as "pack_approved"; must not be empty
	Success         bool
	OwnerPack       string // the pack it is about, "" for none
	Phase           string // begin, progress or end of a request that leaves several entries with one request_id; "" where it leaves one
	Details         map[string]any
	Attrs           []slog.Attr // more details, in order, no name twice. For callers that write ten thousands of entries a second, where a map costs too much
	Error           string      // what failed
	RejectionReason string      // why it was denied
}

// Log appends entries to the files in one folder. It is safe for concurrent use. It is a prometheus.Collector of its own metrics.
type Log struct {
	service string
	log     *slog.Logger
	metrics *metrics
	streams [len(categories)]stream
}

// Open prepares the log in dir, which is made (0750) when it is missing. service goes into every entry. Files are
// opened when the first entry of their category and day is written.
func Open(dir, service string, log *slog.Logger) (*Log, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	l := &Log{service: service, log: log, metrics: newMetrics()}
	var prefixes []string
	for i, c := range categories {
		l.streams[i].prefix, l.streams[i].synced = filepath.Join(dir, c.name)+"_", c.synced
		l.streams[i].took = l.metrics.took[i]
		if c.name != "" {
			prefixes = append(prefixes, l.streams[i].prefix)
		}
	}
	for i := range l.streams {
		l.streams[i].all = prefixes
	}
	makeFiles(prefixes, time.Now().Unix()/secondsADay)
	return l, nil
}

// Write appends e. If it fails, the caller must not let happen what it decided: a decision without an entry can't be found later.
// The end of ctx doesn't stop it, because a decision that was made must be written.
func (l *Log) Write(ctx context.Context, e Entry) error {
	t, err := l.submit(sourceOf(ctx), &e)
	if err == nil {
		err = t.wait()
	}
	return l.finish(ctx, e.Category, e.Action, err)
}

// Submit is Write in two steps, for callers that have something else to do while the entries are written. What Write promises
// holds once wait has returned nil; until then the entries may be in memory only. wait must be called exactly once, by any
// goroutine. If an entry can't be encoded, those after it are not written. The caller may change the entries as soon as Submit
// returns.
func (l *Log) Submit(ctx context.Context, entries ...Entry) (wait func() error) {
	type sent struct {
		category Category
		action   string
		ticket   ticket
	}
	var first error
	list := make([]sent, 0, len(entries))
	from := sourceOf(ctx)
	for i := range entries {
		e := &entries[i]
		t, err := l.submit(from, e)
		if err != nil {
			first = l.finish(ctx, e.Category, e.Action, err)
			break
		}
		list = append(list, sent{e.Category, e.Action, t})
	}
	return func() error {
		for _, s := range list {
			if err := l.finish(ctx, s.category, s.action, s.ticket.wait()); first == nil {
				first = err
			}
		}
		return first
	}
}

// finish counts an entry that was written, or could not be. It logs and classifies why it couldn't; nil for nil.
func (l *Log) finish(ctx context.Context, category Category, action string, err error) error {
	l.metrics.count(category, err)
	if err == nil {
		return nil
	}
	err = fmt.Errorf("write audit entry: %w", err)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		err = fault.NoSpace("audit entries").Because(err)
	}
	l.log.ErrorContext(ctx, "write audit entry failed", "category", category.String(), "action", action, "error", err)
	return err
}

// bodies are buffers into which entries are encoded before they are added to a batch.
var bodies = sync.Pool{New: func() any { return new([]byte) }}

// source is the part of an entry that comes from the context: who asked, in which request and trace.
type source struct {
	origin.Origin
	traceID string
}

func sourceOf(ctx context.Context) source {
	s := source{Origin: origin.Of(ctx)}
	if span := trace.SpanContextFromContext(ctx); span.HasTraceID() {
		s.traceID = span.TraceID().String()
	}
	return s
}

// submit encodes an entry and adds it to its category's stream.
func (l *Log) submit(from source, e *Entry) (ticket, error) {
	if e.Category.String() == "" {
		return ticket{}, fmt.Errorf("no such category: %d", e.Category)
	}
	if e.Action == "" {
		return ticket{}, fmt.Errorf("no action in an entry of %s", e.Category)
	}
	rest := line{
		Category: e.Category.String(), Severity: e.Severity.String(), Action: e.Action, Success: e.Success,
		OwnerPack: e.OwnerPack, Phase: e.Phase, Details: e.Details, attrs: e.Attrs, Error: e.Error, RejectionReason: e.RejectionReason,
		RequestID: from.RequestID, TraceID: from.traceID, Actor: from.Actor, Service: l.service,
	}
	buf := bodies.Get().(*[]byte)
	defer bodies.Put(buf)
	body, err := rest.encode((*buf)[:0])
	if err != nil {
		return ticket{}, err
	}
	*buf = body
	return l.streams[e.Category].submit(body), nil
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
