package events

import (
	"errors"
	"fmt"
	"time"

	"github.com/rumi-ai/rumi/libs/audit"
	"github.com/rumi-ai/rumi/libs/auditfile"
)

// stream is a position in each file of a day and of the day before. The day before is followed, too: a process may write an entry of yesterday
// some time after midnight. One goroutine uses it.
type stream struct {
	log    *Log
	filter auditfile.Filter
	day    auditfile.Day
	heads  []*head // of the day before and of the day, by category
	gaps   []gap   // not told yet
}

// head is a position in one file.
type head struct {
	id     auditfile.ID
	file   *file // nil where there is none, or it needn't be read
	offset int64 // of the next line
	check  uint16
	final  bool  // check doesn't change any more
	lines  chunk // from offset on
	read   int64 // up to which size the file was read: there is no whole line before it
	skip   bool  // the filter asks for no entry of it, or it can't be read
	tried  int64 // Log.appeared when it was looked for last, plus 1; 0 for never
}

// gap says that entries are missing which the cursor's owner hasn't got.
type gap struct {
	From, Until auditfile.Day // Until is the first day that is there again
	Files       []string      // whose entries are missing, from somewhere on
	Reason      string        // removed, replaced or unreadable
}

func today() auditfile.Day { return auditfile.DayOf(time.Now()) }

// begin makes a stream that starts with what is written from now on.
func (l *Log) begin(filter auditfile.Filter) (*stream, error) {
	return l.resume(auditfile.Cursor{Day: today()}, filter, true)
}

// open makes a stream that goes on after a cursor.
func (l *Log) open(cursor auditfile.Cursor, filter auditfile.Filter) (*stream, error) {
	return l.resume(cursor, filter, false)
}

func (l *Log) resume(cursor auditfile.Cursor, filter auditfile.Filter, atEnd bool) (*stream, error) {
	if _, err := l.folder(); err != nil {
		return nil, err
	}
	l.enter()
	s := &stream{log: l, filter: filter, day: cursor.Day}
	for _, day := range []auditfile.Day{cursor.Day - 1, cursor.Day} {
		for _, category := range audit.Categories() {
			p := cursor.Position(auditfile.ID{Category: category, Day: day})
			h := &head{id: p.ID, offset: p.Offset, check: p.Check, skip: !filter.Wants(category)}
			s.heads = append(s.heads, h)
			if err := s.place(h, atEnd); err != nil {
				s.close()
				return nil, err
			}
		}
	}
	if err := s.noteLost(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// place opens the file of a head; atEnd puts it after the last line.
func (s *stream) place(h *head, atEnd bool) (err error) {
	if h.file, err = s.log.acquire(h.id); err != nil || h.file == nil || !atEnd {
		return err
	}
	size, err := h.file.Size()
	if err != nil {
		return err
	}
	back, err := auditfile.NewBackward(h.file, size)
	if err != nil {
		return err
	}
	h.offset = back.Offset()
	return h.updateCheck()
}

// close gives the files back.
func (s *stream) close() {
	for _, h := range s.heads {
		s.log.release(h.file)
		h.file = nil
	}
	s.log.leave()
}

// noteLost compares the positions of the cursor with the files that are there. Positions that mean nothing any more are put at the beginning of the
// file that has the name now.
func (s *stream) noteLost() error {
	removed, replaced := gap{Reason: "removed"}, gap{Reason: "replaced"}
	for _, h := range s.heads {
		gone, err := h.lost()
		if err != nil {
			return err
		}
		if !gone {
			continue
		}
		h.offset, h.check, h.final = 0, 0, false
		of := &replaced
		if h.file == nil {
			of = &removed
		}
		if of.Files = append(of.Files, h.id.Name()); len(of.Files) == 1 {
			of.From = h.id.Day
		}
		of.Until = h.id.Day + 1
	}
	if len(replaced.Files) > 0 {
		s.gaps = append(s.gaps, replaced)
	}
	if len(removed.Files) == 0 {
		return nil
	}
	return s.noteRemoved(removed)
}

// noteRemoved notes that files were removed. Where none is left of the last day, those of the days after it may have been removed, too.
func (s *stream) noteRemoved(removed gap) error {
	if !s.has(s.day) {
		next, err := s.nextDay()
		if err != nil {
			return err
		}
		removed.Until = next
	}
	s.gaps = append(s.gaps, removed)
	return nil
}

// has says whether a file of the day is there.
func (s *stream) has(day auditfile.Day) bool {
	for _, h := range s.heads {
		if h.id.Day == day && h.file != nil {
			return true
		}
	}
	return false
}

// lost says whether the offset is one of another file than the one that is there.
func (h *head) lost() (bool, error) {
	if h.offset == 0 {
		return false, nil
	}
	if h.file == nil {
		return true, nil
	}
	if size, err := h.file.Size(); err != nil || size < h.offset {
		return true, err
	}
	check, err := auditfile.Check(h.file, h.offset)
	if err != nil || check != h.check {
		return true, err
	}
	var last [1]byte
	if _, err := h.file.ReadAt(last[:], h.offset-1); err != nil {
		return true, fmt.Errorf("read %s: %w", h.id.Name(), err)
	}
	return last[0] != '\n', nil
}

// updateCheck finds out the check of the head's offset.
func (h *head) updateCheck() (err error) {
	if h.offset == 0 || h.final {
		return nil
	}
	h.check, err = auditfile.Check(h.file, h.offset)
	h.final = err == nil && h.offset >= auditfile.Checked
	return err
}

// next returns the next entry, whether the filter asks for it or not: of those that were read and not returned, the one with the earliest ts. It is nil
// where there is none as yet. Gaps are returned by themselves, before the entry that comes after them.
func (s *stream) next() (*line, []gap, error) {
	for {
		first, err := s.first()
		if gaps := s.gaps; err != nil || len(gaps) > 0 {
			s.gaps = nil
			return nil, gaps, err
		}
		if first != nil {
			l, err := first.take()
			return l, nil, err
		}
		if more, err := s.advance(); err != nil || !more {
			return nil, nil, err
		}
	}
}

// take goes past the first line.
func (h *head) take() (*line, error) {
	taken := &h.lines[0]
	h.lines, h.offset = h.lines[1:], taken.end
	return taken, h.updateCheck()
}

// first is the head with the earliest entry, nil for none. A foreign line has no time: it comes at once.
func (s *stream) first() (earliest *head, err error) {
	for _, h := range s.heads {
		if err := s.fill(h); err != nil {
			return nil, err
		}
		if len(h.lines) == 0 {
			continue
		}
		if h.lines[0].foreign {
			return h, nil
		}
		if earliest == nil || h.lines[0].entry.TS.Before(earliest.lines[0].entry.TS) {
			earliest = h
		}
	}
	return earliest, nil
}

// fill reads on where a head has no lines. A file of a day that is long over and can't be read is left out: it would end the stream each time that
// its client connects.
func (s *stream) fill(h *head) error {
	if len(h.lines) > 0 || h.skip {
		return nil
	}
	err := s.readOn(h)
	if err == nil || h.id.Day >= today()-1 {
		return err
	}
	s.log.log.Error("reading an old file of the audit log failed; streams leave it out", "file", h.id.Name(), "error", err)
	s.gaps = append(s.gaps, gap{From: h.id.Day, Until: h.id.Day + 1, Files: []string{h.id.Name()}, Reason: "unreadable"})
	h.skip = true
	return nil
}

func (s *stream) readOn(h *head) error {
	if found, err := s.find(h); err != nil || !found {
		return err
	}
	stale, size := h.file.stale.Load(), h.file.size.Load()
	if size < h.offset {
		if err := h.checkSize(); err != nil {
			return err
		}
	}
	if size > h.read {
		lines, err := h.file.read(h.offset)
		if h.lines = lines; err != nil || len(lines) > 0 {
			return err
		}
		h.read = size
	}
	if stale {
		return s.replace(h)
	}
	return nil
}

// find opens the file of a head that has none.
func (s *stream) find(h *head) (found bool, err error) {
	appeared := s.log.appeared.Load()
	if h.file == nil && h.tried != appeared+1 {
		h.tried = appeared + 1
		h.file, err = s.log.acquire(h.id)
	}
	return h.file != nil, err
}

// errShorter is why a stream ends whose file was cut in its place. Its client goes on from its cursor, and is told what is missing.
var errShorter = errors.New("a file of the audit log became shorter")

// checkSize fails if the file ends before the head's offset. At the last poll it may have: lines that came after that are read, too.
func (h *head) checkSize() error {
	size, err := h.file.Size()
	if err == nil && size < h.offset {
		err = errShorter
	}
	return err
}

// replace goes over to the file that has the name now. If that has other lines (the operator has rotated the log), it is read from its beginning. What a
// process wrote to the old one at the last moment was read before: a writer notices the rotation with its next write.
func (s *stream) replace(h *head) error {
	next, err := s.log.acquire(h.id)
	if err != nil || next == nil || next == h.file {
		s.log.release(next)
		return err
	}
	s.log.release(h.file)
	h.file, h.read = next, 0
	gone, err := h.lost()
	if gone {
		h.offset, h.check, h.final = 0, 0, false
	}
	return err
}

// advance goes over to the next day once this one is over and all its lines were read.
func (s *stream) advance() (bool, error) {
	if s.day >= today() {
		return false, nil
	}
	next, err := s.nextDay()
	if err != nil {
		return false, err
	}
	if next > s.day+1 {
		if err := s.noteSkipped(next); err != nil {
			return false, err
		}
	}
	kept := s.heads[len(s.heads)/2:]
	for _, h := range s.heads[:len(s.heads)/2] {
		s.log.release(h.file)
	}
	if next != s.day+1 {
		for i, h := range kept {
			s.log.release(h.file)
			kept[i] = &head{id: auditfile.ID{Category: h.id.Category, Day: next - 1}, skip: h.skip}
		}
	}
	s.heads = kept
	for _, h := range kept {
		s.heads = append(s.heads, &head{id: auditfile.ID{Category: h.id.Category, Day: next}, skip: h.skip})
	}
	s.day = next
	return true, nil
}

// noteSkipped notes that days are skipped because they were removed while the stream was behind. There are none of days on which the suite
// didn't run; but days are removed the oldest first, so that the files of this day are gone, too, if the next ones were removed.
func (s *stream) noteSkipped(next auditfile.Day) error {
	for _, h := range s.heads[len(s.heads)/2:] {
		if h.file == nil {
			continue
		}
		print, err := s.log.dir.Fingerprint(h.id)
		if err == nil && print == (auditfile.Fingerprint{}) {
			s.gaps = append(s.gaps, gap{From: s.day + 1, Until: next, Reason: "removed"})
		}
		return err
	}
	return nil
}

// nextDay is the next day of which there are files, today at the latest.
func (s *stream) nextDay() (auditfile.Day, error) {
	dir, err := s.log.folder()
	if err != nil {
		return 0, err
	}
	stored, err := dir.List()
	next := max(today(), s.day+1)
	for _, one := range stored {
		if one.Day > s.day {
			next = min(next, one.Day)
		}
	}
	return next, err
}

// cursor is the position after the entries that next has returned.
func (s *stream) cursor() auditfile.Cursor {
	c := auditfile.Cursor{Kind: auditfile.Forward, Day: s.day}
	for _, h := range s.heads {
		if h.offset > 0 {
			c.Positions = append(c.Positions, auditfile.Position{ID: h.id, Offset: h.offset, Check: h.check})
		}
	}
	return c
}

// asks says whether the filter asks for a line.
func (s *stream) asks(l *line) bool { return !l.foreign && s.filter.Match(&l.entry) }
