package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/pkg/stdcopy"
)

// LogOptions says which lines Logs gives.
type LogOptions struct {
	Tail   int  // at most so many of the last ones; 0 for all that are kept (30 MiB)
	Follow bool // then go on until the container ends
}

// Line is one line of a container's output.
type Line struct {
	Time   time.Time // when its first byte arrived
	Stream string    // "stdout" or "stderr"
	Text   string    // without its end; may be no UTF-8; lines over 64 KiB are cut into several
}

// maxLine is where a line without end is cut, in bytes.
const maxLine = 64 << 10

// Logs gives a container's output in the order the engine read it, which between stdout and stderr need not be that of its
// writing. It ends after an error, which may be ctx's.
func (e *Engine) Logs(ctx context.Context, id string, opts LogOptions) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		if _, err := e.Inspect(ctx, id); err != nil {
			yield(Line{}, err)
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		into := &log{yield: yield}
		into.stdout, into.stderr = lines{log: into, stream: "stdout"}, lines{log: into, stream: "stderr"}
		asked := container.LogsOptions{ShowStdout: true, ShowStderr: true, Timestamps: true, Follow: opts.Follow}
		if opts.Tail > 0 {
			asked.Tail = strconv.Itoa(opts.Tail)
		}
		err := e.readLog(ctx, id, asked, into)
		if err == nil && opts.Follow {
			// An engine may end a followed log before the last lines of a container that ended (20.10 does, every other time):
			// what came after the last line seen is read again.
			asked.Follow = false
			if into.frames > 0 {
				asked.Since, asked.Tail = fmt.Sprintf("%d.%09d", into.last.Unix(), into.last.Nanosecond()), ""
				into.known = into.frames
			}
			into.frames = 0
			if err = e.readLog(ctx, id, asked, into); cerrdefs.IsNotFound(err) {
				err = nil // removed in the meantime
			}
		}
		if err == nil {
			err = errors.Join(into.stdout.flush(), into.stderr.flush())
		}
		if err != nil && !errors.Is(err, errEnough) {
			yield(Line{}, failed("read container's log", err))
		}
	}
}

func (e *Engine) readLog(ctx context.Context, id string, asked container.LogsOptions, into *log) error {
	raw, err := e.api.ContainerLogs(ctx, id, asked)
	if err != nil {
		return err
	}
	defer raw.Close()
	_, err = stdcopy.StdCopy(&into.stdout, &into.stderr, raw)
	return err
}

// errEnough: who ranges over the lines broke off.
var errEnough = errors.New("enough lines")

// log puts a container's lines together. Docker frames each piece it stored (a line, or 16 KiB of a longer one) and puts the
// time it stored it in front of each; StdCopy makes one Write of a frame.
type log struct {
	yield          func(Line, error) bool
	stdout, stderr lines

	last   time.Time // of the latest frame
	frames int       // how many have had that time
	known  int       // so many of the next ones with that time were read before
}

// fresh says whether a frame of that time wasn't read before.
func (l *log) fresh(at time.Time) bool {
	if !at.Equal(l.last) {
		l.last, l.frames, l.known = at, 0, 0
	}
	l.frames++
	return l.frames > l.known
}

type lines struct {
	*log
	stream string
	since  time.Time // when the first piece of text was stored
	text   []byte    // of a line that has no end yet
}

func (l *lines) Write(frame []byte) (int, error) {
	stamp, text, _ := bytes.Cut(frame, []byte(" "))
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return 0, fmt.Errorf("read time of a line: %w", err)
	}
	if !l.fresh(at) {
		return len(frame), nil
	}
	if len(l.text) == 0 {
		l.since = at
	}
	text, whole := bytes.CutSuffix(text, []byte("\n"))
	l.text = append(l.text, text...)
	if whole || len(l.text) >= maxLine {
		if err := l.end(); err != nil {
			return 0, err
		}
	}
	return len(frame), nil
}

func (l *lines) end() error {
	line := Line{Time: l.since, Stream: l.stream, Text: string(l.text)}
	l.text = l.text[:0]
	if !l.yield(line, nil) {
		return errEnough
	}
	return nil
}

// flush gives a last line that has no end.
func (l *lines) flush() error {
	if len(l.text) == 0 {
		return nil
	}
	return l.end()
}
