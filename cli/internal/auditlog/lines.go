package auditlog

import (
	"bytes"
	"crypto/sha256"
	"errors"
	gohash "hash"
	"io"
)

// lineReader hashes the lines of a file that grows. It reads each byte once, in pieces, so that neither the length of a line nor
// that of the file matters for memory: whoever may write the audit log may also write a line of a gigabyte.
type lineReader struct {
	from   io.ReaderAt
	at     int64       // what was read
	begin  int64       // of the last whole line
	end    int64       // of the last whole line
	long   gohash.Hash // of the bytes from end to at; nil if there are none
	object bool        // the line looks like a JSON object: it begins and ends with braces. One that a crash cut short doesn't
	buffer []byte
}

// pieceSize is how much is read at a time, in bytes.
const pieceSize = 256 << 10

// newLineReader reads from an offset at which a line begins. buffer is one of newPiece, and may be shared by readers that take turns.
func newLineReader(from io.ReaderAt, offset int64, buffer []byte) *lineReader {
	return &lineReader{from: from, at: offset, begin: offset, end: offset, buffer: buffer}
}

// newPiece makes a buffer for lineReaders.
func newPiece() []byte { return make([]byte, 1+pieceSize) }

// errFull is what a line's receiver returns to get no more for now. The line that it got counts.
var errFull = errors.New("enough lines")

// read reads at most budget bytes (in pieces, so it may be one more) and calls emit for each line that ends in them, with the offset
// of its end. more says that the budget, and not the file, has ended. An error of emit ends it, except for errFull.
func (r *lineReader) read(budget int64, emit func(h hash, end int64) error) (more bool, err error) {
	for budget > 0 {
		n, err := r.from.ReadAt(r.buffer[1:], r.at)
		if n == 0 {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return false, err
		}
		used, lineErr := r.piece(r.buffer[:1+n], emit)
		r.at += int64(used)
		budget -= int64(used)
		if errors.Is(lineErr, errFull) {
			return true, nil
		} else if lineErr != nil {
			return false, lineErr
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
	}
	return true, nil
}

// piece hashes the lines that end in a piece, whose first byte isn't of the file, and keeps the rest for the next one. The byte before
// a line isn't needed any more, and takes the prefix of a leaf: so a line is hashed by one call, without a copy.
func (r *lineReader) piece(piece []byte, emit func(hash, int64) error) (used int, err error) {
	begin := 1
	for {
		length := bytes.IndexByte(piece[begin:], '\n')
		if length < 0 {
			break
		}
		var h hash
		line := piece[begin : begin+length]
		if r.long != nil {
			r.long.Write(line)
			r.object = r.object && (length == 0 || line[length-1] == '}')
			h = hash(r.long.Sum(nil)) // into h itself, h would be allocated for each line
			r.long = nil
		} else {
			r.object = length > 1 && line[0] == '{' && line[length-1] == '}'
			piece[begin-1] = leafPrefix
			h = sha256.Sum256(piece[begin-1 : begin+length])
		}
		begin += length + 1
		r.begin, r.end = r.end, r.at+int64(begin-1)
		if err := emit(h, r.end); err != nil {
			return begin - 1, err
		}
	}
	if rest := piece[begin:]; len(rest) > 0 {
		if r.long == nil {
			r.long = sha256.New()
			r.long.Write([]byte{leafPrefix})
			r.object = rest[0] == '{'
		}
		r.long.Write(rest)
	}
	return len(piece) - 1, nil
}

// inSequence lets a lineReader read what can only be read from beginning to end.
type inSequence struct {
	from io.Reader
	at   int64
}

// ReadAt reads on; off must be where the last call has ended.
func (s *inSequence) ReadAt(p []byte, off int64) (int, error) {
	if off != s.at {
		return 0, errors.New("it can be read in sequence only")
	}
	n, err := io.ReadFull(s.from, p)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	s.at += int64(n)
	return n, err
}
