package auditfile

import (
	"bytes"
	"errors"
	"io"
)

// Line is a whole line.
type Line struct {
	Text  []byte // without its newline; valid until the next call. nil for one of MaxLine bytes or more, which is foreign
	Begin int64  // its offset
	End   int64  // the offset after its newline: where the next line begins
}

// chunk is how much is read at a time, in bytes.
const chunk = 64 << 10

// Lines reads lines forwards. It may be used again after io.EOF, when the file has grown.
type Lines struct {
	from   io.ReaderAt
	buffer []byte
	kept   []byte // of the buffer: what was read and not returned yet
	begin  int64  // offset of the line that kept belongs to
	end    int64  // offset of the end of kept
	looked int    // bytes of kept that have no newline
	long   bool   // the line's first bytes were dropped, because it is too long
}

// NewLines reads from an offset at which a line begins.
func NewLines(from io.ReaderAt, offset int64) *Lines {
	return &Lines{from: from, begin: offset, end: offset}
}

// Reset is NewLines with the memory of these.
func (l *Lines) Reset(from io.ReaderAt, offset int64) {
	*l = Lines{from: from, buffer: l.buffer, begin: offset, end: offset}
}

// Offset is where the next line begins.
func (l *Lines) Offset() int64 { return l.begin }

// Next returns the next line that has its newline, and io.EOF where there is none yet. A line without a newline is one that is being written, or was
// cut short by a crash: what is appended after that crash makes it a foreign line.
func (l *Lines) Next() (Line, error) {
	for {
		if at := bytes.IndexByte(l.kept[l.looked:], '\n'); at >= 0 {
			return l.take(l.looked + at), nil
		}
		if l.looked = len(l.kept); l.looked >= MaxLine {
			l.long, l.kept, l.looked = true, l.kept[:0], 0
		}
		if err := l.fill(); err != nil {
			return Line{}, err
		}
	}
}

// take returns the first bytes of kept as a line.
func (l *Lines) take(length int) Line {
	line := Line{Text: l.kept[:length:length], Begin: l.begin}
	if l.long || length >= MaxLine {
		line.Text = nil
	}
	l.kept, l.looked, l.long = l.kept[length+1:], 0, false
	l.begin = l.end - int64(len(l.kept))
	line.End = l.begin
	return line
}

// fill reads on.
func (l *Lines) fill() error {
	if l.buffer == nil {
		l.buffer = make([]byte, MaxLine+chunk)
	}
	n := copy(l.buffer, l.kept)
	read, err := l.from.ReadAt(l.buffer[n:n+chunk], l.end)
	l.kept, l.end = l.buffer[:n+read], l.end+int64(read)
	if read > 0 && errors.Is(err, io.EOF) {
		return nil
	}
	if read == 0 && err == nil {
		return io.ErrNoProgress
	}
	return err
}

// Backward reads lines backwards.
type Backward struct {
	from io.ReaderAt
	kept []byte // the bytes before end, as far as they were read
	end  int64  // offset after the newline of the next line
	long int64  // offset after the newline of a line that is too long, whose end was dropped; 0 for none
}

// NewBackward reads the lines that end at or before an offset. What is there after the last newline is no line.
func NewBackward(from io.ReaderAt, offset int64) (*Backward, error) {
	b := &Backward{from: from, end: offset}
	for { // find the last newline
		if at := bytes.LastIndexByte(b.kept, '\n'); at >= 0 {
			b.end -= int64(len(b.kept) - at - 1)
			b.kept = b.kept[:at+1]
			return b, nil
		}
		b.end, b.kept = b.end-int64(len(b.kept)), nil
		if err := b.fill(); errors.Is(err, io.EOF) {
			return b, nil
		} else if err != nil {
			return nil, err
		}
	}
}

// Offset is after the newline of the next line.
func (b *Backward) Offset() int64 {
	if b.long > 0 {
		return b.long
	}
	return b.end
}

// Previous returns the line before the one that it returned last, and io.EOF at the beginning of the file.
func (b *Backward) Previous() (Line, error) {
	for {
		if n := len(b.kept); n > 0 {
			if at := bytes.LastIndexByte(b.kept[:n-1], '\n'); at >= 0 || b.end == int64(n) {
				return b.take(at + 1), nil
			}
			if n > MaxLine {
				b.drop()
			}
		}
		if err := b.fill(); err != nil {
			return Line{}, err
		}
	}
}

// take returns what follows an index of kept as a line.
func (b *Backward) take(at int) Line {
	n := len(b.kept)
	line := Line{Text: b.kept[at : n-1 : n-1], Begin: b.end - int64(n-at), End: b.end}
	if b.long > 0 {
		line.Text, line.End, b.long = nil, b.long, 0
	} else if n-at > MaxLine {
		line.Text = nil
	}
	b.kept, b.end = b.kept[:at], line.Begin
	return line
}

// drop forgets the end of a line that is too long. Its first byte that was read stays, in place of a newline.
func (b *Backward) drop() {
	if b.long == 0 {
		b.long = b.end
	}
	b.end -= int64(len(b.kept) - 1)
	b.kept = b.kept[:1]
}

// fill reads what lies before kept.
func (b *Backward) fill() error {
	start := b.end - int64(len(b.kept))
	n := min(start, chunk)
	if n == 0 {
		return io.EOF
	}
	buffer := make([]byte, int(n)+len(b.kept))
	if read, err := b.from.ReadAt(buffer[:n], start-n); int64(read) < n {
		if err == nil || errors.Is(err, io.EOF) { // the file became shorter
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	copy(buffer[n:], b.kept)
	b.kept = buffer
	return nil
}
