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

// LogOptions says which lines Logs returns.
type LogOptions struct {
	Tail   int  // at most so many of the last ones; 0 for all that are kept (30 MiB)
	Follow bool // then go on until the container ends
}

// Line is one line of a container's output.
type Line struct {
	Time   time.Time // when its first byte arrived
	Stream string    // "stdout" or "stderr"; GapStream for a line of Logs itself
	Text   string    // without its end; may be invalid UTF-8; lines over 64 KiB are cut into several
}

// maxLine is where a line without end is cut, in bytes.
const maxLine = 64 << 10

// Logs returns a container's output in the order in which the engine read it. Between stdout and stderr this need not be the order in which
// it was written. It ends after an error, which may be ctx's.
func (e *Engine) Logs(ctx context.Context, id string, opts LogOptions) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		if _, err := e.Inspect(ctx, id); err != nil {
			yield(Line{}, err)
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stdout, stderr := &assembler{stream: "stdout", yield: yield}, &assembler{stream: "stderr", yield: yield}
		asked := container.LogsOptions{ShowStdout: true, ShowStderr: true, Timestamps: true, Follow: opts.Follow}
		if opts.Tail > 0 {
			asked.Tail = strconv.Itoa(opts.Tail)
		}
		err := e.readLog(ctx, id, asked, stdout, stderr)
		if err == nil && opts.Follow {
			asked.Follow, asked.Tail = false, ""
			if err = e.catchUp(ctx, id, asked, stdout, stderr, opts.Tail > 0); cerrdefs.IsNotFound(err) {
				err = nil // removed in the meantime
			}
		}
		if err == nil {
			err = errors.Join(stdout.flush(), stderr.flush())
		}
		if err != nil && !errors.Is(err, errStopped) {
			yield(Line{}, clientError(ctx, "read container's log", err))
		}
	}
}

func (e *Engine) readLog(ctx context.Context, id string, asked container.LogsOptions, stdout, stderr *assembler) error {
	raw, err := e.api.ContainerLogs(ctx, id, asked)
	if err != nil {
		return err
	}
	defer raw.Close()
	_, err = stdcopy.StdCopy(stdout, stderr, raw)
	return err
}

// GapStream is the stream of a line which says that lines of a followed log are missing here, or come late.
const GapStream = "gap"

const (
	gapLate = "the engine left out the lines that follow when they were printed"
	gapLost = "lines are missing here: the engine dropped them before they were read"
)

// reread is the state of the second reading of a log, which makes up for what following it left out. Both streams share it.
type reread struct {
	tail    bool // the caller asked for the last lines only: lines before the first that was given are not wanted
	any     bool // the first reading gave any frame
	aligned bool // one of those was recognised in this reading
	skipped bool // frames were skipped, since nothing had been recognised yet
	lost    bool // this is a third reading: the second recognised nothing, so all that is kept comes after a gap
}

// catchUp reads a log that was followed to its end once more, and yields what was left out. An engine may end a followed log before
// the last lines of a container that ended (20.10 does, every other time), and may skip whole files of a log that it rotates. The whole
// log is read, not what is newer than the last line: the clock may have been set back.
func (e *Engine) catchUp(ctx context.Context, id string, asked container.LogsOptions, stdout, stderr *assembler, tail bool) error {
	join := &reread{tail: tail, any: stdout.frames.next+stderr.frames.next > 0}
	stdout.catchUp(join)
	stderr.catchUp(join)
	err := e.readLog(ctx, id, asked, stdout, stderr)
	if err != nil || join.aligned || !join.skipped {
		return err
	}
	// The engine doesn't keep the last line that was given any more.
	join.lost = true
	last := stdout.last
	if stderr.last.After(last) {
		last = stderr.last
	}
	if err := stdout.gap(last, gapLost); err != nil {
		return err
	}
	return e.readLog(ctx, id, asked, stdout, stderr)
}

// errStopped: the caller left the loop over the lines.
var errStopped = errors.New("enough lines")

// assembler puts the lines of one stream together. Docker stores pieces: a line, or 16 KiB of a longer one. It sends each piece as a frame with
// the time at which it was stored in front; StdCopy calls Write once for each frame.
type assembler struct {
	stream string
	yield  func(Line, error) bool
	since  time.Time // when the first piece of text was stored
	text   []byte    // of a line that has no end yet

	history
	join     *reread    // nil while the log is read for the first time
	omitted  *assembler // puts lines together that were left out, while reread
	inGap    bool       // the frame before was left out
	allGiven bool       // all of this stream was given by the reading that recognised nothing
}

func (l *assembler) catchUp(join *reread) {
	l.join, l.cursor = join, l.frames.next
	l.omitted = &assembler{stream: l.stream, yield: l.yield}
}

// gap yields a line which says that lines are missing here.
func (l *assembler) gap(at time.Time, text string) error {
	if !l.yield(Line{Time: at, Stream: GapStream, Text: text}, nil) {
		return errStopped
	}
	return nil
}

// classify says what to do with a frame that comes while reread.
func (l *assembler) classify(sum uint64) frameClass {
	if l.join.lost {
		if l.allGiven {
			return frameGiven
		}
		return frameNew
	}
	v := l.classifyReread(sum, l.join.aligned)
	if v == frameBefore && (!l.join.any || l.frames.next == 0 && !l.join.tail) {
		l.allGiven = true
		return frameNew
	}
	l.join.aligned = l.join.aligned || v == frameGiven
	l.join.skipped = l.join.skipped || v == frameBefore
	return v
}

// route returns the assembler that a frame belongs to; nil for a frame that is not to be given again.
func (l *assembler) route(at time.Time, sum uint64) (*assembler, error) {
	if l.join == nil {
		if l.repeated(at, sum) {
			return nil, nil
		}
		return l, nil
	}
	v := l.classify(sum)
	was := l.inGap
	l.inGap = v == frameOmitted
	switch {
	case l.inGap && !was:
		return l.omitted, l.gap(at, gapLate)
	case l.inGap:
		return l.omitted, nil
	case was:
		if err := l.omitted.flush(); err != nil {
			return nil, err
		}
	}
	if v == frameNew {
		return l, nil
	}
	return nil, nil
}

func (l *assembler) Write(frame []byte) (int, error) {
	timestamp, text, _ := bytes.Cut(frame, []byte(" "))
	at, err := time.Parse(time.RFC3339Nano, string(timestamp))
	if err != nil {
		return 0, fmt.Errorf("read time of a line: %w", err)
	}
	to, err := l.route(at, fingerprint(frame))
	if err == nil && to != nil {
		err = to.appendText(at, text)
	}
	if err != nil {
		return 0, err
	}
	return len(frame), nil
}

// appendText adds a piece to the current line.
func (l *assembler) appendText(at time.Time, text []byte) error {
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

func (l *assembler) end() error {
	line := Line{Time: l.since, Stream: l.stream, Text: string(l.text)}
	l.text = l.text[:0]
	if !l.yield(line, nil) {
		return errStopped
	}
	return nil
}

// flush yields the last line, if it has no end.
func (l *assembler) flush() error {
	if l.omitted != nil {
		if err := l.omitted.flush(); err != nil {
			return err
		}
	}
	if len(l.text) == 0 {
		return nil
	}
	return l.end()
}
