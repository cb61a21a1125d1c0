package auditquery

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/rumi-ai/rumi/libs/auditfile"
	"github.com/rumi-ai/rumi/services/gateway/internal/auditindex"
)

// source finds the entries of one file that are asked for, from its end to its beginning.
type source struct {
	id     auditfile.ID
	file   *auditfile.File
	want   *Question
	index  *auditindex.Index
	budget *budget

	parts  []part // that are left, the one to be read next last
	reader reader // of a part that is under way; nil between two parts
	at     int64  // from here on all was looked at

	head    *auditfile.Entry // the next entry; nil where there is none
	headEnd int64            // offset of its end
	stopped bool             // the budget is spent
}

// part is a range of the file that a segment is about, or none is.
type part struct {
	from, to int64
	segment  *auditindex.Segment // nil: it is read line by line
}

// reader reads lines of a part backwards. The error is io.EOF at the beginning of the part. A line without text is none that can be an entry.
type reader interface {
	previous() (auditfile.Line, error)
	close()
}

// open opens a file, and bounds it by the cursor. It returns nil where there is nothing to be read.
func (l *Log) open(q *Question, id auditfile.ID) (*source, error) {
	file, err := l.dir.Open(id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // removed since the folder was listed
	} else if err != nil {
		return nil, err
	}
	s := &source{id: id, file: file, want: q, index: l.index, budget: q.budget}
	if err := s.divide(q); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// divide makes the parts of what the cursor leaves.
func (s *source) divide(q *Question) error {
	size, err := s.file.Size()
	if err != nil {
		return err
	}
	if q.Cursor != nil && q.Cursor.Day == s.id.Day {
		size = min(size, q.Cursor.Position(s.id).Offset)
	}
	segments, err := s.index.Cover(s.file)
	if err != nil {
		return err
	}
	from := int64(0)
	for _, segment := range segments {
		if segment.From() >= size {
			break
		}
		if segment.From() > from {
			s.parts = append(s.parts, part{from, segment.From(), nil})
		}
		from = min(segment.To(), size)
		s.parts = append(s.parts, part{segment.From(), from, segment})
	}
	if from < size {
		s.parts = append(s.parts, part{from, size, nil})
	}
	s.at = size
	return nil
}

// position is the offset before which the entries lie that are left.
func (s *source) position() int64 {
	if s.head != nil {
		return s.headEnd
	}
	return s.at
}

// take takes the head off.
func (s *source) take() *auditfile.Entry {
	taken := s.head
	s.head = nil
	return taken
}

// advance takes the head off and finds the next one. Without one, either all was looked at, or stopped is set.
func (s *source) advance() error {
	s.take()
	for {
		line, err := s.previous()
		switch {
		case errors.Is(err, io.EOF):
			s.at = 0
			return nil
		case errors.Is(err, errSpent), errors.Is(err, io.ErrUnexpectedEOF): // or the file became shorter: the next answer begins at its end
			s.stopped = true
			return nil
		case err != nil:
			return fmt.Errorf("read audit log: %s: %w", s.id.Name(), err)
		}
		s.at = line.Begin
		if line.Text == nil || s.want.Filter.Excludes(line.Text) {
			continue
		}
		if e, err := auditfile.ParseOf(s.id, line.Text); err == nil && s.want.match(&e) {
			e.Raw = bytes.Clone(e.Raw) // the reader uses its buffer again
			s.head, s.headEnd = &e, line.End
			return nil
		}
	}
}

func (q *Question) match(e *auditfile.Entry) bool {
	return q.Filter.Match(e) && (q.Packs == nil || slices.Contains(q.Packs, e.OwnerPack))
}

// errSpent ends the search when the budget is spent.
var errSpent = errors.New("the time for one question is over")

// previous is the line before the one that was looked at last, of those that may match.
func (s *source) previous() (auditfile.Line, error) {
	for {
		if s.reader == nil {
			if len(s.parts) == 0 {
				return auditfile.Line{}, io.EOF
			}
			if s.budget.over() {
				return auditfile.Line{}, errSpent
			}
			if err := s.begin(); err != nil {
				return auditfile.Line{}, err
			}
			continue
		}
		if !s.budget.spend() {
			return auditfile.Line{}, errSpent
		}
		line, err := s.reader.previous()
		if err == nil {
			return line, nil
		}
		if err := s.end(err); err != nil {
			return auditfile.Line{}, err
		}
	}
}

// begin opens the next part.
func (s *source) begin() error {
	p := s.parts[len(s.parts)-1]
	if p.segment == nil {
		backward, err := auditfile.NewBackward(s.file, p.to)
		s.reader = &plainReader{backward, p.from}
		return err
	}
	candidates, err := s.index.Candidates(p.segment, &s.want.Filter, s.want.Packs, p.to)
	if err != nil {
		s.withoutSegment(err)
		return nil
	}
	if candidates == nil {
		s.finish()
		return nil
	}
	s.reader = &candidateReader{candidates: candidates, file: s.file, part: p}
	return nil
}

// end ends a part at its beginning, or goes on without its segment.
func (s *source) end(err error) error {
	switch p := s.parts[len(s.parts)-1]; {
	case errors.Is(err, io.EOF):
		s.finish()
	case p.segment != nil && !errors.As(err, new(*logError)):
		s.withoutSegment(err)
	default:
		return err
	}
	return nil
}

// finish ends a part that was looked at as a whole.
func (s *source) finish() {
	last := len(s.parts) - 1
	s.at = s.parts[last].from
	s.parts = s.parts[:last]
	s.closeReader()
}

// withoutSegment reads what is left of a part line by line, because its segment is damaged, or was replaced by a larger one.
func (s *source) withoutSegment(why error) {
	p := &s.parts[len(s.parts)-1]
	if errors.Is(why, auditindex.ErrDamaged) {
		s.index.Reject(p.segment, why.Error())
	}
	p.segment, p.to = nil, min(p.to, s.at)
	s.closeReader()
}

func (s *source) closeReader() {
	if s.reader != nil {
		s.reader.close()
		s.reader = nil
	}
}

func (s *source) close() {
	s.closeReader()
	_ = s.file.Close()
}

// plainReader reads all lines of a part.
type plainReader struct {
	lines *auditfile.Backward
	from  int64
}

func (r *plainReader) previous() (auditfile.Line, error) {
	line, err := r.lines.Previous()
	if err == nil && line.End <= r.from {
		err = io.EOF
	}
	return line, err
}

func (r *plainReader) close() {}

// candidateReader reads the lines of a part that its segment proposes.
type candidateReader struct {
	candidates *auditindex.Candidates
	file       *auditfile.File
	part       part
	window     []byte // what was read of the file
	windowAt   int64  // its offset
}

// windowSize is how much is read at once where most lines are wanted.
const windowSize = 64 << 10

// logError is a failure to read the log itself: without the segment it would be the same.
type logError struct{ error }

func (e *logError) Unwrap() error { return e.error }

func (r *candidateReader) previous() (auditfile.Line, error) {
	begin, end, more, err := r.candidates.Previous()
	switch {
	case err != nil:
		return auditfile.Line{}, err
	case !more:
		return auditfile.Line{}, io.EOF
	}
	// After the line there may be foreign ones, up to the next entry.
	text, err := r.read(begin, min(end, begin+auditfile.MaxLine))
	if err != nil {
		return auditfile.Line{}, &logError{err}
	}
	length := bytes.IndexByte(text, '\n')
	if length < 0 {
		return auditfile.Line{Begin: begin, End: end}, nil // not what was indexed
	}
	return auditfile.Line{Text: text[:length:length], Begin: begin, End: begin + int64(length) + 1}, nil
}

// read returns a range of the file. Where most lines are wanted it reads more of what lies before, for the next ones.
func (r *candidateReader) read(begin, end int64) ([]byte, error) {
	if begin < r.windowAt || end > r.windowAt+int64(len(r.window)) {
		from := begin
		if r.candidates.Dense {
			from = max(r.part.from, min(begin, end-windowSize))
		}
		if n := int(end - from); cap(r.window) < n {
			r.window = make([]byte, n)
		} else {
			r.window = r.window[:n]
		}
		n, err := r.file.ReadAt(r.window, from)
		r.window, r.windowAt = r.window[:n], from
		if n < int(end-from) {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	return r.window[begin-r.windowAt : end-r.windowAt], nil
}

func (r *candidateReader) close() { r.candidates.Close() }
