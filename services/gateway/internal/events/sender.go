package events

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"

	api "github.com/rumi-ai/rumi/api/gateway"
	"github.com/rumi-ai/rumi/libs/audit"
)

// gapEvent is the name of the event that says what is missing.
const gapEvent = "gap"

// errWrite wraps why a client could not be written to.
var errWrite = errors.New("write event")

// sender writes the events of a stream (WHATWG HTML, section 9.2).
type sender struct {
	stream  *stream
	visible func(pack string) bool
	w       http.ResponseWriter
	control *http.ResponseController

	buffer  []byte
	told    string    // the last cursor that was sent
	heard   time.Time // when it was sent
	skipped bool      // entries have been passed over since
}

// hello begins the stream: how soon to connect again, and a cursor for whoever gets no event before the connection breaks.
func (o *sender) hello() error {
	o.buffer = append(o.buffer, "retry: "+reconnectMillis+"\n"...)
	o.appendID()
	o.buffer = append(o.buffer, '\n')
	return o.flush()
}

// alive is what a client hears that has heard nothing for a while, with the cursor if entries were passed over meanwhile.
func (o *sender) alive() error {
	o.buffer = append(o.buffer, ": still here\n"...)
	if o.skipped {
		o.appendID()
	}
	o.buffer = append(o.buffer, '\n')
	return o.flush()
}

// bye is the last that a client hears of a gateway that stops.
func (o *sender) bye() error {
	o.buffer = append(o.buffer, ": this gateway stops; connect again\n"...)
	o.appendID()
	o.buffer = append(o.buffer, '\n')
	return o.flush()
}

func (o *sender) appendID() {
	o.told, o.heard, o.skipped = o.stream.cursor().String(), time.Now(), false
	o.buffer = append(o.buffer, "id: "+o.told+"\n"...)
}

// send writes what is there, up to writeSize; more says that there may be more.
func (o *sender) send() (more bool, err error) {
	for len(o.buffer) < writeSize {
		next, gaps, err := o.stream.next()
		switch {
		case err != nil:
			return false, errors.Join(err, o.flush())
		case len(gaps) > 0:
			if err := o.appendGaps(gaps); err != nil {
				return false, err
			}
		case next == nil:
			return false, o.flush()
		default:
			o.append(next)
		}
		if time.Since(o.heard) >= heartbeat { // a long way without an event: it must not be begun anew after a break
			return true, o.alive()
		}
	}
	return true, o.flush()
}

// append adds an entry that the client asks for, and may see.
func (o *sender) append(l *line) {
	if !o.stream.asks(l) || !o.visible(l.entry.OwnerPack) {
		o.skipped = true
		return
	}
	o.event(l.entry.Category, l.entry.Raw)
}

func (o *sender) event(name string, data []byte) {
	o.appendID()
	o.buffer = append(o.buffer, "event: "+name+"\ndata: "...)
	o.buffer = append(o.buffer, data...)
	o.buffer = append(o.buffer, "\n\n"...)
}

// appendGaps adds an event for each gap. It has the form of an entry, so that whoever reads entries can read it; it is in no file.
func (o *sender) appendGaps(gaps []gap) error {
	for _, g := range gaps {
		details, err := json.Marshal(map[string]any{"from": g.From.String(), "until": g.Until.String(), "files": append([]string{}, g.Files...), "reason": g.Reason}, json.Deterministic(true))
		if err != nil {
			return err
		}
		data, err := json.Marshal(api.Event{
			TS: time.Now().UTC(), Category: audit.System.String(), Severity: audit.Warning.String(), Action: "events_missing", Details: details,
			Error: fmt.Sprintf("entries from %s on are missing in this stream", g.From), Actor: "system", Service: api.Service,
		})
		if err != nil {
			return err
		}
		o.event(gapEvent, data)
	}
	return nil
}

// flush writes the buffer to the client. It returns when the client's connection has taken it, or has been closed because it didn't.
func (o *sender) flush() error {
	if len(o.buffer) == 0 {
		return nil
	}
	_, err := o.w.Write(o.buffer)
	if err == nil {
		err = o.control.Flush()
	}
	o.buffer = o.buffer[:0]
	if err != nil {
		return fmt.Errorf("%w: %w", errWrite, err)
	}
	return nil
}
