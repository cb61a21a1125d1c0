package httpapi

import (
	"context"
	"fmt"
	"iter"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/rumi-ai/rumi/libs/fault"
)

// Bounds of a log answer.
const (
	defaultTail = 100     // lines
	maxTail     = 10_000  // lines
	maxLogBytes = 8 << 20 // of text; the last lines that fit are given

	heartbeat = 15 * time.Second // between comments in a stream that has nothing to say
)

// checkTail checks how many lines are asked for, and says how many where nothing is said.
func checkTail(r *http.Request, tail *int) error {
	if r.URL.Query().Get("tail") == "" {
		*tail = defaultTail
	}
	if *tail < 1 || *tail > maxTail {
		return fault.InvalidField("tail", fmt.Sprintf("a whole number from 1 to %d", maxTail))
	}
	return nil
}

// follow sends lines as server-sent events (WHATWG HTML, section 9.2) until the container ends, which is an event "end",
// or the client goes.
func follow[L, V any](w http.ResponseWriter, r *http.Request, lines iter.Seq2[L, error], shown func(L) V) error {
	type next struct {
		line L
		err  error
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	feed := make(chan next)
	go func() {
		defer close(feed)
		for line, err := range lines {
			select {
			case feed <- next{line, err}:
			case <-ctx.Done():
				return
			}
		}
	}()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	control := http.NewResponseController(w)
	send := func(format string, args ...any) error {
		if _, err := fmt.Fprintf(w, format, args...); err != nil {
			return err
		}
		return control.Flush()
	}
	if err := send(": %s\n\n", "log"); err != nil {
		return err
	}
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := send(": %s\n\n", "still here"); err != nil {
				return err
			}
		case n, more := <-feed:
			if !more {
				return send("event: end\ndata: {}\n\n")
			}
			if n.err != nil {
				return logFault(n.err)
			}
			data, err := json.Marshal(shown(n.line), jsontext.AllowInvalidUTF8(true))
			if err != nil {
				return err
			}
			if err := send("data: %s\n\n", data); err != nil {
				return err
			}
		}
	}
}
