package audit

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const secondsADay = 24 * 60 * 60

// maxSpareBuffer is the largest buffer, in bytes, that is kept for the next lines.
const maxSpareBuffer = 1 << 20

// stream is the files of one category, with group commit: lines that are submitted while a write or a sync runs are written
// together by the next one, so the number of system calls doesn't grow with the number of writers. There is no goroutine of
// its own: the first of those that wait writes for all (see wait).
//
// The time of a line is read under mu, so the lines that one process writes to a file are in the order of their ts.
type stream struct {
	prefix string   // of the files' paths
	all    []string // the prefixes of all categories
	synced bool

	took prometheus.Observer // of the writes of batches, in seconds

	mu         sync.Mutex
	queue      []*batch // that no commit has taken yet, the oldest first
	committing bool     // a goroutine is in commit, or about to be: file is its alone
	spare      [][]byte // buffers that no batch uses, at most two: one to be filled while one is written

	drains sync.WaitGroup
	file   *file
}

// batch is a number of lines of one day that share a write and, where the category has it, a sync.
type batch struct {
	day      int64 // since 1970, UTC
	lines    []byte
	finished bool
	done     chan struct{} // closed when finished; nil while nobody waits for it
	written  int           // bytes of whole lines that are in the file (on the disk if synced); these lines have not failed
	err      error         // why the rest isn't
}

// ticket is a submitted line, to be waited for.
type ticket struct {
	stream *stream
	batch  *batch
	end    int // of the line in the batch
}

// submit adds a line to the newest batch. body is the line's JSON object without its ts. The line is written by wait, or by the
// wait of another line.
func (s *stream) submit(body []byte) ticket {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now().UTC()
	b := s.open(now)
	b.lines = append(b.lines, `{"ts":"`...)
	b.lines = now.AppendFormat(b.lines, "2006-01-02T15:04:05.000000Z")
	b.lines = append(b.lines, `",`...)
	b.lines = append(b.lines, body[1:]...)
	b.lines = append(b.lines, '\n')
	return ticket{s, b, len(b.lines)}
}

// open returns the batch for lines of now: the newest, unless a commit has taken it or the day is over. mu is held.
func (s *stream) open(now time.Time) *batch {
	day := now.Unix() / secondsADay
	if n := len(s.queue); n > 0 && s.queue[n-1].day == day {
		return s.queue[n-1]
	}
	b := &batch{day: day}
	if n := len(s.spare); n > 0 {
		b.lines, s.spare = s.spare[n-1], s.spare[:n-1]
	}
	s.queue = append(s.queue, b)
	return b
}

// wait returns when the ticket's line has been written (and synced, if the category is), or could not be. If no other goroutine writes
// meanwhile, the caller writes the batches that are before it, and its own.
func (t ticket) wait() error {
	s := t.stream
	s.mu.Lock()
	defer s.mu.Unlock()
	for !t.batch.finished {
		if !s.committing {
			s.committing = true
			s.commit()
			s.committing = false
			continue
		}
		if t.batch.done == nil {
			t.batch.done = make(chan struct{})
		}
		done := t.batch.done
		s.mu.Unlock()
		<-done
		s.mu.Lock()
	}
	if len(s.queue) > 0 && !s.committing {
		s.committing = true
		s.drains.Go(s.drain)
	}
	if t.end <= t.batch.written {
		return nil
	}
	return t.batch.err
}

// drain writes the batches of those that still wait, so that a caller whose own line is written needn't stay for them.
func (s *stream) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.queue) > 0 {
		s.commit()
	}
	s.committing = false
}

// commit writes the oldest batch. mu is held, but not during the write; committing keeps others out of it.
func (s *stream) commit() {
	b := s.queue[0]
	s.queue = append(s.queue[:0], s.queue[1:]...)
	s.mu.Unlock()
	began := time.Now()
	b.written, b.err = s.writeBatch(b)
	s.took.Observe(time.Since(began).Seconds())
	s.mu.Lock()
	if b.finished = true; b.done != nil {
		close(b.done)
	}
	if cap(b.lines) <= maxSpareBuffer && len(s.spare) < 2 {
		s.spare = append(s.spare, b.lines[:0])
	}
	b.lines = nil
}

// writeBatch writes a batch to the file of its day, and syncs it if the category is. mu is not held. written is as in batch.
func (s *stream) writeBatch(b *batch) (written int, err error) {
	if s.file == nil || s.file.day != b.day || s.file.moved() {
		f, err := openFile(s.prefix+dayName(b.day), b.day)
		if err != nil {
			return 0, err
		}
		if s.file == nil || s.file.day != b.day {
			makeFiles(s.all, b.day)
		}
		if s.file != nil {
			s.file.close()
		}
		s.file = f
	}
	written, err = s.file.write(b.lines)
	if written > 0 && s.synced {
		// The kernel reports a page that it could not write once only, to one sync. So after a failure every line that this
		// sync was for counts as lost.
		if err := s.file.sync(); err != nil {
			return 0, err
		}
	}
	return written, err
}

// close writes the lines that are still queued, and closes the file.
func (s *stream) close() error {
	s.drains.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.queue) > 0 {
		s.commit()
	}
	if s.file == nil {
		return nil
	}
	f := s.file
	s.file = nil
	err := f.sync()
	f.close()
	return err
}
