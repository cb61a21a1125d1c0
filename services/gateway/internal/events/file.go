package events

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/rumi-ai/rumi/libs/auditfile"
)

// Bounds of what is kept of the lines that were read.
const (
	chunkBytes = 16 << 10 // of lines in a chunk, or one line that is longer
	keptChunks = 4        // of each file
)

// stalePolls is how often a file must be found under another name, or none, before the one that has its name now is read. It takes a second: a
// process that was about to write to the old one when it was renamed has done so by then.
const stalePolls = 10

// line is a whole line of a file.
type line struct {
	entry      auditfile.Entry
	begin, end int64
	foreign    bool // it is no entry, or can't be an event's data because a carriage return would end that; it is skipped
}

// chunk is a number of lines, one after the other. It isn't changed once it is made.
type chunk []line

// file is an open file that streams share.
type file struct {
	*auditfile.File
	users int // this and the next ones are of the Log's lock
	print auditfile.Fingerprint
	seen  int64 // the size at the last poll
	moved int   // polls that found another file under the name, or none
	size  atomic.Int64
	stale atomic.Bool // that is so for long enough: this one doesn't grow any more

	mu     sync.Mutex
	chunks []chunk // those read last, the newest at the end
}

// readers are kept for their memory.
var readers = sync.Pool{New: func() any { return new(auditfile.Lines) }}

func openFile(dir *auditfile.Dir, id auditfile.ID) (*file, error) {
	print, err := dir.Fingerprint(id)
	if err != nil {
		return nil, err
	}
	opened, err := dir.Open(id)
	if err != nil {
		return nil, err
	}
	size, err := opened.Size()
	if err != nil {
		return nil, errors.Join(err, opened.Close())
	}
	f := &file{File: opened, users: 1, print: print, seen: size}
	f.size.Store(size)
	return f, nil
}

// poll finds out the size, and whether the name leads to another file now, or a compressed one stands beside it.
func (f *file) poll(dir *auditfile.Dir) error {
	print, err := dir.Fingerprint(f.ID)
	if err != nil {
		return err
	}
	size, err := f.Size()
	if err != nil {
		return err
	}
	if size < f.size.Swap(size) { // it was cut in its place: what comes now are other lines
		f.mu.Lock()
		f.chunks = nil
		f.mu.Unlock()
	}
	if print.Plain == f.print.Plain && print.Packed == f.print.Packed {
		f.moved = 0
	} else if f.moved++; f.moved >= stalePolls {
		f.stale.Store(true)
	}
	return nil
}

// grown says whether the size is another one than at the last call.
func (f *file) grown() bool {
	size := f.size.Load()
	grown := size != f.seen
	f.seen = size
	return grown
}

// read returns the lines from an offset on, as many as a chunk has; none where no whole line follows.
func (f *file) read(offset int64) (chunk, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.chunks {
		if c[0].begin <= offset && offset < c[len(c)-1].end {
			at, found := slices.BinarySearchFunc(c, offset, func(l line, offset int64) int { return int(min(1, max(-1, l.begin-offset))) })
			if found {
				return c[at:], nil
			}
		}
	}
	c, err := f.load(offset)
	if err != nil || len(c) == 0 {
		return nil, err
	}
	if len(f.chunks) == keptChunks {
		f.chunks = slices.Delete(f.chunks, 0, 1)
	}
	f.chunks = append(f.chunks, c)
	return c, nil
}

// load reads a chunk from the file.
func (f *file) load(offset int64) (c chunk, err error) {
	lines := readers.Get().(*auditfile.Lines)
	defer readers.Put(lines)
	lines.Reset(f.File, offset)
	for size := 0; size < chunkBytes; {
		next, err := lines.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", f.Name(), err)
		}
		entry, err := auditfile.ParseOf(f.ID, slices.Clone(next.Text))
		c = append(c, line{entry: entry, begin: next.Begin, end: next.End, foreign: err != nil || bytes.IndexByte(next.Text, '\r') >= 0})
		size += len(next.Text)
	}
	return c, nil
}
