package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/sandbox"
)

// serving is a worker in a container, spoken to as PROTOCOL.md has it.
type serving struct {
	t      *testing.T
	engine *sandbox.Engine
	id     string
	stream sandbox.Stream
	calls  int

	mu     sync.Mutex
	stderr bytes.Buffer
}

// Write takes the container's stderr.
func (s *serving) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stderr.Write(p)
}

func (s *serving) printed() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stderr.String()
}

func serve(t *testing.T) *serving {
	t.Helper()
	engine, c := container(t, sandbox.Handler, "serve")
	s := &serving{t: t, engine: engine, id: c.ID}
	var err error
	if s.stream, err = engine.Attach(t.Context(), c.ID, s); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.stream.Close() })
	if err := engine.Start(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	return s
}

type answer struct {
	ID     *string
	OK     bool
	Output json.RawMessage
	Kind   string
	Error  string
	Retire bool
}

func (s *serving) send(raw []byte) {
	s.t.Helper()
	if _, err := s.stream.Write(raw); err != nil {
		s.t.Fatal(err)
	}
}

// receive reads an answer; io.EOF where the worker is gone.
func (s *serving) receive() (answer, error) {
	s.t.Helper()
	var head [4]byte
	if _, err := io.ReadFull(s.stream, head[:]); err != nil {
		return answer{}, err
	}
	body := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(s.stream, body); err != nil {
		return answer{}, err
	}
	var a answer
	if err := json.Unmarshal(body, &a); err != nil {
		s.t.Fatalf("answer %.200q: %v", body, err)
	}
	return a, nil
}

func frame(body []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

// call calls a function and gives its answer, which must have the call's id.
func (s *serving) call(name string, args ...any) answer {
	s.t.Helper()
	s.calls++
	id := fmt.Sprintf("call-%d", s.calls)
	if args == nil {
		args = []any{}
	}
	body, err := json.Marshal(map[string]any{"id": id, "call": name, "args": args})
	if err != nil {
		s.t.Fatal(err)
	}
	s.send(frame(body))
	a, err := s.receive()
	if err != nil {
		s.t.Fatalf("%s: %v; it printed %q", name, err, s.printed())
	}
	if a.ID == nil || *a.ID != id {
		s.t.Fatalf("%s: answer %+v is not to %s", name, a, id)
	}
	return a
}

// ended waits for the container's end.
func (s *serving) ended() int {
	s.t.Helper()
	if a, err := s.receive(); !errors.Is(err, io.EOF) {
		s.t.Errorf("instead of the end: %+v, %v", a, err)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	exit, err := s.engine.Wait(ctx, s.id)
	if err != nil {
		s.t.Fatal(err)
	}
	s.stream.Close() // all of stderr has come
	return exit.Code
}

func TestCalls(t *testing.T) {
	s := serve(t)
	for _, c := range []struct {
		call string
		args []any
		want string // the output, or kind and error
	}{
		{"handler.py:echo", []any{map[string]any{"principal_id": "a"}, map[string]any{"x": 1}}, `[{"principal_id":"a"},{"x":1}]`},
		{"handler.py:echo", nil, `[]`},
		{"handler.py:trace", []any{map[string]any{"traceparent": "00-1-2-01", "tracestate": "rumi=x"}, nil}, `["00-1-2-01","rumi=x"]`},
		{"handler.py:trace", []any{map[string]any{"traceparent": "00-3-4-01"}, nil}, `["00-3-4-01"]`},
		{"handler.py:trace", []any{map[string]any{"traceparent": 7, "tracestate": "a\x00b"}, nil}, `[]`},
		{"handler.py:trace", []any{nil, nil}, `[]`},
		{"handler.py:count", []any{nil, nil}, `1`},
		{"handler.py:count", []any{nil, nil}, `2`},
		{"blocks/x.py:run", []any{map[string]any{"n": 21}, nil}, `{"total":42}`},
		{"blocks/x.py:run", []any{map[string]any{}}, "exception KeyError"},
		{"handler.py:raises", []any{nil, nil}, "exception ValueError"},
		{"handler.py:interrupts", []any{nil, nil}, "exception KeyboardInterrupt"},
		{"handler.py:raises", nil, "exception TypeError"},
		{"handler.py:exits", []any{nil, 0}, "exit SystemExit"},
		{"handler.py:exits", []any{nil, "words"}, "exit SystemExit"},
		{"handler.py:prints", []any{nil, nil}, `"quiet"`},
		{"handler.py:prints_without_end", []any{nil, nil}, `"quiet"`},
		{"handler.py:returns", []any{nil, "nan"}, "value ValueError"},
		{"handler.py:returns", []any{nil, "infinity"}, "value ValueError"},
		{"handler.py:returns", []any{nil, "set"}, "value TypeError"},
		{"handler.py:returns", []any{nil, "bytes"}, "value TypeError"},
		{"handler.py:returns", []any{nil, "function"}, "value TypeError"},
		{"handler.py:returns", []any{nil, "surrogate"}, "value UnicodeEncodeError"},
		{"handler.py:returns", []any{nil, "surrogate key"}, "value UnicodeEncodeError"},
		{"handler.py:returns", []any{nil, "cycle"}, "value RecursionError"},
		{"handler.py:returns", []any{nil, "deep"}, "value RecursionError"},
		{"handler.py:returns", []any{nil, "same name"}, "value ValueError"},
		{"handler.py:returns", []any{nil, "tuple key"}, "value TypeError"},
		{"handler.py:returns", []any{nil, "bad dict"}, "value RuntimeError"},
		{"handler.py:returns", []any{nil, "number key"}, `{"1":{"null":[true]}}`},
		{"handler.py:returns", []any{nil, "text"}, "\"é\u2028\\u0000\\\"\""},
		{"handler.py:returns", []any{nil, "big number"}, `1000000000000000000000000000000`},
		{"handler.py:returns", []any{nil, "none"}, `null`},
		{"handler.py:sized", []any{nil, 1<<20 + 1}, "too_large output is over 1048576 bytes"},
		{"handler.py:length", []any{nil, strings.Repeat("x", 4<<20)}, `4194304`},
		{"handler.py:forks_and_ends", []any{nil, nil}, `"parent"`},
		{"handler.py:leaves_a_thread", []any{nil, nil}, `"left"`},
		{"handler.py:descriptors", []any{nil, nil}, `["",""]`},
		{"handler.py:asynchronous", []any{nil, nil}, "coroutine the function is async"},
		{"handler.py:missing", nil, "load no such function"},
		{"handler.py:not_callable", nil, "load no such function"},
		{"missing.py:execute", nil, "load no such file"},
		{"blocks:run", nil, "load no such file"},
		{"broken.py:execute", nil, "load SyntaxError"},
		{"leaves.py:execute", nil, "load SystemExit"},
		{"rumi_syscall.py:x", nil, "load RuntimeError"},
		{"handler.py", nil, "invalid call is not file.py:function"},
		{"handler.py:", nil, "invalid call is not file.py:function"},
		{"handler.py:os.system", nil, "invalid call is not file.py:function"},
		{"../etc/x.py:execute", nil, "invalid file is not in the pack"},
		{"blocks/../handler.py:count", []any{nil, nil}, "invalid file is not in the pack"},
		{"/pack/handler.py:count", []any{nil, nil}, "invalid file is not in the pack"},
		{"/usr/local/lib/rumi/worker/rumi_worker.py:main", nil, "invalid file is not in the pack"},
		{"proc.py:execute", nil, "invalid file is not in the pack"},
		{"a\x00.py:x", nil, "invalid call is no string or args is no array"},
	} {
		t.Run(c.call, func(t *testing.T) {
			s.t = t
			a := s.call(c.call, c.args...)
			got := string(a.Output)
			if !a.OK {
				got = a.Kind + " " + a.Error
			}
			if got != c.want {
				t.Errorf("answer = %.200q, want %.200q", got, c.want)
			}
		})
	}
	s.t = t
	if a := s.call("handler.py:sized", nil, 1<<20); !a.OK || len(a.Output) != 1<<20 {
		t.Errorf("an output of exactly 1 MiB: %q, %d bytes; want all of it", a.Kind, len(a.Output))
	}
	if err := s.stream.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if code := s.ended(); code != 0 {
		t.Errorf("it ended with %d, want 0", code)
	}
	for _, line := range []string{"printed\n", "written to 1\n", "original stdout\n", "by a child\n", "no newline", "ValueError: the secret is 12345\n"} {
		if !strings.Contains(s.printed(), line) {
			t.Errorf("stderr lacks %q", line)
		}
	}
}

func TestImports(t *testing.T) {
	a := serve(t).call("handler.py:imports", nil, []string{"rumi_syscall", "rumi_capability", "wave", "json", "pip", "setuptools", "rumi_worker"})
	var got map[string]string
	if err := json.Unmarshal(a.Output, &got); err != nil {
		t.Fatalf("%v: got the answer %+v, want an object of texts", err, a)
	}
	for name, want := range map[string]string{
		"rumi_syscall":    "/usr/local/lib/rumi/lib/rumi_syscall.py", // not the pack's own
		"rumi_capability": "/usr/local/lib/rumi/lib/rumi_capability.py",
		"wave":            "/pack/wave.py", // as for `python handler.py`
		"pip":             "ModuleNotFoundError",
		"setuptools":      "ModuleNotFoundError",
		"rumi_worker":     "ModuleNotFoundError",
	} {
		if got[name] != want {
			t.Errorf("import %s = %s, want %s", name, got[name], want)
		}
	}
	if !strings.Contains(got["json"], "/lib/python3") {
		t.Errorf("json is %s, want Python's own", got["json"])
	}
}

// What one call leaves behind is not there for the next: it is put back, or the worker asks to be replaced.
func TestWhatACallLeavesBehind(t *testing.T) {
	first := serve(t)
	clean := string(first.call("leftovers.py:finds", nil, nil).Output)
	var names []string
	if err := json.Unmarshal(first.call("leftovers.py:messes", nil, nil).Output, &names); err != nil || len(names) < 40 {
		t.Fatalf("%d messes were left: %v; want 40 at least", len(names), err)
	}
	// These can't be undone from within the process.
	replaced := map[string]bool{"hard limit": true, "priority": true, "thread": true, "child": true, "ended child": true,
		"os.urandom": true, "os.getcwd": true, "os.write": true, "json.loads": true}
	s := first
	for _, name := range names {
		done := s.call("leftovers.py:mess", nil, name)
		if !done.OK || done.Retire != replaced[name] {
			t.Errorf("%s: answer %+v, want retire %t", name, done, replaced[name])
		}
		if done.Retire {
			if s = serve(t); string(s.call("leftovers.py:finds", nil, nil).Output) != clean {
				t.Fatal("two new workers differ")
			}
			continue
		}
		if found := s.call("leftovers.py:finds", nil, nil); string(found.Output) != clean || found.Retire {
			t.Errorf("after %s a call finds %s %s, want %s", name, found.Output, found.Error, clean)
			s = serve(t)
			s.call("leftovers.py:finds", nil, nil)
		}
	}
}

// A wrapper that is collected closes what it wraps, and a library may put other functions in the place of json's.
func TestStreamsAndJSONAreEachCallsOwn(t *testing.T) {
	s := serve(t)
	for _, call := range []string{"handler.py:wraps_stdout", "handler.py:closes_standard", "handler.py:breaks_streams", "handler.py:swaps_json"} {
		if a := s.call(call, nil, nil); !a.OK {
			t.Errorf("%s: got %+v, want ok", call, a)
		}
		if a := s.call("handler.py:prints_line", nil, call); !a.OK {
			t.Errorf("after %s: got %+v, want ok; it printed %q", call, a, s.printed())
		}
	}
	if err := s.stream.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	s.ended()
	for _, line := range []string{"through a wrapper\n", "line of handler.py:wraps_stdout\n", "line of handler.py:closes_standard\n", "line of handler.py:breaks_streams\n"} {
		if !strings.Contains(s.printed(), line) {
			t.Errorf("stderr lacks %q: %q", line, s.printed())
		}
	}
}

// Files that calls leave in /tmp or /dev/shm have the worker replaced while there is a quarter left.
func TestScratchThatFillsUp(t *testing.T) {
	for name, args := range map[string][]any{
		"blocks of /tmp": {"/tmp", 1, 1 << 20}, "inodes of /tmp": {"/tmp", 1000, 0}, "blocks of /dev/shm": {"/dev/shm", 1, 1 << 20},
	} {
		s, calls := serve(t), 0
		for calls = 1; calls <= 64; calls++ {
			a := s.call("handler.py:fills", nil, args)
			if !a.OK {
				t.Fatalf("%s: call %d: got %+v, want ok", name, calls, a)
			}
			if a.Retire {
				break
			}
		}
		want := map[string]int{"blocks of /tmp": 48, "inodes of /tmp": 13, "blocks of /dev/shm": 12}[name]
		if calls != want {
			t.Errorf("%s: retired at call %d, want %d", name, calls, want)
		}
	}
}

// The noise says whose it is: where a call begins and ends, and to which stream it was written.
func TestNoiseIsMarked(t *testing.T) {
	s := serve(t)
	for _, id := range []string{"one", "two"} {
		s.send(frame(fmt.Appendf(nil, `{"id":%q,"call":"handler.py:prints_line","args":[null,%q]}`, id, id)))
		if a, err := s.receive(); err != nil || !a.OK {
			t.Fatalf("got %+v, %v, want ok", a, err)
		}
	}
	if err := s.stream.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	s.ended()
	want := ""
	for _, id := range []string{"one", "two"} {
		want += strings.ReplaceAll("\x1eID begin\x1fline of ID\n\x1eID stderr\x1ferror of ID\n\x1eID end\x1f", "ID", id)
	}
	if got := s.printed(); got != want {
		t.Errorf("noise %q, want %q", got, want)
	}
}

// Code that closes or replaces what it can name still gets its answer through.
func TestClosedStreams(t *testing.T) {
	s := serve(t)
	for _, call := range []string{"handler.py:closes_standard", "handler.py:breaks_streams"} {
		if a := s.call(call, nil, nil); !a.OK {
			t.Errorf("%s: got %+v, want ok", call, a)
		}
		if a := s.call("handler.py:raises", nil, nil); a.Kind != "exception" {
			t.Errorf("a call after %s: got %+v, want an exception", call, a)
		}
	}
}

func TestWorkerThatIsGone(t *testing.T) {
	for call, status := range map[string]int{"handler.py:dies": 3, "handler.py:closes_all": 70} {
		t.Run(call, func(t *testing.T) {
			s := serve(t)
			s.send(frame([]byte(`{"id": "x", "call": "` + call + `", "args": [null, null]}`)))
			if got := s.ended(); got != status {
				t.Errorf("ended with %d, want %d; it printed %q", got, status, s.printed())
			}
		})
	}
}

// What a forked child answers has the id of a call that is over: the broker sees it.
func TestForkedAnswer(t *testing.T) {
	s := serve(t)
	first := s.call("handler.py:forks_and_both_return", nil, nil)
	second, err := s.receive()
	if err != nil {
		t.Fatal(err)
	}
	if *first.ID != *second.ID || string(first.Output) == string(second.Output) {
		t.Errorf("the answers are %s %s and %s %s, want one ID and two outputs", *first.ID, first.Output, *second.ID, second.Output)
	}
}

func TestCallsThatAreNone(t *testing.T) {
	s := serve(t)
	for body, want := range map[string]string{
		"{":                       "call is no JSON",
		"\xff":                    "call is no JSON",
		"[]":                      "call is no object",
		"{}":                      "id is no string of 1 to 128 characters",
		`{"id": 3}`:               "id is no string of 1 to 128 characters",
		`{"id": ""}`:              "id is no string of 1 to 128 characters",
		`{"id": "x"}`:             "call is no string or args is no array",
		`{"id": "x", "call": []}`: "call is no string or args is no array",
		`{"id": "x", "call": "handler.py:echo", "args": {}}`: "call is no string or args is no array",
		strings.Repeat("[", 1<<20):                           "call is no JSON",
	} {
		s.send(frame([]byte(body)))
		a, err := s.receive()
		if err != nil {
			t.Fatal(err)
		}
		if a.OK || a.Kind != "invalid" || a.Error != want || (a.ID != nil) != strings.Contains(body, `"x"`) {
			t.Errorf("%.60q: answer %+v, want %q", body, a, want)
		}
	}
	if a := s.call("handler.py:echo", 1); string(a.Output) != "[1]" {
		t.Errorf("the call after them got %+v, want [1]", a)
	}
}

// Python bounds what it reads more narrowly than JSON does. That is no reason to replace the worker: the answer has the call's id.
func TestArgumentsThatPythonCannotRead(t *testing.T) {
	s := serve(t)
	for name, arg := range map[string]string{
		"digits":  strings.Repeat("9", 5000),
		"nesting": strings.Repeat("[", 9000) + strings.Repeat("]", 9000),
	} {
		s.send(frame(fmt.Appendf(nil, `{"id":"%s","call":"handler.py:echo","args":[%s]}`, name, arg)))
		a, err := s.receive()
		if err != nil {
			t.Fatal(err)
		}
		if a.ID == nil || *a.ID != name || a.OK || a.Kind != "args" || a.Error != "Python can't read them" {
			t.Errorf("%s: got %+v, want its ID and that Python can't read the args", name, a)
		}
	}
	if a := s.call("handler.py:echo", 1); string(a.Output) != "[1]" {
		t.Errorf("the call after them got %+v, want [1]", a)
	}
}

func TestFramesThatCannotBeFollowed(t *testing.T) {
	for name, raw := range map[string][]byte{
		"no length":       {0, 0, 0, 0},
		"8 MiB and 1":     {0, 0x80, 0, 1},
		"4 GiB":           {255, 255, 255, 255},
		"half a length":   {0, 0},
		"half a call":     {0, 0, 0, 9, '{'},
		"nothing at all":  {},
		"call, then half": append(frame([]byte(`{}`)), 0, 0, 0),
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t)
			s.send(raw)
			if err := s.stream.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			want := 65
			if len(raw) == 0 {
				want = 0
			}
			if name == "call, then half" {
				if _, err := s.receive(); err != nil {
					t.Fatal(err)
				}
			}
			if code := s.ended(); code != want {
				t.Errorf("ended with %d, want %d; it printed %q", code, want, s.printed())
			}
		})
	}
}

// The broker's own call is answered before any code is loaded, and never after.
func TestStatIsForTheBrokerAlone(t *testing.T) {
	s := serve(t)
	if a := s.call(":stat"); !a.OK || string(a.Output) != "[]" {
		t.Errorf("the stat before any code: got %+v, want []", a)
	}
	if a := s.call("blocks/x.py:run", map[string]any{}, map[string]any{}); a.Kind == "invalid" {
		t.Errorf("a call of code: got %+v, want it taken as valid", a)
	}
	if a := s.call(":stat"); a.OK || a.Kind != "invalid" {
		t.Errorf("once code is loaded: %+v; want invalid", a)
	}
}
