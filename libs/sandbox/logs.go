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
		stdout, stderr := &lines{stream: "stdout", yield: yield}, &lines{stream: "stderr", yield: yield}
		asked := container.LogsOptions{ShowStdout: true, ShowStderr: true, Timestamps: true, Follow: opts.Follow}
		if opts.Tail > 0 {
			asked.Tail = strconv.Itoa(opts.Tail)
		}
		err := e.readLog(ctx, id, asked, stdout, stderr)
		if err == nil && opts.Follow {
			// An engine may end a followed log before the last lines of a container that ended (20.10 does, every other time):
			// they are read again, from where each stream was left.
			asked.Follow = false
			if since := rejoin(stdout, stderr, opts.Tail > 0); !since.IsZero() {
				asked.Since, asked.Tail = fmt.Sprintf("%d.%09d", since.Unix(), since.Nanosecond()), ""
			}
			if err = e.readLog(ctx, id, asked, stdout, stderr); cerrdefs.IsNotFound(err) {
				err = nil // removed in the meantime
			}
		}
		if err == nil {
			err = errors.Join(stdout.flush(), stderr.flush())
		}
		if err != nil && !errors.Is(err, errEnough) {
			yield(Line{}, failed(ctx, "read container's log", err))
		}
	}
}

func (e *Engine) readLog(ctx context.Context, id string, asked container.LogsOptions, stdout, stderr *lines) error {
	raw, err := e.api.ContainerLogs(ctx, id, asked)
	if err != nil {
		return err
	}
	defer raw.Close()
	_, err = stdcopy.StdCopy(stdout, stderr, raw)
	return err
}

// rejoin makes both streams skip what they had already, and gives the time from which on to read again, zero for all of it:
// a stream that had nothing may have lines of any time. With tail it begins where the other did, since nobody asked for more.
func rejoin(stdout, stderr *lines, tail bool) (since time.Time) {
	for _, pair := range [][2]*lines{{stdout, stderr}, {stderr, stdout}} {
		l, other := pair[0], pair[1]
		if l.first.IsZero() && tail {
			l.last = other.first
		}
		l.again = true
	}
	if !tail && (stdout.last.IsZero() || stderr.last.IsZero()) {
		return time.Time{} // that one may have lines of any time
	}
	if stderr.last.Before(stdout.last) {
		return stderr.last
	}
	return stdout.last
}

// errEnough: who ranges over the lines broke off.
var errEnough = errors.New("enough lines")

// lines puts the lines of one stream together. Docker frames each piece it stored (a line, or 16 KiB of a longer one) and
// puts the time it stored it in front of each, which never goes back within a stream; StdCopy makes one Write of a frame.
type lines struct {
	stream string
	yield  func(Line, error) bool
	since  time.Time // when the first piece of text was stored
	text   []byte    // of a line that has no end yet

	first, last time.Time // of the frames so far
	sameTime    int       // how many of them had the time last
	again       bool      // those come once more, and are skipped
}

// fresh says whether a frame of that time wasn't read before.
func (l *lines) fresh(at time.Time) bool {
	if l.again {
		if at.Equal(l.last) && l.sameTime > 0 {
			l.sameTime--
			return false
		}
		return !at.Before(l.last)
	}
	if l.first.IsZero() {
		l.first = at
	}
	if !at.Equal(l.last) {
		l.last, l.sameTime = at, 0
	}
	l.sameTime++
	return true
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
