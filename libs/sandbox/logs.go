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
	Stream string    // "stdout" or "stderr"; GapStream for a line that Logs itself says
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
			asked.Follow, asked.Tail = false, ""
			if err = e.rejoin(ctx, id, asked, stdout, stderr, opts.Tail > 0); cerrdefs.IsNotFound(err) {
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

// GapStream is the stream of a line that says that lines of a followed log are missing, or come late.
const GapStream = "gap"

const (
	cameLate = "the engine left out the lines that follow when they were printed"
	areLost  = "lines are missing here: the engine dropped them before they were read"
)

// rejoining is the state of a reading that makes up for what a followed log left out. Both streams share it.
type rejoining struct {
	tail    bool // what was printed before the first line that was given is not wanted
	any     bool // any frame was read before
	aligned bool // one of those was recognised in this reading
	skipped bool // frames were left out since nothing had been recognised yet
	lost    bool // nothing was recognised in the reading before: all there is comes after a gap
}

// rejoin reads a log that was followed to its end once more, and gives what was left out. An engine may end a followed log before
// the last lines of a container that ended (20.10 does, every other time), and pass over whole files of a log that it rotates. All
// that it keeps is read, not what is younger than the last line: the clock may have been set back.
func (e *Engine) rejoin(ctx context.Context, id string, asked container.LogsOptions, stdout, stderr *lines, tail bool) error {
	join := &rejoining{tail: tail, any: stdout.seen.next+stderr.seen.next > 0}
	stdout.rejoin(join)
	stderr.rejoin(join)
	err := e.readLog(ctx, id, asked, stdout, stderr)
	if err != nil || join.aligned || !join.skipped {
		return err
	}
	// The last line that was given isn't kept any more.
	join.lost = true
	last := stdout.last
	if stderr.last.After(last) {
		last = stderr.last
	}
	if err := stdout.gap(last, areLost); err != nil {
		return err
	}
	return e.readLog(ctx, id, asked, stdout, stderr)
}

// errEnough: who ranges over the lines broke off.
var errEnough = errors.New("enough lines")

// lines puts the lines of one stream together. Docker frames each piece it stored (a line, or 16 KiB of a longer one) and
// puts the time it stored it in front of each; StdCopy makes one Write of a frame.
type lines struct {
	stream string
	yield  func(Line, error) bool
	since  time.Time // when the first piece of text was stored
	text   []byte    // of a line that has no end yet

	history
	join    *rejoining // nil while the log is read for the first time
	late    *lines     // puts lines together that were left out, while rejoining
	missing bool       // the frame before was left out
	given   bool       // all of this stream was given by the reading that recognised nothing
}

func (l *lines) rejoin(join *rejoining) {
	l.join, l.cursor = join, l.seen.next
	l.late = &lines{stream: l.stream, yield: l.yield}
}

// gap says in the log that lines are missing there.
func (l *lines) gap(at time.Time, text string) error {
	if !l.yield(Line{Time: at, Stream: GapStream, Text: text}, nil) {
		return errEnough
	}
	return nil
}

// judge says what to do with a frame that comes while rejoining.
func (l *lines) judge(sum uint64) verdict {
	if l.join.lost {
		if l.given {
			return known
		}
		return later
	}
	v := l.again(sum, l.join.aligned)
	if v == before && (!l.join.any || l.seen.next == 0 && !l.join.tail) {
		l.given = true
		return later
	}
	l.join.aligned = l.join.aligned || v == known
	l.join.skipped = l.join.skipped || v == before
	return v
}

// part says which lines a frame is a part of; nil for one that is not given.
func (l *lines) part(at time.Time, sum uint64) (*lines, error) {
	if l.join == nil {
		if l.repeated(at, sum) {
			return nil, nil
		}
		return l, nil
	}
	v := l.judge(sum)
	was := l.missing
	l.missing = v == missed
	switch {
	case l.missing && !was:
		return l.late, l.gap(at, cameLate)
	case l.missing:
		return l.late, nil
	case was:
		if err := l.late.flush(); err != nil {
			return nil, err
		}
	}
	if v == later {
		return l, nil
	}
	return nil, nil
}

func (l *lines) Write(frame []byte) (int, error) {
	stamp, text, _ := bytes.Cut(frame, []byte(" "))
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return 0, fmt.Errorf("read time of a line: %w", err)
	}
	to, err := l.part(at, fingerprint(frame))
	if err == nil && to != nil {
		err = to.put(at, text)
	}
	if err != nil {
		return 0, err
	}
	return len(frame), nil
}

// put adds a piece to the line that has no end yet.
func (l *lines) put(at time.Time, text []byte) error {
	if len(l.text) == 0 {
		l.since = at
	}
	text, whole := bytes.CutSuffix(text, []byte("\n"))
	l.text = append(l.text, text...)
	if whole || len(l.text) >= maxLine {
		return l.end()
	}
	return nil
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
	if l.late != nil {
		if err := l.late.flush(); err != nil {
			return err
		}
	}
	if len(l.text) == 0 {
		return nil
	}
	return l.end()
}
