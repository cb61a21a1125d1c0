package worker

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/time/rate"
)

// Bounds of a handler's log.
const (
	maxLog    = 1 << 20   // bytes of the file, after which it becomes the old one
	logPerSec = 64 << 10  // bytes a second that a handler may print; what is more is dropped
	logBurst  = 1 << 20   // bytes that it may print at once after a silence
	logStep   = 128 << 10 // bytes of a write(2)
	logSuffix = ".log"
	oldSuffix = ".log.1"
)

// LogLine is a line of a handler's log. In the file it is a line of JSON.
type LogLine struct {
	TS        time.Time `json:"ts,omitzero"` // when it was read; zero for what an earlier version wrote, whose lines had none
	RequestID string    `json:"request_id"`  // the id of the call during which the line was printed; "" for a line between calls
	Stream    string    `json:"stream"`      // stdout or stderr
	Text      string    `json:"text"`
}

// Logs stores what handlers print, in <dir>/<pack_id>/<slug>.log and, once that is full, <slug>.log.1. None of it goes into the service's own
// log: a handler may print the secrets that it was given. It is safe for concurrent use; several replicas may append to one file.
type Logs struct {
	dir  string
	log  *slog.Logger
	mu   sync.Mutex
	open map[string]*logFile
}

// NewLogs makes the folder.
func NewLogs(dir string, log *slog.Logger) (*Logs, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("make folder of handler logs: %w", err)
	}
	return &Logs{dir: dir, log: log, open: make(map[string]*logFile)}, nil
}

// of returns the log of a handler. All workers of the handler share it, and with it the rate limit.
func (l *Logs) of(packID, slug string) *logFile {
	path := filepath.Join(l.dir, packID, slug)
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.open[path]
	if f == nil {
		f = &logFile{path: path, log: l.log, bucket: rate.NewLimiter(logPerSec, logBurst)}
		l.open[path] = f
	}
	return f
}

// RemovePack removes the logs of a pack that is uninstalled.
func (l *Logs) RemovePack(packID string) error {
	l.mu.Lock()
	for path := range l.open {
		if filepath.Base(filepath.Dir(path)) == packID {
			delete(l.open, path) // a worker that still has it goes on writing to it
		}
	}
	l.mu.Unlock()
	if err := os.RemoveAll(filepath.Join(l.dir, packID)); err != nil {
		return fmt.Errorf("remove handler logs: %w", err)
	}
	return nil
}

// Sweep removes the logs of the packs for which keep is false.
func (l *Logs) Sweep(keep func(packID string) bool) error {
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return fmt.Errorf("sweep handler logs: %w", err)
	}
	var problems []error
	for _, e := range entries {
		if e.IsDir() && !keep(e.Name()) {
			problems = append(problems, l.RemovePack(e.Name()))
		}
	}
	return errors.Join(problems...)
}

// logFile is a handler's log. The file is opened for each write: few handlers print, and a file that was removed or rotated by another replica
// comes back by itself.
type logFile struct {
	path   string
	log    *slog.Logger
	bucket *rate.Limiter

	mu       sync.Mutex
	dropping bool
	failed   bool
}

// admit says whether so many bytes may be written under the rate limit, and whether these are the first that may not.
func (f *logFile) admit(bytes int) (admitted, first bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	admitted = f.bucket.AllowN(time.Now(), bytes)
	first = !admitted && !f.dropping
	f.dropping = !admitted
	return admitted, first
}

// write appends lines. A failure is logged in the service's log, once until a write succeeds.
func (f *logFile) write(lines []byte) {
	if len(lines) == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.append(lines)
	if failed := err != nil; failed != f.failed {
		f.failed = failed
		if failed {
			f.log.Error("a handler's log can't be written", "path", f.path+logSuffix, "error", err)
		}
	}
}

func encodeLine(line LogLine) []byte {
	raw, err := json.Marshal(line, jsontext.AllowInvalidUTF8(true))
	if err != nil {
		panic(fmt.Sprintf("encode a line of text: %v", err)) // it has nothing that JSON lacks
	}
	return append(raw, '\n')
}

func (f *logFile) append(text []byte) (err error) {
	path := f.path + logSuffix
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	if info, err := os.Lstat(path); err == nil && info.Size() >= maxLog {
		if err := os.Rename(path, f.path+oldSuffix); err != nil {
			return err
		}
	}
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	_, err = out.Write(text)
	return err
}
