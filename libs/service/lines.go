package service

import (
	"io"
	"sync"
	"time"
)

const (
	// maxPending bounds the log lines, in bytes, that wait because the reader of the log is slow. Beyond that Write waits.
	maxPending = 1 << 20

	// gatherTime is how long a line may wait for others, unless gatherBytes wait already. The reader of a container's log is the engine, which works for each
	// write: for a line of its own about as long as egress-proxy does for the request that the line is about.
	gatherTime  = 10 * time.Millisecond
	gatherBytes = 64 << 10
)

// lines is an io.Writer for log lines that returns before they are written. A goroutine writes them to out, in order, those of gatherTime together
// with one system call. So a request doesn't wait for the reader of the log, until maxPending bytes wait.
//
// The price: a kill -9 loses the lines of the last milliseconds. Decisions aren't lost with them: they are in
// the audit log, which is synced before the answer.
type lines struct {
	out   io.Writer
	hurry chan struct{} // has one while the lines that wait are to be written at once

	mu      sync.Mutex
	pending []byte
	spare   []byte    // an empty buffer that becomes pending next, so that none is allocated
	writing bool      // drain runs
	written sync.Cond // a write has ended
}

func newLines(out io.Writer) *lines {
	l := &lines{out: out, hurry: make(chan struct{}, 1)}
	l.written.L = &l.mu
	return l
}

// Write queues p, one or more complete lines. It waits while maxPending bytes are queued already. It never fails: an error of out is
// ignored, because there is nowhere to report that the log can't be written.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.pending) > 0 && len(l.pending)+len(p) > maxPending {
		l.written.Wait()
	}
	l.pending = append(l.pending, p...)
	if !l.writing {
		l.writing = true
		go l.drain()
	}
	if len(l.pending) >= gatherBytes {
		l.hurryUp()
	}
	return len(p), nil
}

func (l *lines) hurryUp() {
	select {
	case l.hurry <- struct{}{}:
	default: // it is told already
	}
}

// drain writes until nothing is pending. The lock isn't held during a write, so that Write can go on queueing. One drain runs at a time,
// otherwise lines could change places.
func (l *lines) drain() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.pending) > 0 {
		l.mu.Unlock()
		l.gather()
		l.mu.Lock()
		taken := l.pending
		l.pending = l.spare[:0]
		l.mu.Unlock()
		_, _ = l.out.Write(taken)
		l.mu.Lock()
		l.spare = taken
		l.written.Broadcast()
	}
	l.writing = false
	l.written.Broadcast()
}

// gather waits for further lines.
func (l *lines) gather() {
	enough := time.NewTimer(gatherTime)
	defer enough.Stop()
	select {
	case <-l.hurry:
	case <-enough.C:
	}
}

// Flush waits until all lines that were queued before the call are written. The end of the process must call it, or the last lines are lost.
func (l *lines) Flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.writing {
		l.hurryUp()
		l.written.Wait()
	}
}
