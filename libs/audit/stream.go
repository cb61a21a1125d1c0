package audit

import (
	"sync"
	"time"
)

const secondsADay = 24 * 60 * 60

// keepBuffer is the largest buffer, in bytes, that is kept for the next lines.
const keepBuffer = 1 << 20

// stream is one category, with its group commit: what comes while a write or sync runs waits for the next one together,
// so that the number of system calls doesn't grow with the number of writers. Time is read under its lock, so that
// a file's lines are in the order of their ts (as far as one process writes them).
type stream struct {
	prefix string   // of the files' paths
	all    []string // the prefixes of all categories
	synced bool

	mu         sync.Mutex
	queue      []*batch // not yet taken by a commit, in order
	committing bool     // somebody writes; the file is theirs
	spare      [][]byte // buffers that no batch uses, at most two: one to be filled while one is written

	drains sync.WaitGroup
	file   *file
}

// batch is a number of lines of one day that share a write and, where the category has it, a sync.
type batch struct {
	day     int64 // since 1970, UTC
	lines   []byte
	decided bool
	done    chan struct{} // closed when decided; nil while nobody waits for it
	kept    int           // how many bytes of lines are where they should be; the lines they hold are no failure
	err     error         // why the rest isn't
}

// ticket is one line's place.
type ticket struct {
	stream *stream
	batch  *batch
	end    int // of the line in the batch
}

// submit takes a line, whose body lacks only the leading `{"ts":"…",`.
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

// open is the batch for lines of now.
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

// wait returns when the ticket's line is where it should be, or failed to get there. Whoever waits while nobody writes
// does the writing.
func (t ticket) wait() error {
	s := t.stream
	s.mu.Lock()
	defer s.mu.Unlock()
	for !t.batch.decided {
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
	if t.end <= t.batch.kept {
		return nil
	}
	return t.batch.err
}

// drain writes for others, so that nobody who is done has to.
func (s *stream) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.queue) > 0 {
		s.commit()
	}
	s.committing = false
}

// commit writes the first batch of the queue, with the lock released meanwhile.
func (s *stream) commit() {
	b := s.queue[0]
	s.queue = append(s.queue[:0], s.queue[1:]...)
	s.mu.Unlock()
	b.kept, b.err = s.put(b)
	s.mu.Lock()
	if b.decided = true; b.done != nil {
		close(b.done)
	}
	if cap(b.lines) <= keepBuffer && len(s.spare) < 2 {
		s.spare = append(s.spare, b.lines[:0])
	}
	b.lines = nil
}

// put brings a batch to the disk.
func (s *stream) put(b *batch) (kept int, err error) {
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
	kept, err = s.file.write(b.lines)
	if kept > 0 && s.synced {
		// The kernel reports a lost page once: every line that this sync was for counts as lost.
		if err := s.file.sync(); err != nil {
			return 0, err
		}
	}
	return kept, err
}

// close writes what nobody waits for and closes the file.
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
