// Package pending keeps user_data/pending/summary.json, in which operators' tools read what waits for a decision. It asks three
// owners for their counts (approval itself, the broker, pip-installer) and rewrites the file when one of them changes.
package pending

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/libs/atomicfile"
	"github.com/rumi-ai/rumi/libs/candidate"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/flock"
)

const (
	version       = "1.0"
	debounce      = 50 * time.Millisecond // after a change, so that a burst of changes makes one file
	pollInterval  = 10 * time.Second      // between two checks of the owners' counts and of the file, in case a notification was lost
	sourceTimeout = 2 * time.Second       // for the answers of all owners
)

// Packs is the section of approval's own counts.
type Packs struct {
	PendingCount  int      `json:"pending_count"`
	PendingIDs    []string `json:"pending_ids"`
	ModifiedCount int      `json:"modified_count"`
	ModifiedIDs   []string `json:"modified_ids"`
	BlockedCount  int      `json:"blocked_count"`
	BlockedIDs    []string `json:"blocked_ids"`
}

// Sources return the sections. An error stands in its section of the file.
type Sources struct {
	Packs      func(context.Context) (Packs, error)
	Capability func(context.Context) (candidate.Counts, error)
	Pip        func(context.Context) (candidate.Counts, error)
}

// problem is the section of an owner that could not be asked.
type problem struct {
	Error string `json:"error"`
}

type summary struct {
	TS         time.Time `json:"ts"`
	Version    string    `json:"version"`
	Packs      any       `json:"packs"`
	Capability any       `json:"capability"`
	Pip        any       `json:"pip"`
}

// Export writes the summary whenever a count has changed. Make one with New.
type Export struct {
	path    string
	sources Sources
	log     *slog.Logger
	changed chan struct{}
	written []byte // last
}

// New makes the export of the file summary.json in dir, which must exist.
func New(dir string, sources Sources, log *slog.Logger) *Export {
	return &Export{path: filepath.Join(dir, "summary.json"), sources: sources, log: log, changed: make(chan struct{}, 1)}
}

// Notify says that a count may have changed. It doesn't block.
func (e *Export) Notify() {
	select {
	case e.changed <- struct{}{}:
	default: // Run has yet to take the last notification
	}
}

// Run writes the file at once, and then on every change, until ctx ends.
func (e *Export) Run(ctx context.Context) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	var last string
	for {
		s := e.gather(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		now := fmt.Sprintf("%+v", [...]any{s.Packs, s.Capability, s.Pip})
		if now != last || !e.intact() {
			if err := e.write(s); err != nil {
				e.log.ErrorContext(ctx, "could not write user_data/pending/summary.json", "error", err)
			} else {
				last = now
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case <-e.changed:
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(debounce):
			}
		}
	}
}

func (e *Export) gather(ctx context.Context) summary {
	ctx, cancel := context.WithTimeout(ctx, sourceTimeout)
	defer cancel()
	return summary{
		Version:    version,
		Packs:      section(ctx, e.log, e.sources.Packs),
		Capability: section(ctx, e.log, e.sources.Capability),
		Pip:        section(ctx, e.log, e.sources.Pip),
	}
}

func section[T any](ctx context.Context, log *slog.Logger, source func(context.Context) (T, error)) any {
	counts, err := source(ctx)
	if err != nil {
		log.DebugContext(ctx, "could not ask a service for its pending counts", "error", err)
		return problem{fault.Of(err).Message}
	}
	return counts
}

// intact says whether the file is still what was written. Replicas write the same content, each for itself. Anybody else who
// removed, emptied or replaced the file has given operators' tools wrong counts, so that it must be written again.
func (e *Export) intact() bool {
	// A file that could block the reading (a FIFO) or that is large isn't ours, and isn't read.
	info, err := os.Lstat(e.path)
	if err != nil || !info.Mode().IsRegular() || info.Size() > int64(len(e.written))+1024 {
		return false
	}
	data, err := os.ReadFile(e.path)
	return err == nil && sameSections(data, e.written)
}

// sameSections compares two summaries without the time at which they were written.
func sameSections(a, b []byte) bool {
	var one, other map[string]jsontext.Value
	if json.Unmarshal(a, &one) != nil || json.Unmarshal(b, &other) != nil {
		return false
	}
	delete(one, "ts")
	delete(other, "ts")
	return reflect.DeepEqual(one, other)
}

// write replaces the file: a reader sees the old one or the new one, whole, also after a crash of the machine.
func (e *Export) write(s summary) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write summary: %w", err)
		}
	}()
	s.TS = time.Now().UTC()
	data, err := json.Marshal(s, jsontext.WithIndent("  "))
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(e.path))
	if err != nil {
		return err
	}
	defer dir.Close()
	// Replicas have the same name for what is not whole yet, so that a crash leaves one at most; they write in turns.
	if err := flock.WaitOpen(dir, flock.Exclusive); err != nil {
		return err
	}
	temp := atomicfile.TempName(filepath.Base(e.path) + ".new")
	if err := atomicfile.WritePath(e.path, append(data, '\n'), 0o640, temp); err != nil {
		return err
	}
	e.written = data
	return nil
}
