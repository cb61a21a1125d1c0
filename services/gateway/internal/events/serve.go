package events

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/rumi-ai/rumi/libs/auditfile"
	"github.com/rumi-ai/rumi/libs/fault"
)

// Bounds of streams.
const (
	maxStreams      = 128 // at a time, at one gateway
	maxOfOne        = 16  // at a time, of one token or person
	heartbeat       = 15 * time.Second
	writeSize       = 32 << 10 // bytes of events that are written at once, at least if there are as many
	retryAfter      = 2 * time.Second
	reconnectMillis = "1000"
)

// Request asks for a stream.
type Request struct {
	Query   auditfile.Query
	Cursor  string                 // "" for none
	Who     string                 // whose streams are counted
	Visible func(pack string) bool // whether the caller may see the entries of a pack, "" for those of no pack
}

// Server answers requests for streams. Use New.
type Server struct {
	log     *Log
	slog    *slog.Logger
	metrics *Metrics
	stop    <-chan struct{} // closed when the gateway stops

	mu      sync.Mutex
	streams map[string]int // by Request.Who
	all     int
}

// New makes a Server. stop is closed when the gateway begins to stop: streams end then, so that their clients connect to another one.
func New(log *Log, metrics *Metrics, stop <-chan struct{}) *Server {
	return &Server{log: log, slog: log.log, metrics: metrics, stop: stop, streams: map[string]int{}}
}

// admit counts a stream, unless there are too many.
func (s *Server) admit(who string) (leave func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all >= maxStreams || s.streams[who] >= maxOfOne {
		return nil, fault.Limited("Too many event streams: at most %d of one token, %d in all", maxOfOne, maxStreams).With("too_many_streams").After(retryAfter)
	}
	s.all++
	s.streams[who]++
	s.metrics.streams.Inc()
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.all--
		if s.streams[who]--; s.streams[who] == 0 {
			delete(s.streams, who)
		}
		s.metrics.streams.Dec()
	}, nil
}

// Serve answers a request. A failure before the stream begins is returned; after that nil.
func (s *Server) Serve(w http.ResponseWriter, r *http.Request, req Request) error {
	filter, err := req.Query.Filter()
	if err != nil {
		return err
	}
	cursor, err := s.parse(req.Cursor)
	if err != nil {
		return err
	}
	if r.Method == http.MethodHead {
		begin(w)
		return nil
	}
	leave, err := s.admit(req.Who)
	if err != nil {
		return err
	}
	defer leave()
	from, err := s.open(cursor, filter)
	if err != nil {
		return fault.Unavailable("The audit log can't be read").With("audit_unavailable").After(retryAfter).Because(err)
	}
	defer from.close()
	begin(w)
	out := &sender{stream: from, visible: req.Visible, w: w, control: http.NewResponseController(w), heard: time.Now()}
	why := s.run(r.Context(), out)
	s.metrics.ended.WithLabelValues(string(why)).Inc()
	return nil
}

func (s *Server) parse(text string) (*auditfile.Cursor, error) {
	if text == "" {
		return nil, nil
	}
	cursor, err := auditfile.ParseCursor(text, auditfile.Forward)
	if err == nil && cursor.Day > auditfile.DayOf(time.Now())+1 {
		err = errors.New("it is of a day that is to come; is the clock right?")
	}
	if err != nil {
		return nil, fault.Invalid("Invalid cursor: %v", err).With("invalid_cursor")
	}
	return &cursor, nil
}

func (s *Server) open(cursor *auditfile.Cursor, filter auditfile.Filter) (*stream, error) {
	switch {
	case cursor != nil:
		return s.log.open(*cursor, filter)
	case !filter.Since.IsZero() && !filter.Since.After(time.Now()):
		return s.log.open(auditfile.Cursor{Day: auditfile.DayOf(filter.Since)}, filter)
	}
	return s.log.begin(filter)
}

// begin sends the head of the answer.
func begin(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(http.StatusOK)
}

// reason is why a stream ended, for the metric.
type reason string

const (
	clientGone reason = "client"   // it closed the connection
	clientSlow reason = "slow"     // it took nothing for so long that the connection was closed
	sessionEnd reason = "session"  // its token was revoked, or has expired
	stopping   reason = "shutdown" // the gateway stops
	failed     reason = "error"    // the log can't be read
)

var reasons = []reason{clientGone, clientSlow, sessionEnd, stopping, failed}

// run sends events until something ends the stream.
func (s *Server) run(ctx context.Context, out *sender) reason {
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	if err := out.hello(); err != nil {
		return whyWrite(ctx, err)
	}
	for {
		changed := s.log.waiting()
		if why := s.drain(ctx, out); why != "" {
			return why
		}
		select {
		case <-changed:
		case <-beat.C:
			if err := out.alive(); err != nil {
				return whyWrite(ctx, err)
			}
		case <-s.stop:
			_ = out.bye()
			return stopping
		case <-ctx.Done():
			return whyWrite(ctx, nil)
		}
	}
}

// drain sends all that is there; "" means that the stream goes on.
func (s *Server) drain(ctx context.Context, out *sender) reason {
	for ctx.Err() == nil {
		more, err := out.send()
		switch {
		case errors.Is(err, errWrite):
			return whyWrite(ctx, err)
		case err != nil:
			s.slog.ErrorContext(ctx, "an event stream ended: the audit log can't be read", "error", err)
			return failed
		case !more:
			return ""
		}
		select {
		case <-s.stop:
			_ = out.bye()
			return stopping
		default:
		}
	}
	return whyWrite(ctx, nil)
}

// whyWrite tells why a client takes nothing any more. The context of a request whose session has ended has a cause of its own.
func whyWrite(ctx context.Context, err error) reason {
	switch cause := context.Cause(ctx); {
	case cause != nil && !errors.Is(cause, context.Canceled):
		return sessionEnd
	case errors.Is(err, os.ErrDeadlineExceeded):
		return clientSlow
	}
	return clientGone
}
