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
	maxMark     = 160      // bytes of a mark (runtime/PROTOCOL.md, "Noise")
	recentCalls = 4        // whose marks are believed: an answer may overtake what was printed before it
)

// noise makes lines of what one worker prints, each with the request that it was printed for. The marks in it are believed where they
// name a call that this worker was given, under an id that its code can't have known before: what is left of an earlier call
// can't write in the name of a later one.
type noise struct {
	log *logFile

	mu      sync.Mutex
	calls   []announced // the last few
	request string      // whose call prints; "" where none does
	stream  string
	line    []byte // without its end as yet
	rest    []byte // a mark that has not come whole
	ready   []byte // lines for the file
	skips   bool   // there is no room in the log for the rest of what is being written
}

type announced struct{ call, request string }

func newNoise(log *logFile) *noise { return &noise{log: log, stream: stderr} }

// announce says which request the next call is for, before the worker gets it.
func (n *noise) announce(call, request string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.calls) == recentCalls {
		n.calls = slices.Delete(n.calls, 0, 1)
	}
	n.calls = append(n.calls, announced{call, request})
}

// note adds a line of the broker's own.
func (n *noise) note(request, text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut()
	n.put(LogLine{TS: time.Now().UTC(), RequestID: request, Stream: stderr, Text: "rumi: " + text})
	n.flush()
}

// Write takes a piece of output. It never fails and never waits for long.
func (n *noise) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	data := append(n.rest, p...)
	n.rest = nil
	for len(data) > 0 {
		i := n.next(data)
		if i < 0 {
			n.add(data)
			break
		}
		n.add(data[:i])
		if data[i] == '\n' {
			n.end()
			data = data[i+1:]
			continue
		}
		data = data[i:]
		closed := bytes.IndexByte(data[:min(len(data), maxMark)], '\x1f')
		switch {
		case closed > 0 && n.mark(string(data[1:closed])):
			data = data[closed+1:]
		case closed < 0 && len(data) < maxMark && bytes.IndexByte(data, '\n') < 0:
			n.rest = slices.Clone(data)
			data = nil
		default: // the code's own
			n.add(data[:1])
			data = data[1:]
		}
	}
	n.flush()
	return len(p), nil
}

// next is where the next end of a line or mark is. Without room for lines only marks matter: a handler that prints without end must
// not cost more than it takes to read.
func (n *noise) next(data []byte) int {
	mark := bytes.IndexByte(data, '\x1e')
	if n.skips {
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
func (n *noise) Close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.add(n.rest)
	n.rest = nil
	n.cut()
	n.flush()
}

// mark heeds a mark and says whether it was one.
func (n *noise) mark(text string) bool {
	call, word, _ := strings.Cut(text, " ")
	i := slices.IndexFunc(n.calls, func(a announced) bool { return a.call == call })
	if i < 0 {
		return false
	}
	request, stream := n.calls[i].request, word
	switch word {
	case "begin":
		stream = stdout
	case "end":
		request, stream = "", stderr
	case stdout, stderr:
	default:
		return false
	}
	n.cut()
	n.request, n.stream = request, stream
	return true
}

// add takes text without an end of a line.
func (n *noise) add(text []byte) {
	if n.skips {
		return
	}
	for len(n.line)+len(text) > maxLine {
		fits := maxLine - len(n.line)
		n.line = append(n.line, text[:fits]...)
		text = text[fits:]
		n.end()
	}
	n.line = append(n.line, text...)
}

// cut ends a line that was begun.
func (n *noise) cut() {
	if len(n.line) > 0 {
		n.end()
	}
}

func (n *noise) end() {
	n.put(LogLine{TS: time.Now().UTC(), RequestID: n.request, Stream: n.stream, Text: string(n.line)})
	n.line = n.line[:0]
}

// put has a line written, if there is room for it. Where there is not, the log says so in its place.
func (n *noise) put(line LogLine) {
	if n.skips {
		return
	}
	raw := encodeLine(line)
	admitted, first := n.log.admit(len(raw))
	if !admitted {
		if n.skips = true; !first {
			return
		}
		line.Stream, line.Text = stderr, "[output dropped: too much at once]"
		raw = encodeLine(line)
	}
	if n.ready = append(n.ready, raw...); len(n.ready) >= logStep {
		n.log.write(n.ready)
		n.ready = n.ready[:0]
	}
}

// flush ends a piece of output.
func (n *noise) flush() {
	n.log.write(n.ready)
	n.ready, n.skips = n.ready[:0], false
}
