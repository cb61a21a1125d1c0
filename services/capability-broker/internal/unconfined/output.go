package unconfined

import (
	"bytes"
	"context"
	"io"
	"iter"
	"sync"
	"time"

	"github.com/rumi-ai/rumi/libs/sandbox"
)

// Bounds of what is kept of a process's output, in memory.
const (
	maxLine = 64 << 10 // bytes after which a line without end is cut
	maxKept = 4 << 20  // bytes, of the last lines

	lineCost = 64 // bytes that a line counts beside its text, or a pack that prints empty lines only would fill the memory
)

// output is the last lines that a process printed, of all its runs.
type output struct {
	mu      sync.Mutex
	changed sync.Cond
	lines   []sandbox.Line
	first   int // the number of lines[0]: so many were dropped
	size    int
	partial map[string][]byte // by stream, a line that has no end yet
	ended   bool
}

func newOutput() *output {
	o := &output{partial: make(map[string][]byte)}
	o.changed.L = &o.mu
	return o
}

// stream returns the writer for the process's stdout or stderr.
func (o *output) stream(name string) io.Writer { return stream{o, name} }

type stream struct {
	*output
	name string
}

func (s stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	half := append(s.partial[s.name], p...)
	for {
		at := bytes.IndexByte(half, '\n')
		switch {
		case at >= 0 && at <= maxLine:
			s.add(s.name, half[:at])
			half = half[at+1:]
			continue
		case len(half) > maxLine:
			s.add(s.name, half[:maxLine])
			half = half[maxLine:]
			continue
		}
		break
	}
	s.partial[s.name] = bytes.Clone(half)
	s.changed.Broadcast()
	return len(p), nil
}

func (o *output) add(stream string, text []byte) {
	o.lines = append(o.lines, sandbox.Line{Time: time.Now().UTC(), Stream: stream, Text: string(text)})
	o.size += len(text) + lineCost
	for o.size > maxKept {
		o.size -= len(o.lines[0].Text) + lineCost
		o.lines = o.lines[1:]
		o.first++
	}
}

// begin says that another run begins: more output comes.
func (o *output) begin() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = false
}

// end says that the run is over: no more output comes. A line that has no end yet is complete.
func (o *output) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, name := range []string{"stdout", "stderr"} {
		if half := o.partial[name]; len(half) > 0 {
			o.add(name, half)
		}
	}
	clear(o.partial)
	o.ended = true
	o.changed.Broadcast()
}

// next returns the lines from number from on, and the number to ask for next; more is false if no more will come. With wait it waits until
// there is a line, the run is over, or ctx ends.
func (o *output) next(ctx context.Context, from int, wait bool) (lines []sandbox.Line, next int, more bool) {
	defer context.AfterFunc(ctx, func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.changed.Broadcast()
	})()
	o.mu.Lock()
	defer o.mu.Unlock()
	for wait && !o.ended && ctx.Err() == nil && from >= o.first+len(o.lines) {
		o.changed.Wait()
	}
	from = max(from, o.first)
	lines = append(lines, o.lines[from-o.first:]...)
	return lines, from + len(lines), !o.ended
}

// Logs returns a process's output. The last 4 MiB are kept until the process is removed.
func (e *Engine) Logs(ctx context.Context, id string, opts sandbox.LogOptions) iter.Seq2[sandbox.Line, error] {
	return func(yield func(sandbox.Line, error) bool) {
		c, err := e.child(id)
		if err != nil {
			yield(sandbox.Line{}, err)
			return
		}
		lines, next, more := c.output.next(ctx, 0, false)
		if opts.Tail > 0 {
			lines = lines[max(0, len(lines)-opts.Tail):]
		}
		for {
			for _, line := range lines {
				if !yield(line, nil) {
					return
				}
			}
			if !opts.Follow || !more {
				return
			}
			if err := ctx.Err(); err != nil {
				yield(sandbox.Line{}, err)
				return
			}
			lines, next, more = c.output.next(ctx, next, true)
		}
	}
}
