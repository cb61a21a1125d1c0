package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"time"

	"github.com/go-json-experiment/json"
)

// pollInterval is how often a followed log is read. It is polled since another replica, that is another process, may be writing it.
const pollInterval = 200 * time.Millisecond

// ErrNoLog says that the handler has printed nothing yet, or is unknown.
var ErrNoLog = errors.New("handler log: there is none")

// Tail returns the last lines of a handler's log, tail at most. It is ErrNoLog if there is no file.
func (l *Logs) Tail(packID, slug string, tail int) ([]LogLine, error) {
	r := l.reader(packID, slug)
	defer r.close()
	lines, err := r.readInitial(tail)
	if err == nil && r.file == nil {
		err = ErrNoLog
	}
	return lines, err
}

// Follow returns the last lines of a handler's log, tail at most, and then those that are added, until ctx ends or allowed returns false. It
// waits for a file that isn't there yet. No line is missed or returned twice when the file is rotated.
func (l *Logs) Follow(ctx context.Context, packID, slug string, tail int, allowed func() bool) iter.Seq2[LogLine, error] {
	return func(yield func(LogLine, error) bool) {
		r := l.reader(packID, slug)
		defer r.close()
		lines, err := r.readInitial(tail)
		tick := time.NewTicker(pollInterval)
		defer tick.Stop()
		for {
			for _, line := range lines {
				if !yield(line, nil) {
					return
				}
			}
			if err != nil {
				yield(LogLine{}, err)
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if !allowed() {
				return
			}
			lines, err = r.readAdded()
		}
	}
}

// logReader reads a handler's log, and goes on with the next file when it is rotated.
type logReader struct {
	path    string
	file    *os.File // nil while there is none
	partial []byte   // a line that has no end yet
}

func (l *Logs) reader(packID, slug string) *logReader {
	return &logReader{path: filepath.Join(l.dir, packID, slug)}
}

func (r *logReader) close() {
	if r.file != nil {
		_ = r.file.Close() // it was only read
	}
}

// readInitial reads the old file and the present one, and returns their last lines.
func (r *logReader) readInitial(tail int) ([]LogLine, error) {
	// The present file is opened before the old one is read. If it is rotated in between, both are the same file: that is noticed
	// (rotated), while in the other order the lines of the file between them would be missed.
	if err := r.open(); err != nil || r.file == nil {
		return nil, err
	}
	before, err := os.ReadFile(r.path + oldSuffix)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read handler log: %w", err)
	}
	if rotated, err := r.rotated(); err != nil || rotated {
		before = nil // it is the one that was opened
	}
	earlier := (&logReader{partial: before}).takeLines()
	lines, err := r.readToEnd()
	lines = append(earlier, lines...)
	return lines[max(0, len(lines)-tail):], err
}

func (r *logReader) open() error {
	f, err := os.Open(r.path + logSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open handler log: %w", err)
	}
	r.file, r.partial = f, nil
	return nil
}

// rotated says whether the file with the log's name is another one than the open one.
func (r *logReader) rotated() (bool, error) {
	here, err := r.file.Stat()
	if err != nil {
		return false, fmt.Errorf("inspect handler log: %w", err)
	}
	there, err := os.Stat(r.path + logSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // nobody has written since it was rotated
	}
	if err != nil {
		return false, fmt.Errorf("inspect handler log: %w", err)
	}
	return !os.SameFile(here, there), nil
}

// readAdded reads what was added since the last read: in the open file and, if it was rotated, in the new one.
func (r *logReader) readAdded() ([]LogLine, error) {
	if r.file == nil {
		if err := r.open(); err != nil || r.file == nil {
			return nil, err
		}
		return r.readToEnd()
	}
	rotated, err := r.rotated()
	if err != nil {
		return nil, err
	}
	lines, err := r.readToEnd() // after the check: a file that was rotated before it isn't written any more, so this is all of it
	if err != nil || !rotated {
		return lines, err
	}
	r.close()
	r.file = nil
	if err := r.open(); err != nil || r.file == nil {
		return lines, err
	}
	added, err := r.readToEnd()
	return append(lines, added...), err
}

// readToEnd reads to the end of the open file.
func (r *logReader) readToEnd() ([]LogLine, error) {
	raw, err := io.ReadAll(io.LimitReader(r.file, 2*maxLog))
	r.partial = append(r.partial, raw...)
	if err != nil {
		return nil, fmt.Errorf("read handler log: %w", err)
	}
	return r.takeLines(), nil
}

// takeLines decodes the lines that have an end, and leaves the rest in partial.
func (r *logReader) takeLines() (list []LogLine) {
	for {
		text, rest, whole := bytes.Cut(r.partial, []byte("\n"))
		if !whole {
			r.partial = bytes.Clone(r.partial)
			return list
		}
		var line LogLine
		if err := json.Unmarshal(text, &line, json.RejectUnknownMembers(true)); err != nil || line.Stream == "" {
			line = LogLine{Stream: stderr, Text: string(text)} // of an earlier version
		}
		list = append(list, line)
		r.partial = rest
	}
}
