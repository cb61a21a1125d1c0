package worker

import (
	"bytes"
	"slices"
	"strings"
	"sync"
	"time"
)

// The streams of a line in a handler's log.
const (
	stdout = "stdout"
	stderr = "stderr"
)

// Bounds of what is kept of a worker's output until it is in the log.
const (
	maxLine     = 16 << 10 // bytes after which a line without end is cut
	maxMarker   = 160      // bytes of a mark (runtime/PROTOCOL.md, "Noise")
	recentCalls = 4        // whose marks are believed: an answer may overtake what was printed before it
)

// capture makes lines of what one worker prints, each with the request that it was printed for. The marks in it are believed where they
// name a call that this worker was given, under an id that its code can't have known before: what is left of an earlier call
// can't write in the name of a later one.
type capture struct {
	log *logFile

	mu            sync.Mutex
	calls         []announcedCall // the last few
	request       string          // whose call prints; "" where none does
	stream        string
	line          []byte // without its end as yet
	partialMarker []byte // a mark that has not come whole
	pending       []byte // lines for the file
	dropping      bool   // there is no room in the log for the rest of what is being written
}

type announcedCall struct{ call, request string }

func newCapture(log *logFile) *capture { return &capture{log: log, stream: stderr} }

// announce says which request the next call is for, before the worker gets it.
func (c *capture) announce(call, request string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.calls) == recentCalls {
		c.calls = slices.Delete(c.calls, 0, 1)
	}
	c.calls = append(c.calls, announcedCall{call, request})
}

// note adds a line of the broker's own.
func (c *capture) note(request, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endPartialLine()
	c.emit(LogLine{TS: time.Now().UTC(), RequestID: request, Stream: stderr, Text: "rumi: " + text})
	c.flush()
}

// Write takes a piece of output. It never fails and never waits for long.
func (c *capture) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	data := append(c.partialMarker, p...)
	c.partialMarker = nil
	for len(data) > 0 {
		i := c.nextBoundary(data)
		if i < 0 {
			c.appendText(data)
			break
		}
		c.appendText(data[:i])
		if data[i] == '\n' {
			c.endLine()
			data = data[i+1:]
			continue
		}
		data = data[i:]
		closed := bytes.IndexByte(data[:min(len(data), maxMarker)], '\x1f')
		switch {
		case closed > 0 && c.applyMarker(string(data[1:closed])):
			data = data[closed+1:]
		case closed < 0 && len(data) < maxMarker && bytes.IndexByte(data, '\n') < 0:
			c.partialMarker = slices.Clone(data)
			data = nil
		default: // the code's own
			c.appendText(data[:1])
			data = data[1:]
		}
	}
	c.flush()
	return len(p), nil
}

// nextBoundary is where the next end of a line or mark is. Without room for lines only marks matter: a handler that prints without end must
// not cost more than it takes to read.
func (c *capture) nextBoundary(data []byte) int {
	mark := bytes.IndexByte(data, '\x1e')
	if c.dropping {
		return mark
	}
	if mark < 0 {
		return bytes.IndexByte(data, '\n')
	}
	if end := bytes.IndexByte(data[:mark], '\n'); end >= 0 {
		return end
	}
	return mark
}

// Close writes what has no end and will get none.
func (c *capture) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.appendText(c.partialMarker)
	c.partialMarker = nil
	c.endPartialLine()
	c.flush()
}

// applyMarker heeds a mark and says whether it was one.
func (c *capture) applyMarker(text string) bool {
	call, word, _ := strings.Cut(text, " ")
	i := slices.IndexFunc(c.calls, func(a announcedCall) bool { return a.call == call })
	if i < 0 {
		return false
	}
	request, stream := c.calls[i].request, word
	switch word {
	case "begin":
		stream = stdout
	case "end":
		request, stream = "", stderr
	case stdout, stderr:
	default:
		return false
	}
	c.endPartialLine()
	c.request, c.stream = request, stream
	return true
}

// appendText takes text without an end of a line.
func (c *capture) appendText(text []byte) {
	if c.dropping {
		return
	}
	for len(c.line)+len(text) > maxLine {
		fits := maxLine - len(c.line)
		c.line = append(c.line, text[:fits]...)
		text = text[fits:]
		c.endLine()
	}
	c.line = append(c.line, text...)
}

// endPartialLine ends a line that was begun.
func (c *capture) endPartialLine() {
	if len(c.line) > 0 {
		c.endLine()
	}
}

func (c *capture) endLine() {
	c.emit(LogLine{TS: time.Now().UTC(), RequestID: c.request, Stream: c.stream, Text: string(c.line)})
	c.line = c.line[:0]
}

// emit has a line written, if there is room for it. Where there is not, the log says so in its place.
func (c *capture) emit(line LogLine) {
	if c.dropping {
		return
	}
	raw := encodeLine(line)
	admitted, first := c.log.admit(len(raw))
	if !admitted {
		if c.dropping = true; !first {
			return
		}
		line.Stream, line.Text = stderr, "[output dropped: too much at once]"
		raw = encodeLine(line)
	}
	if c.pending = append(c.pending, raw...); len(c.pending) >= logStep {
		c.log.write(c.pending)
		c.pending = c.pending[:0]
	}
}

// flush ends a piece of output.
func (c *capture) flush() {
	c.log.write(c.pending)
	c.pending, c.dropping = c.pending[:0], false
}
