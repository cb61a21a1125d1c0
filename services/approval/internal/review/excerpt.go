package review

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/rumi-ai/rumi/libs/tree"
)

// Bounds of an excerpt, in bytes.
const (
	DefaultExcerpt = 64 << 10
	MaxExcerpt     = 1 << 20
)

// ErrChanged is in the error of ExcerptOf if the file isn't the one that its entry describes.
var ErrChanged = errors.New("the file changed while it was read")

// ExcerptOf reads a file whole, compares it with its entry, and returns up to limit bytes of it from offset on. A character
// that would be cut at the end is left to the next part.
func ExcerptOf(e tree.Entry, r io.Reader, offset, limit int64) (*Excerpt, error) {
	limit = min(limit, MaxExcerpt)
	hash := sha256.New()
	part := &portion{from: offset, to: offset + limit}
	s, err := searchContent(io.TeeReader(r, io.MultiWriter(hash, part)), false)
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", e.Path, err)
	}
	if got := hex.EncodeToString(hash.Sum(nil)); got != e.SHA256 {
		return nil, fmt.Errorf("read %q: %w", e.Path, ErrChanged)
	}
	data := part.data.Bytes()
	if s.content == Text && offset+int64(len(data)) < e.Size {
		data = wholeCharacters(data)
	}
	x := &Excerpt{File: describe(e), Content: s.content, Offset: offset, Length: len(data), Encoding: "utf-8", Data: string(data)}
	if next := offset + int64(len(data)); next < e.Size {
		x.Next = &next
	}
	if s.content != Text || !utf8.Valid(data) { // also where offset is within a character
		x.Encoding, x.Data = "base64", base64.StdEncoding.EncodeToString(data)
	}
	return x, nil
}

// wholeCharacters leaves out an incomplete character at the end, unless there is nothing else.
func wholeCharacters(data []byte) []byte {
	for n := 1; n < min(utf8.UTFMax, len(data)); n++ {
		end := data[len(data)-n:]
		if !utf8.RuneStart(end[0]) {
			continue
		}
		if !utf8.FullRune(end) {
			return data[:len(data)-n]
		}
		break
	}
	return data
}

// portion is a writer that stores only the bytes between two offsets.
type portion struct {
	from, to, at int64
	data         bytes.Buffer
}

func (p *portion) Write(b []byte) (int, error) {
	from, to := max(p.from-p.at, 0), min(p.to-p.at, int64(len(b)))
	if from < to {
		p.data.Write(b[from:to])
	}
	p.at += int64(len(b))
	return len(b), nil
}
