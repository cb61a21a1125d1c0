package gate

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"go.opentelemetry.io/otel/trace"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/periodic"
	"github.com/rumi-ai/rumi/libs/route"
	"github.com/rumi-ai/rumi/libs/rpc/client"
)

const (
	retryAfter = 100 * time.Millisecond // between two attempts to connect
	maxLine    = 64 << 20               // of the stream; a snapshot of 10,000 packs has about 2 MiB

	catchUp     = time.Second // within which the stream must bring what approval has decided already: see GetLatest, CatchUp
	catchUpPoll = 5 * time.Millisecond
)

// View is a service's copy of all gates, which follows approval's stream. Reading it takes no lock and never waits, except in GetLatest and
// CatchUp. It is a prometheus.Collector of its own metrics. Use NewView.
type View struct {
	log         *slog.Logger
	began       time.Time
	measures    measures
	tracer      trace.Tracer
	states      atomic.Pointer[map[string]State]
	lastMessage atomic.Pointer[time.Time] // when it came; its monotonic reading counts, so that setting the clock does nothing
	connected   atomic.Bool               // a stream is open
	ask         atomic.Pointer[asking]    // once the view follows approval

	mu        sync.Mutex // serialises changes and the calls of listeners
	listeners []func(Change)
	fresh     bool // whether the lease held when listeners were last notified
}

// asking asks approval, over HTTP, for the gate of one pack.
type asking func(ctx context.Context, packID string) (State, error)

// Change is a change of one gate. Listeners get changes in order, one at a time.
type Change struct {
	PackID  string
	State   State // with Open false while the lease has run out
	Removed bool  // approval doesn't know the pack any more; State is its last one
}

// NewView makes a view that knows nothing yet: every gate is closed.
func NewView(log *slog.Logger) *View {
	v := &View{log: log, began: time.Now()}
	v.measures = newMeasures(v)
	v.states.Store(&map[string]State{})
	return v
}

// Get is a pack's gate. known says whether approval knows the pack. Without a fresh lease every gate is closed, but
// Status and Digest stay those of approval's last message.
func (v *View) Get(packID string) (s State, known bool) {
	s, known = (*v.states.Load())[packID]
	s.Open = s.Open && v.Fresh()
	return s, known
}

// GetLatest is Get, but closes the race between approval's answers over HTTP and its stream of gates: a client that has just approved a
// pack may reach this service before the stream does. If the gate isn't open in our copy, or the pack isn't known, it asks approval
// and waits up to a second (catchUp) for the stream to catch up. It never opens a gate by itself: what it returns is what the
// stream brought.
func (v *View) GetLatest(ctx context.Context, packID string) (s State, known bool) {
	if s, known = v.Get(packID); known && s.Open {
		return s, known
	}
	ctx, cancel := context.WithTimeout(ctx, catchUp)
	defer cancel()
	wait := func() {
		select {
		case <-ctx.Done():
		case <-time.After(catchUpPoll):
		}
	}
	for v.ask.Load() == nil && ctx.Err() == nil { // a service that has just started
		wait()
	}
	if ctx.Err() != nil {
		return s, known
	}
	decided, err := (*v.ask.Load())(ctx, packID)
	switch {
	case fault.Is(err, fault.KindNotFound):
		for !v.Fresh() && ctx.Err() == nil {
			wait()
		}
		return v.Get(packID)
	case err != nil:
		return s, known // the stream is what counts
	}
	for s, known = v.Get(packID); s != decided && s.Revision <= decided.Revision && ctx.Err() == nil; s, known = v.Get(packID) {
		wait()
	}
	return s, known
}

// CatchUp returns when Get is at least as new as approval's decisions about a pack at the time of the call. A caller that takes something away from a pack
// calls it first: after it, no decision of this service is made by an older gate. If approval can't be asked, or the stream doesn't catch
// up within a second, the error is a fault: 503.
func (v *View) CatchUp(ctx context.Context, packID string) error {
	ctx, cancel := context.WithTimeout(ctx, catchUp)
	defer cancel()
	behind := fault.Unavailable("Can't tell what was decided about pack '%s': approval does not answer", packID).With("service_unavailable")
	ask := v.ask.Load()
	if ask == nil {
		return behind
	}
	decided, err := (*ask)(ctx, packID)
	unknown := fault.Is(err, fault.KindNotFound)
	if err != nil && !unknown {
		return behind.Because(err)
	}
	for {
		s, known := v.Get(packID)
		if unknown && !known || !unknown && known && (s.Revision > decided.Revision || s == decided) {
			return nil
		}
		select {
		case <-ctx.Done():
			return behind
		case <-time.After(catchUpPoll):
		}
	}
}

// All returns the gates of all packs, as Get returns them.
func (v *View) All() []State {
	fresh := v.Fresh()
	states := *v.states.Load()
	all := make([]State, 0, len(states))
	for _, s := range states {
		s.Open = s.Open && fresh
		all = append(all, s)
	}
	return all
}

// Fresh says whether the last message of approval is younger than Lease.
func (v *View) Fresh() bool {
	last := v.lastMessage.Load()
	return last != nil && time.Since(*last) < Lease
}

// Connected says whether approval's stream is open now. Unlike Fresh it is false at once when the stream breaks, even if only for a
// moment.
func (v *View) Connected() bool { return v.connected.Load() }

// OnChange registers f, which is called for every pack that changes or is removed, and for every pack whose gate closes or opens with the lease.
// Call it before Follow. f runs in the goroutine of the stream and must return at once, without work on files: until it
// returns, no other gate closes.
func (v *View) OnChange(f func(Change)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.listeners = append(v.listeners, f)
}

// Follow keeps the view up to date from approval until ctx ends, connecting again whenever the stream breaks.
func (v *View) Follow(ctx context.Context, approval *client.Peer) error {
	ask := asking(func(ctx context.Context, packID string) (State, error) {
		return route.Call(ctx, approval, Single, PackRequest{PackID: packID})
	})
	v.ask.Store(&ask)
	return v.follow(ctx, func(ctx context.Context) (io.ReadCloser, error) {
		response, err := route.Open(ctx, approval, Stream, struct{}{})
		if err != nil {
			return nil, err
		}
		return response.Body, nil
	})
}

func (v *View) follow(ctx context.Context, connect func(context.Context) (io.ReadCloser, error)) error {
	watch := make(chan struct{})
	go func() { defer close(watch); v.watchLease(ctx) }()
	defer func() { <-watch }()
	warned := false
	for ctx.Err() == nil {
		err := v.read(ctx, connect)
		if ctx.Err() != nil {
			break
		}
		if !warned || v.Fresh() {
			v.log.WarnContext(ctx, "lost the stream of gates", "error", err)
			warned = true
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryAfter):
		}
	}
	return ctx.Err()
}

// read follows one connection to its end. A connection that is silent for a lease is given up.
func (v *View) read(ctx context.Context, connect func(context.Context) (io.ReadCloser, error)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(Lease, func() { cancel(errors.New("the stream was silent for its lease")) })
	defer silent.Stop()
	body, err := connect(ctx)
	if err != nil {
		return fmt.Errorf("follow gates: %w", err)
	}
	defer body.Close()
	defer v.connected.Store(false)
	defer context.AfterFunc(ctx, func() { body.Close() })()
	lines := bufio.NewScanner(body)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	for first := true; lines.Scan(); first = false {
		var m message
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			return fmt.Errorf("follow gates: read message: %w", err)
		}
		if first && !m.Snapshot {
			return errors.New("follow gates: the first message is no snapshot")
		}
		silent.Reset(Lease)
		v.apply(m)
		v.connected.Store(true)
	}
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("follow gates: %w", err)
	}
	return fmt.Errorf("follow gates: %w", errors.Join(lines.Err(), io.ErrUnexpectedEOF))
}

// apply changes the states by a message, renews the lease and calls the listeners.
func (v *View) apply(m message) {
	defer v.begin(m)()
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now()
	old := *v.states.Load()
	reopened := !v.fresh
	var changes []Change
	if m.Snapshot || len(m.States) > 0 || len(m.Removed) > 0 {
		next := make(map[string]State, len(old)+len(m.States))
		if !m.Snapshot {
			maps.Copy(next, old)
		}
		for _, s := range m.States {
			next[s.PackID] = s
		}
		for _, id := range m.Removed {
			delete(next, id)
		}
		changes = difference(old, next, reopened)
		v.states.Store(&next)
		v.measures.observe(m.Changed)
	} else if reopened {
		changes = difference(old, old, true)
	}
	v.lastMessage.Store(&now)
	v.fresh = true
	v.notify(changes)
}

// difference lists the gates of next that old doesn't have or has otherwise (all of next if everything is true), and those that only old has.
func difference(old, next map[string]State, everything bool) []Change {
	var changes []Change
	for id, s := range next {
		if before, ok := old[id]; everything || !ok || before != s {
			changes = append(changes, Change{PackID: id, State: s})
		}
	}
	for id, s := range old {
		if _, ok := next[id]; !ok {
			s.Open = false
			changes = append(changes, Change{PackID: id, State: s, Removed: true})
		}
	}
	return changes
}

// watchLease closes all gates for the listeners when the lease runs out.
func (v *View) watchLease(ctx context.Context) {
	_ = periodic.Run(ctx, Lease/10, v.expire)
}

func (v *View) expire(ctx context.Context) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.fresh || v.Fresh() {
		return
	}
	v.fresh = false
	v.log.ErrorContext(ctx, "closed all gates: no message from approval within the lease", "lease_seconds", Lease.Seconds())
	var changes []Change
	for id, s := range *v.states.Load() {
		if s.Open {
			s.Open = false
			changes = append(changes, Change{PackID: id, State: s})
		}
	}
	v.notify(changes)
}

// notify calls the listeners. v.mu must be held, so that they get the changes in order.
func (v *View) notify(changes []Change) {
	for _, c := range changes {
		for _, f := range v.listeners {
			f(c)
		}
	}
}
