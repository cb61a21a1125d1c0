package events

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rumi-ai/rumi/libs/auditfile"
	"github.com/rumi-ai/rumi/libs/periodic"
)

// pollInterval is how often it is looked whether files have grown. Asking the kernel for the sizes of 16 files takes microseconds; inotify would tell
// sooner, but once for each of ten thousand lines a second.
const pollInterval = 100 * time.Millisecond

// Log is the audit log as the streams of this gateway read it. It is safe for concurrent use. Use NewLog, and Run.
type Log struct {
	path string
	log  *slog.Logger

	mu      sync.Mutex
	dir     *auditfile.Dir // nil until a stream was opened
	files   map[auditfile.ID]*file
	absent  map[auditfile.ID]bool // no file when it was looked last
	changed chan struct{}         // closed when something may be there to be read
	streams int                   // under way
	wanted  chan struct{}         // has a value when the first of them began
	day     auditfile.Day         // of the last poll

	appeared atomic.Int64 // how often a file was there that had been absent
}

// NewLog is the log in a folder, which is opened with the first stream.
func NewLog(path string, log *slog.Logger) *Log {
	return &Log{path: path, log: log, files: map[auditfile.ID]*file{}, absent: map[auditfile.ID]bool{}, changed: make(chan struct{}), wanted: make(chan struct{}, 1)}
}

// Run looks whether files have grown, while there are streams, until ctx ends.
func (l *Log) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.wanted:
		}
		if err := periodic.RunErr(ctx, pollInterval, func(context.Context) error { return l.poll() }); err == nil {
			return nil
		}
	}
}

// errIdle ends the polling.
var errIdle = errors.New("there are no streams")

// enter and leave count the streams.
func (l *Log) enter() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.streams++
	select {
	case l.wanted <- struct{}{}:
	default:
	}
}

func (l *Log) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.streams--
}

// poll wakes the streams if a file that one of them reads has changed, or a file is there that wasn't.
func (l *Log) poll() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.streams == 0 {
		clear(l.absent)
		l.appeared.Add(1)
		return errIdle
	}
	grown := false
	for id, f := range l.files {
		if err := f.poll(l.dir); err != nil {
			l.log.Error("following the audit log failed; trying again", "file", id.Name(), "error", err)
			continue
		}
		if f.stale.Load() {
			delete(l.files, id) // the streams that read it have it still
			grown = true
		}
		grown = f.grown() || grown
	}
	for id := range l.absent {
		if print, err := l.dir.Fingerprint(id); err != nil || print != (auditfile.Fingerprint{}) {
			delete(l.absent, id)
			l.appeared.Add(1)
			grown = true
		}
	}
	if now := today(); now != l.day { // the streams go over to the files of the new day
		l.day, grown = now, true
		maps.DeleteFunc(l.absent, func(id auditfile.ID, _ bool) bool { return id.Day < now-1 }) // they won't come any more
	}
	if grown {
		close(l.changed)
		l.changed = make(chan struct{})
	}
	return nil
}

// waiting returns a channel that is closed when there may be something new. It must be got before the files are read, or what comes between is missed.
func (l *Log) waiting() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// folder is the opened folder.
func (l *Log) folder() (*auditfile.Dir, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dir != nil {
		return l.dir, nil
	}
	dir, err := auditfile.OpenDir(l.path)
	if err != nil {
		return nil, err
	}
	l.dir = dir
	return dir, nil
}

// acquire opens a file, or shares the open one; nil if there is none. release gives it back.
func (l *Log) acquire(id auditfile.ID) (*file, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if f := l.files[id]; f != nil {
		f.users++
		return f, nil
	}
	if l.absent[id] {
		return nil, nil
	}
	f, err := openFile(l.dir, id)
	if errors.Is(err, fs.ErrNotExist) {
		l.absent[id] = true
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	l.files[id] = f
	return f, nil
}

func (l *Log) release(f *file) {
	if f == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if f.users--; f.users > 0 {
		return
	}
	if l.files[f.ID] == f {
		delete(l.files, f.ID)
	}
	_ = f.Close() // only read
}
