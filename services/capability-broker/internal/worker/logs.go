package worker

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Bounds of a handler's log.
const (
	maxLog     = 1 << 20  // bytes of the file, after which it becomes the old one
	logPerSec  = 64 << 10 // bytes a second; what is more is dropped
	logAtOnce  = 1 << 20  // bytes
	logSuffix  = ".log"
	oldSuffix  = ".log.1"
	droppedNow = "\n[output dropped: too much at once]\n"
)

// Logs keeps what handlers print, in <dir>/<pack_id>/<slug>.log and the file before it. None of it goes to the
// service's own log: a handler may print what it was given.
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

// For is where a handler's output goes. Its Write never fails and never waits for long.
func (l *Logs) For(packID, slug string) io.Writer {
	path := filepath.Join(l.dir, packID, slug)
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.open[path]
	if f == nil {
		f = &logFile{path: path, log: l.log, bucket: rate.NewLimiter(logPerSec, logAtOnce)}
		l.open[path] = f
	}
	return f
}

// RemovePack removes the logs of a pack that is uninstalled.
func (l *Logs) RemovePack(packID string) error {
	l.mu.Lock()
	for path := range l.open {
		if filepath.Base(filepath.Dir(path)) == packID {
			delete(l.open, path) // who holds one goes on writing to it
		}
	}
	l.mu.Unlock()
	if err := os.RemoveAll(filepath.Join(l.dir, packID)); err != nil {
		return fmt.Errorf("remove handler logs: %w", err)
	}
	return nil
}

// Sweep removes the logs of the packs that keep doesn't want.
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

// logFile is opened for each write: handlers that print are few, and a file that was removed comes back.
type logFile struct {
	path   string
	log    *slog.Logger
	bucket *rate.Limiter

	mu       sync.Mutex
	dropping bool
	failed   bool
}

func (f *logFile) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	text := p
	if !f.bucket.AllowN(time.Now(), len(p)) {
		if f.dropping {
			return len(p), nil
		}
		text = []byte(droppedNow)
		f.dropping = true
	} else {
		f.dropping = false
	}
	err := f.append(text)
	if failed := err != nil; failed != f.failed {
		f.failed = failed
		if failed {
			f.log.Error("a handler's log can't be written", "path", f.path+logSuffix, "error", err)
		}
	}
	return len(p), nil
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
