package review

import (
	"bytes"
	"regexp"
	"strings"

	"github.com/rumi-ai/rumi/libs/text"
)

// cookiePattern is how a line of Python names the encoding of its file (PEP 263).
var cookiePattern = regexp.MustCompile(`^[ \t\f]*#.*?coding[:=][ \t]*([-_.a-zA-Z0-9]+)`)

// plainEncodings are the encodings in which a file means what it looks like.
var plainEncodings = map[string]bool{"utf-8": true, "utf8": true, "utf-8-sig": true, "ascii": true, "us-ascii": true}

// collectFirst collects the first two lines of a file.
func (s *search) collectFirst(part []byte) {
	s.first = append(s.first, part[:min(len(part), maxFirst+1-len(s.first))]...)
	s.firstDone = len(s.first) > maxFirst || len(firstLines(s.first)) > 2
}

// firstLines are up to three lines; the last may be incomplete. Python ends a line at a carriage return, too.
func firstLines(data []byte) (lines [][]byte) {
	for len(lines) < 2 {
		i := bytes.IndexAny(data, "\r\n")
		if i < 0 {
			return append(lines, data)
		}
		lines = append(lines, data[:i])
		if data[i] == '\r' && i+1 < len(data) && data[i+1] == '\n' {
			i++
		}
		data = data[i+1:]
	}
	return append(lines, data)
}

// cookie warns if the first two lines name an encoding other than UTF-8: Python then decodes another program from the bytes
// than an editor shows.
func (s *search) cookie() {
	if !s.python {
		return
	}
	lines := firstLines(s.first)
	for i, line := range lines[:min(len(lines), 2)] {
		match := cookiePattern.FindSubmatch(line)
		if match == nil {
			continue
		}
		if name := string(match[1]); !plainEncodings[strings.ReplaceAll(strings.ToLower(name), "_", "-")] {
			s.add("encoding", i+1, "Python reads it as "+clip(name)+": its text may be another than the one shown")
		}
		return
	}
	if len(s.first) > maxFirst && len(lines) <= 2 {
		s.add("encoding", 1, "its first lines are too long to look for the encoding that they may name")
	}
}

// clip makes a stranger's word short and readable, for a message.
func clip(s string) string {
	return text.Escape(text.Clip(s, 64))
}

// quoteWord is an identifier in a message.
func quoteWord(word string) string { return `"` + clip(word) + `"` }
