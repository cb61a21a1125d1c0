package gate

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"
	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/origin"
)

// wire joins a publisher to views without a network: what the publisher sends, the view reads.
type wire struct {
	publisher *Publisher

	mu   sync.Mutex
	down bool // connections are refused
	mute bool // connections stay open and say nothing any more
	open []*io.PipeWriter
}

func (w *wire) connect(ctx context.Context) (io.ReadCloser, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down {
		return nil, errors.New("connection refused")
	}
	r, pipe := io.Pipe()
	w.open = append(w.open, pipe)
	go func() {
		err := w.publisher.stream(ctx, func(m message) error {
			w.mu.Lock()
			mute := w.mute
			w.mu.Unlock()
			if mute {
				return nil
			}
			line, err := json.Marshal(m)
			if err != nil {
				return err
			}
			_, err = pipe.Write(append(line, '\n'))
			return err
		})
		pipe.CloseWithError(err)
	}()
	return r, nil
}

func (w *wire) set(down, mute bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down, w.mute = down, mute
	if down {
		for _, pipe := range w.open {
			pipe.CloseWithError(errors.New("connection reset"))
		}
		w.open = nil
	}
}

// told records what listeners hear.
type told struct {
	mu   sync.Mutex
	said []string
}

func (c *told) hear(change Change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	word := "closed"
	if change.State.Open {
		word = "open"
	}
	if change.Removed {
		word = "gone"
	}
	c.said = append(c.said, change.PackID+" "+word)
}

func (c *told) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	said := c.said
	c.said = nil
	slices.Sort(said)
	return said
}

func follow(t *testing.T, p *Publisher, prepare ...func(*View)) (*View, *wire, *told) {
	t.Helper()
	w, c := &wire{publisher: p}, &told{}
	v := NewView(slog.New(slog.NewTextHandler(t.Output(), nil)))
	v.OnChange(c.hear)
	for _, do := range prepare {
		do(v)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); v.follow(ctx, w.connect) }()
	t.Cleanup(func() { cancel(); w.set(true, false); <-done })
	return v, w, c
}

func isOpen(v *View, id string) bool { s, _ := v.Get(id); return s.Open }

func TestChangesArePushed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPublisher([]State{{PackID: "a", Open: true, Status: "approved", Digest: "sha256:1", Revision: 1}})
		if NewView(slog.Default()).Fresh() {
			t.Fatal("fresh before anything was heard")
		}
		v, _, c := follow(t, p)
		synctest.Wait()
		if !isOpen(v, "a") {
			t.Fatal("a is closed after the snapshot")
		}
		if _, known := v.Get("b"); known {
			t.Fatal("b is known")
		}
		p.Set(t.Context(), State{PackID: "b", Status: "pending", Revision: 1}, State{PackID: "a", Status: "modified", Revision: 2})
		synctest.Wait()
		if s, known := v.Get("b"); !known || s.Status != "pending" || isOpen(v, "a") {
			t.Fatalf("the view has b as %+v (known: %v) and a open: %v; want b pending and a closed", s, known, isOpen(v, "a"))
		}
		p.Set(t.Context(), State{PackID: "a", Open: true, Revision: 1})
		synctest.Wait()
		if isOpen(v, "a") {
			t.Fatal("an old revision opened a")
		}
		p.Remove(t.Context(), "b")
		synctest.Wait()
		if _, known := v.Get("b"); known || len(v.All()) != 1 {
			t.Fatal("b is still known")
		}
		if want := []string{"a closed", "a open", "b closed", "b gone"}; !slices.Equal(c.take(), want) {
			t.Fatalf("told something else than %v", want)
		}
	})
}

func TestSilenceClosesEveryGate(t *testing.T) {
	for _, c := range []struct {
		name       string
		down, mute bool
	}{{"refused connections", true, false}, {"a silent connection", false, true}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v, w, said := follow(t, NewPublisher([]State{{PackID: "a", Open: true, Revision: 1}, {PackID: "b", Revision: 1}}))
				synctest.Wait()
				said.take()
				w.set(c.down, c.mute)
				time.Sleep(Lease - HeartbeatInterval - time.Millisecond)
				if !isOpen(v, "a") {
					t.Fatal("closed before the lease ran out")
				}
				time.Sleep(HeartbeatInterval + time.Millisecond)
				if isOpen(v, "a") {
					t.Fatal("open after the lease ran out")
				}
				time.Sleep(Lease / 10)
				synctest.Wait()
				if got := said.take(); !slices.Equal(got, []string{"a closed"}) {
					t.Fatalf("the change told is %v, want that a closed", got)
				}
				w.set(false, false)
				time.Sleep(Lease)
				synctest.Wait()
				if !isOpen(v, "a") {
					t.Fatal("still closed after approval came back")
				}
				if got := said.take(); !slices.Contains(got, "a open") {
					t.Fatalf("the changes told are %v, want that a is open", got)
				}
			})
		})
	}
}

func TestWhatHappenedWhileAwayIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPublisher([]State{{PackID: "a", Open: true, Revision: 1}, {PackID: "gone", Open: true, Revision: 1}})
		v, w, said := follow(t, p)
		synctest.Wait()
		said.take()
		w.set(true, false)
		p.Set(t.Context(), State{PackID: "a", Revision: 2})
		p.Remove(t.Context(), "gone")
		w.set(false, false)
		time.Sleep(2 * retryAfter)
		synctest.Wait()
		if got, want := said.take(), []string{"a closed", "gone gone"}; !slices.Equal(got, want) || isOpen(v, "a") {
			t.Fatalf("told %v, want %v", got, want)
		}
	})
}

func TestAReaderThatFallsBehindIsCutOff(t *testing.T) {
	p := NewPublisher(nil)
	_, changes := p.subscribe()
	for i := range backlog + 1 {
		p.Set(t.Context(), State{PackID: fmt.Sprint(i), Revision: 1})
	}
	for range backlog {
		<-changes
	}
	if _, ok := <-changes; ok {
		t.Fatal("still subscribed")
	}
}

func TestAStreamThatIsNoneIsRefused(t *testing.T) {
	for name, text := range map[string]string{
		"no snapshot first": `{"states":[{"pack_id":"a","open":true,"revision":1}]}` + "\n",
		"no JSON":           "HTTP/1.1 200 OK\n",
		"empty":             "",
	} {
		t.Run(name, func(t *testing.T) {
			v := NewView(slog.New(slog.DiscardHandler))
			err := v.read(t.Context(), func(context.Context) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil })
			if err == nil || isOpen(v, "a") || v.Fresh() {
				t.Fatalf("a stream that can't be read: got %v, want an error, a closed and a view that isn't fresh", err)
			}
		})
	}
}

func TestDifference(t *testing.T) {
	old := map[string]State{"same": {PackID: "same", Open: true}, "changed": {PackID: "changed"}, "gone": {PackID: "gone", Open: true}}
	next := maps.Clone(old)
	delete(next, "gone")
	next["changed"] = State{PackID: "changed", Open: true}
	var got []string
	for _, c := range difference(old, next, false) {
		got = append(got, fmt.Sprintf("%s %v %v", c.PackID, c.State.Open, c.Removed))
	}
	slices.Sort(got)
	if want := []string{"changed true false", "gone false true"}; !slices.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
}

// The scanner's limit must hold a snapshot of every pack that an installation may have.
func TestSnapshotOfTenThousandPacksFits(t *testing.T) {
	states := make([]State, 10_000)
	for i := range states {
		states[i] = State{PackID: fmt.Sprintf("%064d", i), Status: "approved", Digest: "sha256:" + strings.Repeat("0", 64), Revision: 1 << 40}
	}
	line, err := json.Marshal(message{Snapshot: true, States: states})
	if err != nil || len(line) > maxLine {
		t.Fatalf("the snapshot has %d bytes, %v; want it to fit in a line", len(line), err)
	}
	if s := bufio.NewScanner(strings.NewReader(string(line))); s.Scan() {
		t.Fatal("the default limit would do; drop ours")
	}
}

// Who undoes what was let through by a gate as it was before waits for the news of its change.
func TestCatchUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPublisher([]State{{PackID: "a", Open: true, Status: "approved", Revision: 1}})
		v, w, _ := follow(t, p)
		synctest.Wait()
		if err := v.CatchUp(t.Context(), "a"); !fault.Is(err, fault.KindUnavailable) {
			t.Errorf("with nobody to ask: got %v, want unavailable", err)
		}
		var decided State
		var failed error
		ask := asking(func(context.Context, string) (State, error) { return decided, failed })
		v.ask.Store(&ask)
		takes := func(want time.Duration, kind fault.Kind) {
			t.Helper()
			began := time.Now()
			err := v.CatchUp(t.Context(), "a")
			if took := time.Since(began); took < want || took > want+2*catchUpPoll || (err == nil) != (kind == 0) || err != nil && !fault.Is(err, kind) {
				t.Errorf("%v after %v, want %v", err, took, want)
			}
		}
		decided = State{PackID: "a", Open: true, Status: "approved", Revision: 1}
		takes(0, 0)
		decided = State{PackID: "a", Status: "error", Revision: 2, Retired: true}
		go func() { time.Sleep(30 * time.Millisecond); p.Set(t.Context(), decided) }()
		takes(30*time.Millisecond, 0)
		if s, _ := v.Get("a"); !s.Retired {
			t.Errorf("the state is %+v, want it retired", s)
		}
		takes(0, 0)
		decided.Revision = 3 // and the stream never says so
		takes(catchUp, fault.KindUnavailable)
		decided.Revision = 1 // the stream is ahead
		takes(0, 0)
		failed = errors.New("no route")
		takes(0, fault.KindUnavailable)
		failed = fault.NotFound("Pack not found")
		go func() { time.Sleep(30 * time.Millisecond); p.Remove(t.Context(), "a") }()
		takes(30*time.Millisecond, 0)
		w.set(true, false)
	})
}

// Who acts on an answer sees what it said, though the stream tells it later; and nobody is let through but by the stream.
func TestNowWaitsForWhatWasDecided(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPublisher([]State{{PackID: "a", Status: "pending", Revision: 1}})
		v, _, _ := follow(t, p)
		decided := State{PackID: "a", Open: true, Status: "approved", Digest: "sha256:1", Revision: 2}
		asked := 0
		ask := asking(func(context.Context, string) (State, error) {
			asked++
			if decided.PackID == "" {
				return State{}, fault.NotFound("Pack not found")
			}
			return decided, nil
		})
		go func() { time.Sleep(50 * time.Millisecond); v.ask.Store(&ask) }()
		if s, known := v.GetLatest(t.Context(), "a"); !known || s.Open || s.Status != "pending" || asked != 1 {
			t.Errorf("a view that has just begun to follow has %+v, known %v, after asking %d times; want the stream's pending gate, after asking once", s, known, asked)
		}
		asked = 0

		go func() { time.Sleep(30 * time.Millisecond); p.Set(t.Context(), decided) }()
		began := time.Now()
		if s, known := v.GetLatest(t.Context(), "a"); s != decided || !known || time.Since(began) < 30*time.Millisecond {
			t.Errorf("got %+v after %v, want the decision %+v, once the stream has it", s, time.Since(began), decided)
		}
		if s, _ := v.GetLatest(t.Context(), "a"); s != decided || asked != 1 {
			t.Errorf("%+v; approval was asked %d times about an open gate", s, asked)
		}
		// The stream is ahead of what approval answered.
		p.Set(t.Context(), State{PackID: "a", Status: "modified", Revision: 3})
		synctest.Wait()
		began = time.Now()
		if s, _ := v.GetLatest(t.Context(), "a"); s.Status != "modified" || time.Since(began) > 0 {
			t.Errorf("got %+v after %v, want what the stream says, at once", s, time.Since(began))
		}
		// What the stream never tells isn't believed.
		decided.Revision = 4
		began = time.Now()
		if s, _ := v.GetLatest(t.Context(), "a"); s.Open || time.Since(began) < catchUp || time.Since(began) > 2*catchUp {
			t.Errorf("got %+v after %v, want a closed gate after the wait for the stream", s, time.Since(began))
		}
		decided = State{}
		if _, known := v.GetLatest(t.Context(), "b"); known {
			t.Error("a pack that approval doesn't know is known")
		}
	})
}

// The age grows while nothing is heard, and gates that count as closed are counted as closed.
func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPublisher([]State{{PackID: "a", Open: true, Revision: 1}, {PackID: "b", Revision: 1}})
		v, w, _ := follow(t, p)
		synctest.Wait()
		registry := prometheus.NewRegistry()
		registry.MustRegister(v)
		shows := func(when string, wanted ...string) {
			t.Helper()
			text, err := testutil.CollectAndFormat(v, expfmt.TypeTextPlain, "rumi_gate_age_seconds", "rumi_gates", "rumi_gate_propagation_seconds")
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range wanted {
				if !strings.Contains(string(text), want+"\n") {
					t.Errorf("%s: there is no %s in\n%s", when, want, text)
				}
			}
		}
		shows("after the snapshot", "rumi_gate_age_seconds 0", `rumi_gates{state="open"} 1`, `rumi_gates{state="closed"} 1`, "rumi_gate_propagation_seconds_count 0")
		p.Set(t.Context(), State{PackID: "b", Open: true, Revision: 2})
		synctest.Wait()
		p.Remove(t.Context(), "b")
		synctest.Wait()
		shows("after two changes", `rumi_gates{state="open"} 1`, `rumi_gates{state="closed"} 0`, "rumi_gate_propagation_seconds_count 2", "rumi_gate_propagation_seconds_sum 0")
		w.set(false, true)
		time.Sleep(Lease)
		shows("after the lease", "rumi_gate_age_seconds 5", `rumi_gates{state="open"} 0`, `rumi_gates{state="closed"} 1`)
	})
}

// A change is applied in the trace in which approval made it. A message without one, or with nonsense in its place, is applied all the same.
func TestTraceOfAChange(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("")
	synctest.Test(t, func(t *testing.T) {
		p := NewPublisher([]State{{PackID: "a", Revision: 1}})
		v, _, _ := follow(t, p, func(v *View) { v.Trace(tracer) })
		synctest.Wait()
		ctx, approve := tracer.Start(origin.With(t.Context(), origin.Origin{RequestID: "r1"}), "approve")
		p.Set(ctx, State{PackID: "a", Open: true, Revision: 2})
		approve.End()
		synctest.Wait()
		p.Set(t.Context(), State{PackID: "a", Open: false, Revision: 3})
		synctest.Wait()
		ended := spans.Ended()
		if len(ended) != 2 || ended[1].Name() != "gate.apply" || ended[1].Parent().SpanID() != approve.SpanContext().SpanID() || ended[1].SpanKind() != trace.SpanKindConsumer {
			t.Fatalf("the spans are %v, want one of a consumer below the approve, and none for the change without a trace", ended)
		}
		if got := attribute.NewSet(ended[1].Attributes()...); got.Len() != 4 {
			t.Errorf("the attributes are %v, want pack, state, number and request", got.ToSlice())
		}
		v.apply(message{States: []State{{PackID: "b", Revision: 1}}, TraceParent: "nonsense"})
		if _, known := v.Get("b"); !known || len(spans.Ended()) != 2 {
			t.Errorf("a message with nonsense for a trace: applied %v with %d spans, want it applied without one", known, len(spans.Ended())-2)
		}
	})
}
