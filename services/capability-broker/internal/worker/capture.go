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

// Bounds of what is held of a worker's output until it is in the log.
const (
	maxLine     = 16 << 10 // bytes after which a line without end is cut
	maxMarker   = 160      // bytes of a marker (runtime/PROTOCOL.md, "Noise")
	recentCalls = 4        // calls whose markers are believed: stdout and stderr are two pipes, so an answer may overtake what was printed before it
)

// capture makes lines of what one worker prints, each with the request that it was printed for. It is the io.Writer of the worker's stderr.
//
// The worker puts markers around what a call prints, but the handler's code can print the same bytes. So a marker is believed only if it has
// the id of a call that this worker was given. Ids are random and given with the call: code that is left running from an earlier call
// can't know the id of a later one, and so can't write in its name.
type capture struct {
	log *logFile

	mu            sync.Mutex
	calls         []announcedCall // the last recentCalls
	request       string          // the request whose call prints now; "" for none
	stream        string          // of line
	line          []byte          // a line that has no end yet
	partialMarker []byte          // the beginning of what may become a marker
	pending       []byte          // encoded lines that are to be written to the file
	dropping      bool            // the log's rate limit is reached: the rest of this Write is dropped
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

// Write takes a piece of output. It never fails and never blocks for long: a worker whose stderr isn't read stands still.
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
		default: // not a marker: the code printed this byte itself
			c.appendText(data[:1])
			data = data[1:]
		}
	}
	c.flush()
	return len(p), nil
}

// nextBoundary returns the index of the next end of a line or beginning of a marker, -1 for none. While lines are dropped only markers matter:
// a handler that prints without end must not cost the broker more than the reading.
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

// Close writes the last line, which has no end.
func (c *capture) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.appendText(c.partialMarker)
	c.partialMarker = nil
	c.endPartialLine()
	c.flush()
}

// applyMarker switches to the request and stream of a marker. It returns false if the text isn't one.
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

// appendText adds text that has no end of a line to the current line. A line over maxLine is cut.
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

// endPartialLine ends the current line if it has any text.
func (c *capture) endPartialLine() {
	if len(c.line) > 0 {
		c.endLine()
	}
}

// endLine emits the current line.
func (c *capture) endLine() {
	c.emit(LogLine{TS: time.Now().UTC(), RequestID: c.request, Stream: c.stream, Text: string(c.line)})
	c.line = c.line[:0]
}

// emit queues a line for writing, if the rate limit allows it. The first line beyond the limit is replaced by a line that says that lines are
// dropped; the following ones are dropped without one.
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

// flush writes what is pending to the file, at the end of a Write.
func (c *capture) flush() {
	c.log.write(c.pending)
	c.pending, c.dropping = c.pending[:0], false
}
