package service

import (
	"io"
	"sync"
)

// maxPending is how many bytes of log lines may wait for a slow reader before who logs waits, too.
const maxPending = 1 << 20

// lines writes log lines that come while others are being written together with one system call, in the order in which
// they came. Nobody waits for them unless maxPending bytes do already: a kill loses the lines of the last
// microseconds, which is what the audit log is for.
type lines struct {
	to io.Writer

	mu      sync.Mutex
	pending []byte
	spare   []byte // what pending will be next
	writing bool
	written sync.Cond // a write has ended
}

func newLines(to io.Writer) *lines {
	l := &lines{to: to}
	l.written.L = &l.mu
	return l
}

// Write takes whole lines. It never fails: nobody could be told.
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
	return len(p), nil
}

func (l *lines) drain() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.pending) > 0 {
		taken := l.pending
		l.pending = l.spare[:0]
		l.mu.Unlock()
		_, _ = l.to.Write(taken)
		l.mu.Lock()
		l.spare = taken
		l.written.Broadcast()
	}
	l.writing = false
	l.written.Broadcast()
}

// Flush returns when everything was written that was logged before.
func (l *lines) Flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.writing {
		l.written.Wait()
	}
}
