package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"sync"
	"time"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/pkg/stdcopy"
)

// Stream is a container's standard input and output. Read gives what it writes to stdout (io.EOF once it ended), Write
// goes to its stdin.
type Stream struct {
	conn   types.HijackedResponse
	stdout *io.PipeReader
	done   chan struct{}
	close  sync.Once
}

// Attach connects to a container's stdin and stdout; what it writes to stderr goes to the writer. Attach before Start to
// miss nothing. A container whose stdout or stderr isn't read stands still, so stderr must not block for long, and a
// failing stderr ends the stream. ctx bounds the connecting only; Close the stream.
func (e *Engine) Attach(ctx context.Context, id string, stderr io.Writer) (*Stream, error) {
	if _, err := e.Inspect(ctx, id); err != nil {
		return nil, err
	}
	conn, err := e.api.ContainerAttach(ctx, id, container.AttachOptions{Stream: true, Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		return nil, failed("attach to container", err)
	}
	stdout, feed := io.Pipe()
	s := &Stream{conn: conn, stdout: stdout, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		_, err := stdcopy.StdCopy(feed, stderr, conn.Reader)
		if err != nil {
			err = fmt.Errorf("read container's output: %w", err)
		}
		feed.CloseWithError(err)
		// Nobody reads from here on: the container must see a broken pipe, not a full one.
		conn.Close()
	}()
	return s, nil
}

// Read reads the container's stdout.
func (s *Stream) Read(p []byte) (int, error) { return s.stdout.Read(p) }

// Write writes to the container's stdin.
func (s *Stream) Write(p []byte) (int, error) { return s.conn.Conn.Write(p) }

// CloseWrite ends the container's stdin; its output can still be read.
func (s *Stream) CloseWrite() error { return s.conn.CloseWrite() }

// Close ends the connection and waits until nothing more is written to stderr.
func (s *Stream) Close() error {
	s.close.Do(func() {
		s.conn.Close()
		_ = s.stdout.Close() // never fails; frees a writer that waits for a reader
		<-s.done
	})
	return nil
}

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

// Logs gives a container's output in the order it was written. It ends after an error, which may be ctx's.
func (e *Engine) Logs(ctx context.Context, id string, opts LogOptions) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		if _, err := e.Inspect(ctx, id); err != nil {
			yield(Line{}, err)
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		tail := "all"
		if opts.Tail > 0 {
			tail = strconv.Itoa(opts.Tail)
		}
		raw, err := e.api.ContainerLogs(ctx, id, container.LogsOptions{
			ShowStdout: true, ShowStderr: true, Timestamps: true, Follow: opts.Follow, Tail: tail,
		})
		if err != nil {
			yield(Line{}, failed("read container's log", err))
			return
		}
		defer raw.Close()
		stdout, stderr := &lines{stream: "stdout", yield: yield}, &lines{stream: "stderr", yield: yield}
		_, err = stdcopy.StdCopy(stdout, stderr, raw)
		if errors.Is(err, errEnough) {
			return
		}
		if err == nil {
			err = errors.Join(stdout.flush(), stderr.flush())
		}
		if err != nil && !errors.Is(err, errEnough) {
			yield(Line{}, fmt.Errorf("read container's log: %w", err))
		}
	}
}

// errEnough: who ranges over the lines broke off.
var errEnough = errors.New("enough lines")

// lines puts lines together. Docker frames each piece it stored (a line, or 16 KiB of a longer one) and puts the time it
// stored it in front of each; StdCopy makes one Write of a frame.
type lines struct {
	stream string
	yield  func(Line, error) bool
	since  time.Time
	text   []byte
}

func (l *lines) Write(frame []byte) (int, error) {
	stamp, text, _ := bytes.Cut(frame, []byte(" "))
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return 0, fmt.Errorf("read time of a line: %w", err)
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
