package gate

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/route"
)

// backlog is the number of messages that wait for one reader. A reader that is further behind is disconnected; it connects again and gets a
// snapshot. So a slow reader can't fill the memory, and it never misses a closed gate.
const backlog = 1024

// Publisher is approval's side of the gates: it has the gates of all packs in memory and streams them to the services that follow. Use
// NewPublisher. It is safe for concurrent use.
type Publisher struct {
	mu      sync.Mutex
	states  map[string]State
	readers map[chan message]struct{}
}

// NewPublisher makes a Publisher with the given gates.
func NewPublisher(states []State) *Publisher {
	p := &Publisher{states: make(map[string]State, len(states)), readers: map[chan message]struct{}{}}
	for _, s := range states {
		p.states[s.PackID] = s
	}
	return p
}

// Set replaces gates and sends them to every reader, with the trace and the request of ctx. It ignores a state with a lower revision than the present one, because two calls may
// come in another order than the changes were committed.
func (p *Publisher) Set(ctx context.Context, states ...State) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var news []State
	for _, s := range states {
		if known, ok := p.states[s.PackID]; ok && (s.Revision < known.Revision || s == known) {
			continue
		}
		p.states[s.PackID] = s
		news = append(news, s)
	}
	if len(news) > 0 {
		m := changed(ctx)
		m.States = news
		p.send(m)
	}
}

// Followers is how many streams are read at the moment.
func (p *Publisher) Followers() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.readers)
}

// Handle answers the endpoints Stream and Single.
func (p *Publisher) Handle(h *route.Handlers) {
	route.HandleRaw(h, Stream, p.serveStream)
	route.Handle(h, Single, p.single)
}

// single is a pack's gate as it was last set, for View.GetLatest; a pack without one is a not-found fault.
func (p *Publisher) single(_ context.Context, req PackRequest) (State, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, known := p.states[req.PackID]
	if !known {
		return State{}, fault.PackNotFound()
	}
	return s, nil
}

// Remove forgets a pack.
func (p *Publisher) Remove(ctx context.Context, packID string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.states[packID]; !ok {
		return
	}
	delete(p.states, packID)
	m := changed(ctx)
	m.Removed = []string{packID}
	p.send(m)
}

func (p *Publisher) send(m message) {
	for reader := range p.readers {
		select {
		case reader <- m:
		default:
			delete(p.readers, reader)
			close(reader)
		}
	}
}

func (p *Publisher) subscribe() (first message, changes chan message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	changes = make(chan message, backlog)
	p.readers[changes] = struct{}{}
	return message{Snapshot: true, States: slices.Collect(maps.Values(p.states))}, changes
}

func (p *Publisher) unsubscribe(changes chan message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.readers, changes)
}

// serveStream answers a request with the stream until the request's context ends or the reader falls behind. It fits
// rpc.Raw.
func (p *Publisher) serveStream(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Content-Type", "application/x-ndjson")
	control := http.NewResponseController(w)
	err := p.stream(r.Context(), func(m message) error {
		if err := control.SetWriteDeadline(time.Now().Add(Lease)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return err
		}
		line, err := json.Marshal(m)
		if err != nil {
			return err
		}
		if _, err := w.Write(append(line, '\n')); err != nil {
			return err
		}
		return control.Flush()
	})
	if r.Context().Err() != nil {
		return nil
	}
	return err
}

func (p *Publisher) stream(ctx context.Context, send func(message) error) error {
	first, changes := p.subscribe()
	defer p.unsubscribe(changes)
	if err := send(first); err != nil {
		return err
	}
	beat := time.NewTicker(HeartbeatInterval)
	defer beat.Stop()
	for {
		next := message{}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case m, ok := <-changes:
			if !ok {
				return errors.New("stream gates: the reader fell behind")
			}
			next = m
		case <-beat.C:
		}
		if err := send(next); err != nil {
			return err
		}
	}
}
