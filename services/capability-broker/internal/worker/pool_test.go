package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rumi-ai/rumi/libs/gate"
	"github.com/rumi-ai/rumi/libs/packtrace"
	"github.com/rumi-ai/rumi/libs/uds"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/handler"
)

// behaviour is a worker: it answers a call's id and arguments with frames, and ends where it returns false.
type behaviour func(id string, args []jsontext.Value) (frames []string, goOn bool)

func answers(id, output string) string {
	return fmt.Sprintf(`{"id":%q,"ok":true,"output":%s}`, id, output)
}

func polite(id string, args []jsontext.Value) ([]string, bool) {
	return []string{answers(id, string(args[1]))}, true
}

// machine launches in-memory workers. It stands for Docker.
type machine struct {
	behave  behaviour
	starts  time.Duration // how long a launch takes
	failing error

	running, launched, most atomic.Int32
}

type fakeProcess struct {
	io.Reader
	io.Writer
	kill func()
}

func (p fakeProcess) Kill() { p.kill() }

func (m *machine) Launch(ctx context.Context, _ Spec) (Process, error) {
	m.launched.Add(1)
	select {
	case <-time.After(m.starts):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if m.failing != nil {
		return nil, m.failing
	}
	calls, toWorker := io.Pipe()
	fromWorker, out := io.Pipe()
	if n := m.running.Add(1); n > m.most.Load() {
		m.most.Store(n)
	}
	var once sync.Once
	end := func() {
		once.Do(func() { m.running.Add(-1) })
		calls.CloseWithError(io.ErrClosedPipe)
		out.Close()
	}
	go func() {
		defer end()
		for {
			frame, err := uds.ReadFrame(calls, 8<<20)
			if err != nil {
				return
			}
			var call struct {
				ID   string           `json:"id"`
				Args []jsontext.Value `json:"args"`
			}
			if err := json.Unmarshal(frame, &call); err != nil {
				panic(err)
			}
			frames, goOn := m.behave(call.ID, call.Args)
			for _, f := range frames {
				if err := uds.WriteFrame(out, []byte(f)); err != nil {
					return
				}
			}
			if !goOn {
				return
			}
		}
	}()
	return fakeProcess{fromWorker, toWorker, end}, nil
}

func job(principal, args string) Job {
	return Job{Spec: Spec{Trust: &handler.Trust{PackID: "o", Slug: "s", FolderDigest: "d", Entrypoint: "handler.py:execute"}, Principal: principal},
		Config: jsontext.Value("{}"), Args: jsontext.Value(args)}
}

// inPool runs a test in a bubble with virtual time, and sees to it that nothing is left.
func inPool(t *testing.T, m *machine, limits Limits, test func(t *testing.T, p *Pool)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		if limits.Ceiling.Timeout == 0 {
			limits.Ceiling.Timeout = 2 * time.Hour
		}
		p := NewPool(m, limits, packtrace.Border{}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
		evicted := make(chan error)
		go func() { evicted <- p.EvictIdle(ctx) }()
		test(t, p)
		if err := p.Close(ctx); err != nil {
			t.Error(err)
		}
		if n := m.running.Load(); n != 0 {
			t.Errorf("%d workers are left, want none", n)
		}
		if _, err := p.Run(ctx, job("late", "{}")); !errors.Is(err, ErrBusy) {
			t.Errorf("a run in a closed pool: got %v, want ErrBusy", err)
		}
		cancel()
		<-evicted
		time.Sleep(2 * time.Hour) // what sleeps in the fakes wakes up
	})
}

func TestOnePrincipalHoldsHalfAtMost(t *testing.T) {
	m := &machine{}
	inPool(t, m, Limits{PerHandler: 1, Total: 4, Queue: 16, Idle: time.Minute}, func(t *testing.T, p *Pool) {
		end := make(chan struct{})
		m.behave = func(id string, args []jsontext.Value) ([]string, bool) {
			if string(args[1]) == `"hang"` {
				<-end
			}
			return polite(id, args)
		}
		of := func(principal, slug, args string) Job {
			j := job(principal, args)
			trust := *j.Spec.Trust
			trust.Slug = slug
			j.Spec.Trust = &trust
			return j
		}
		var greedy sync.WaitGroup
		var busy atomic.Int32
		for _, slug := range []string{"a", "b", "c", "d", "e"} { // each a grant of its own
			greedy.Go(func() {
				if _, err := p.Run(t.Context(), of("greedy", slug, `"hang"`)); errors.Is(err, ErrBusy) {
					busy.Add(1)
				}
			})
		}
		synctest.Wait()
		if n := m.running.Load(); n != 2 || busy.Load() != 3 {
			t.Errorf("%d workers of one principal, %d calls refused; want 2 and 3", n, busy.Load())
		}
		for _, principal := range []string{"p", "q", "r"} { // idle ones make room
			if out, err := p.Run(t.Context(), of(principal, "a", `1`)); err != nil || string(out) != "1" {
				t.Errorf("%s: got %s, %v; want 1", principal, out, err)
			}
		}
		close(end)
		greedy.Wait()
		if _, err := p.Run(t.Context(), of("greedy", "e", `1`)); err != nil { // in place of one of its own
			t.Error(err)
		}
		synctest.Wait() // the one that makes room may still be ending
		if n := m.running.Load(); n > 4 {
			t.Errorf("%d workers run, want at most 4", n)
		}
	})
}

var ample = Limits{PerHandler: 2, Total: 8, Queue: 16, Idle: time.Minute}

func within(d time.Duration, p *Pool, j Job) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	output, err := p.Run(ctx, j)
	return string(output), err
}

func TestWarmWorkersAreUsedAgainAndIdleOnesEnd(t *testing.T) {
	m := &machine{behave: polite, starts: time.Second}
	inPool(t, m, ample, func(t *testing.T, p *Pool) {
		for i := range 100 {
			want := fmt.Sprintf(`{"i":%d}`, i)
			if got, err := within(10*time.Second, p, job("a", want)); err != nil || got != want {
				t.Fatalf("got %q, %v; want %q", got, err, want)
			}
		}
		if n := m.launched.Load(); n != 1 {
			t.Errorf("%d launches for one caller", n)
		}
		// Another principal never gets a worker that a first one used.
		if _, err := within(10*time.Second, p, job("b", "{}")); err != nil || m.launched.Load() != 2 {
			t.Errorf("%d launches for two principals, %v; want 2", m.launched.Load(), err)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if n := m.running.Load(); n != 0 {
			t.Errorf("%d idle workers are kept", n)
		}
	})
}

// Begin is called when there is a worker and not before. A call that it refuses leaves the worker to the next.
func TestBegin(t *testing.T) {
	m := &machine{behave: polite, starts: time.Second}
	refused, single := errors.New("refused"), ample
	single.PerHandler = 1
	inPool(t, m, single, func(t *testing.T, p *Pool) {
		asked := 0
		j := job("a", `{"a":1}`)
		j.Begin = func(context.Context) error {
			if asked++; m.running.Load() != 1 {
				t.Errorf("asked with %d workers, want 1", m.running.Load())
			}
			if asked%2 == 1 {
				return refused
			}
			return nil
		}
		if _, err := within(time.Millisecond, p, j); !errors.Is(err, context.DeadlineExceeded) || asked != 0 {
			t.Errorf("before there is a worker: %v, asked %d times", err, asked)
		}
		for range 4 {
			if _, err := within(10*time.Second, p, j); !errors.Is(err, refused) {
				t.Errorf("got %v, want the refusal", err)
			}
			if got, err := within(10*time.Second, p, j); got != `{"a":1}` {
				t.Errorf("after a refusal: got %q, %v; want the answer", got, err)
			}
		}
		if asked != 8 || m.launched.Load() != 1 {
			t.Errorf("asked %d times with %d launches, want 8 with 1", asked, m.launched.Load())
		}
	})
}

func TestQueueIsBounded(t *testing.T) {
	slow := func(id string, args []jsontext.Value) ([]string, bool) {
		time.Sleep(time.Second)
		return polite(id, args)
	}
	m := &machine{behave: slow}
	inPool(t, m, Limits{PerHandler: 2, Total: 8, Queue: 3, Idle: time.Minute}, func(t *testing.T, p *Pool) {
		var calls sync.WaitGroup
		var done, busy atomic.Int32
		for range 10 {
			calls.Go(func() {
				switch _, err := within(time.Minute, p, job("a", "{}")); {
				case err == nil:
					done.Add(1)
				case errors.Is(err, ErrBusy):
					busy.Add(1)
				default:
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		calls.Wait()
		if done.Load() != 5 || busy.Load() != 5 || m.most.Load() != 2 {
			t.Errorf("%d done, %d refused, %d workers at most; want 5, 5, 2", done.Load(), busy.Load(), m.most.Load())
		}
	})
}

func TestTotalIsBoundedAndIdleOnesMakeRoom(t *testing.T) {
	m := &machine{behave: polite}
	inPool(t, m, Limits{PerHandler: 2, Total: 3, Queue: 3, Idle: time.Hour}, func(t *testing.T, p *Pool) {
		for i := range 9 {
			if _, err := within(time.Second, p, job(fmt.Sprint(i), "{}")); err != nil {
				t.Fatalf("principal %d: %v", i, err)
			}
			synctest.Wait()
		}
		if m.most.Load() > 4 { // the one that makes room may still be ending
			t.Errorf("%d workers at once, want at most 4", m.most.Load())
		}
	})
}

func TestWorkersThatBreakTheRulesAreReplaced(t *testing.T) {
	never := func(string, []jsontext.Value) ([]string, bool) { time.Sleep(time.Hour); return nil, false }
	for name, c := range map[string]struct {
		behave   behaviour
		check    func(error) bool
		replaced bool
	}{
		"never answers": {never, func(err error) bool { return errors.Is(err, context.DeadlineExceeded) }, true},
		"ends":          {func(string, []jsontext.Value) ([]string, bool) { return nil, false }, lost, true},
		"answers and ends": {func(id string, _ []jsontext.Value) ([]string, bool) { return []string{answers(id, "1")}, false },
			func(err error) bool { return err == nil }, true},
		"another id": {func(string, []jsontext.Value) ([]string, bool) { return []string{answers("1", "1")}, true }, lost, true},
		"no JSON":    {func(string, []jsontext.Value) ([]string, bool) { return []string{"noise"}, true }, lost, true},
		"two answers": {func(id string, _ []jsontext.Value) ([]string, bool) {
			return []string{answers(id, "1"), answers(id, "2")}, true
		}, func(err error) bool { return err == nil }, true},
		"too large": {func(id string, _ []jsontext.Value) ([]string, bool) {
			return []string{fmt.Sprintf(`{"id":%q,"ok":false,"kind":"too_large"}`, id)}, true
		}, func(err error) bool { return errors.Is(err, ErrTooLarge) }, false},
		"larger than it says": {func(id string, _ []jsontext.Value) ([]string, bool) {
			return []string{answers(id, fmt.Sprintf(`"%01048577d"`, 0))}, true
		}, func(err error) bool { return errors.Is(err, ErrTooLarge) }, false},
		"exception": {func(id string, _ []jsontext.Value) ([]string, bool) {
			return []string{fmt.Sprintf(`{"id":%q,"ok":false,"kind":"exception","error":"ValueError"}`, id)}, true
		}, func(err error) bool { return Reason(err) == "The handler failed (exception: ValueError)" }, false},
		"understands nothing": {func(id string, _ []jsontext.Value) ([]string, bool) {
			return []string{fmt.Sprintf(`{"id":%q,"ok":false,"kind":"invalid","error":"call is no JSON"}`, id)}, true
		}, lost, true},
		"a kind that there is none of": {func(id string, _ []jsontext.Value) ([]string, bool) {
			return []string{fmt.Sprintf(`{"id":%q,"ok":false,"kind":"other"}`, id)}, true
		}, lost, true},
		"async": {func(id string, _ []jsontext.Value) ([]string, bool) {
			return []string{fmt.Sprintf(`{"id":%q,"ok":false,"kind":"coroutine","error":"x"}`, id)}, true
		}, func(err error) bool {
			return Reason(err) == "The handler failed (coroutine: the function is async; it must be a def)"
		}, false},
		"arguments that it can't read": {func(id string, _ []jsontext.Value) ([]string, bool) {
			return []string{fmt.Sprintf(`{"id":%q,"ok":false,"kind":"args","error":"Python can't read them"}`, id)}, true
		}, func(err error) bool { return Reason(err) == "The handler failed (args: Python can't read them)" }, false},
		"a telling exception": {func(id string, _ []jsontext.Value) ([]string, bool) {
			return []string{fmt.Sprintf(`{"id":%q,"ok":false,"kind":"exception","error":"sk_SECRET"}`, id)}, true
		}, func(err error) bool { return Reason(err) == "The handler failed (exception: an error of its own)" }, false},
	} {
		t.Run(name, func(t *testing.T) {
			first := true
			var mu sync.Mutex
			m := &machine{behave: func(id string, args []jsontext.Value) ([]string, bool) {
				mu.Lock()
				misbehave := first
				first = false
				mu.Unlock()
				if misbehave {
					return c.behave(id, args)
				}
				return polite(id, args)
			}}
			inPool(t, m, ample, func(t *testing.T, p *Pool) {
				if _, err := within(5*time.Second, p, job("a", "{}")); !c.check(err) {
					t.Errorf("got %v, which is another error than expected", err)
				}
				synctest.Wait()
				if got, err := within(5*time.Second, p, job("a", `{"x":1}`)); err != nil || got != `{"x":1}` {
					t.Errorf("the next call got %q, %v; want its answer", got, err)
				}
				if replaced := m.launched.Load() == 2; replaced != c.replaced {
					t.Errorf("%d launches, want a second one: %v", m.launched.Load(), c.replaced)
				}
			})
		})
	}
}

func lost(err error) bool {
	f, ok := errors.AsType[*FailedError](err)
	return ok && f.Kind == "lost"
}

// Those who wait behind a call that kills its worker are served by the next one.
func TestWaitersSurviveTheirWorker(t *testing.T) {
	var n atomic.Int32
	m := &machine{behave: func(id string, args []jsontext.Value) ([]string, bool) {
		if n.Add(1) == 1 {
			time.Sleep(time.Hour)
		}
		return polite(id, args)
	}}
	inPool(t, m, Limits{PerHandler: 1, Total: 1, Queue: 4, Idle: time.Minute}, func(t *testing.T, p *Pool) {
		var calls sync.WaitGroup
		var ok, late atomic.Int32
		for i := range 4 {
			calls.Go(func() {
				_, err := within(time.Duration(2+i)*time.Second, p, job("a", "{}"))
				if err == nil {
					ok.Add(1)
				} else if errors.Is(err, context.DeadlineExceeded) {
					late.Add(1)
				}
			})
			synctest.Wait()
		}
		calls.Wait()
		if ok.Load() != 3 || late.Load() != 1 {
			t.Errorf("%d served, %d late; want 3, 1", ok.Load(), late.Load())
		}
	})
}

func TestFailedLaunch(t *testing.T) {
	m := &machine{failing: handler.ErrUntrusted, starts: time.Second}
	inPool(t, m, ample, func(t *testing.T, p *Pool) {
		if _, err := within(5*time.Second, p, job("a", "{}")); !errors.Is(err, handler.ErrUntrusted) {
			t.Errorf("got %v, want %v", err, handler.ErrUntrusted)
		}
		m.failing, m.behave = nil, polite
		if _, err := within(5*time.Second, p, job("a", "{}")); err != nil {
			t.Errorf("once it is mended: %v", err)
		}
	})
}

// A caller that gives up while its worker starts leaves the worker to the next.
func TestStartOutlivesItsCaller(t *testing.T) {
	m := &machine{behave: polite, starts: 3 * time.Second}
	inPool(t, m, ample, func(t *testing.T, p *Pool) {
		if _, err := within(time.Second, p, job("a", "{}")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want a deadline", err)
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if _, err := within(time.Second, p, job("a", "{}")); err != nil || m.launched.Load() != 1 {
			t.Errorf("got %v after %d launches, want an answer after one", err, m.launched.Load())
		}
	})
}

func TestEndTakesCallsAndWaitersAlong(t *testing.T) {
	m := &machine{behave: func(string, []jsontext.Value) ([]string, bool) { time.Sleep(time.Hour); return nil, false }}
	inPool(t, m, Limits{PerHandler: 1, Total: 8, Queue: 4, Idle: time.Minute}, func(t *testing.T, p *Pool) {
		var calls sync.WaitGroup
		for _, principal := range []string{"a", "a", "b"} {
			calls.Go(func() {
				began := time.Now()
				_, err := within(10*time.Second, p, job(principal, "{}"))
				if took := time.Since(began); principal == "a" && (!lost(err) || took > 0) || principal == "b" && took < 10*time.Second {
					t.Errorf("%s: %v after %v; want a lost at once, and b not before 10s", principal, err, took)
				}
				if principal == "a" && Reason(err) != "The handler failed (lost: its grant or its right to run was taken away)" {
					t.Errorf("the log blames the handler: %s, want its grant that was taken away", Reason(err)) // of the waiter, and of the call that runs
				}
			})
		}
		synctest.Wait()
		p.End(func(_, _, principal string) bool { return principal == "a" })
		calls.Wait()
	})
}

// A pack's workers are those of its handlers, for whichever principal, and those of other packs' handlers for it. A closed gate and an
// uninstall end them all, and no others; a gate that opens ends none.
func TestWorkersOfAPackEnd(t *testing.T) {
	closed := func(p *Pool) { p.GateChanged(gate.Change{PackID: "p"}) }
	for name, c := range map[string]struct {
		pack, principal string
		end             func(p *Pool)
		want            bool
	}{
		"its handler's":           {"p", "q", closed, true},
		"a handler's for it":      {"q", "p", closed, true},
		"of others":               {"q", "q", closed, false},
		"of its child":            {"p__c", "q", closed, false},
		"its gate opens":          {"p", "q", func(p *Pool) { p.GateChanged(gate.Change{PackID: "p", State: gate.State{Open: true}}) }, false},
		"it is not known anymore": {"p", "q", func(p *Pool) { p.GateChanged(gate.Change{PackID: "p", Removed: true, State: gate.State{Open: true}}) }, true},
		"it is uninstalled":       {"p", "q", func(p *Pool) { p.EndPack("p") }, true},
	} {
		t.Run(name, func(t *testing.T) {
			inPool(t, &machine{}, Limits{PerHandler: 1, Total: 8, Queue: 4, Idle: time.Minute}, func(t *testing.T, p *Pool) {
				j := job(c.principal, "{}")
				j.Trust.PackID = c.pack
				p.Warm(j.Spec)
				synctest.Wait()
				c.end(p)
				synctest.Wait()
				if got := len(p.Packs()) == 0; got != c.want {
					t.Errorf("the worker was ended: %v, want %v", got, c.want)
				}
			})
		})
	}
}
