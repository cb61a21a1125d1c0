package call

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/rumi-ai/rumi/libs/origin"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/grant"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		frame string
		kind  errorType // "" for a request that can be decided about
		text  string
	}{
		{`{"permission_id":"a.b"}`, "", ""},
		{`{"permission_id":"a.b","args":null,"timeout_seconds":null,"request_id":null}`, "", ""},
		{`{"permission_id":"a.b","args":{},"timeout_seconds":1e400,"other":[1]}`, "", ""},
		{``, protocolError, "Invalid JSON in request"},
		{`nonsense`, protocolError, "Invalid JSON in request"},
		{`[]`, protocolError, "Invalid JSON in request"},
		{`null`, invalidRequest, "Missing or invalid permission_id"},
		{`{"permission_id":"a","permission_id":"b"}`, protocolError, "Invalid JSON in request"},
		{"{\"permission_id\":\"\xff\"}", protocolError, "Invalid JSON in request"},
		{`{"permission_id":"a"} {}`, protocolError, "Invalid JSON in request"},
		{`{}`, invalidRequest, "Missing or invalid permission_id"},
		{`{"PERMISSION_ID":"a"}`, invalidRequest, "Missing or invalid permission_id"},
		{`{"permission_id":1}`, invalidRequest, "Missing or invalid permission_id"},
		{`{"permission_id":"a\n"}`, invalidRequest, "Missing or invalid permission_id"},
		{`{"permission_id":"A"}`, invalidRequest, "Missing or invalid permission_id"},
		{`{"permission_id":"` + strings.Repeat("a", 129) + `"}`, invalidRequest, "Missing or invalid permission_id"},
		{`{"permission_id":"a","args":[]}`, validationError, "'args' must be an object"},
		{`{"permission_id":"a","args":"x"}`, validationError, "'args' must be an object"},
		{`{"permission_id":"a","timeout_seconds":"1"}`, validationError, "'timeout_seconds' must be a number"},
		{`{"permission_id":"a","timeout_seconds":0}`, validationError, "'timeout_seconds' must be positive"},
		{`{"permission_id":"a","timeout_seconds":-1}`, validationError, "'timeout_seconds' must be positive"},
		{`{"permission_id":"a","timeout_seconds":-1e999}`, validationError, "'timeout_seconds' must be positive"},
		{`{"permission_id":"a","timeout_seconds":NaN}`, protocolError, "Invalid JSON in request"},
	} {
		req, refused := parse([]byte(c.frame), "p")
		switch {
		case refused == nil && c.kind != "":
			t.Errorf("%q: was accepted, want a refusal", c.frame)
		case refused != nil && (refused.kind != c.kind || refused.message() != c.text):
			t.Errorf("%q: refused as %s, %q; want %q", c.frame, refused.kind, refused.message(), c.kind)
		}
		if req.id == "" || req.claims != "" {
			t.Errorf("%q is read as %+v, want a request ID and no claim", c.frame, req)
		}
	}
}

func TestTimeouts(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"null": 30 * time.Second, "1": time.Second, "0.5": 500 * time.Millisecond, "120": 120 * time.Second, "120.5": 120 * time.Second,
		"1e300": 120 * time.Second, "1e999": 120 * time.Second, "1e-300": 1, "119.999": 119999 * time.Millisecond,
	} {
		req, refused := parse(fmt.Appendf(nil, `{"permission_id":"a","timeout_seconds":%s}`, value), "p")
		if refused != nil || req.timeout != want {
			t.Errorf("%s: %v, %v; want %v", value, req.timeout, refused, want)
		}
	}
}

func TestRequestIDs(t *testing.T) {
	for value, kept := range map[string]bool{`"r-1.A_b"`: true, `""`: false, `"a b"`: false, `"a\n"`: false, `7`: false, `"` + strings.Repeat("a", 129) + `"`: false} {
		req, refused := parse([]byte(`{"permission_id":"a","request_id":`+value+`}`), "p")
		if refused != nil || (`"`+req.id+`"` == value) != kept {
			t.Errorf("the request ID %s is read as %q (%v), want it kept: %v", value, req.id, refused, kept)
		}
	}
}

func TestClaims(t *testing.T) {
	for fields, want := range map[string]string{
		`"principal_id":"p"`:                               "",
		`"principal_id":"q"`:                               "q",
		`"principal_id":"p","pack_id":"q"`:                 "q",
		`"owner_pack":"q"`:                                 "q",
		`"principal_id":null`:                              "",
		`"principal_id":7`:                                 "(not a name)",
		`"principal_id":""`:                                "(not a name)",
		`"principal_id":"` + strings.Repeat("q", 99) + `"`: strings.Repeat("q", 64),
		`"principal_id":"` + strings.Repeat("気", 30) + `"`: strings.Repeat("気", 21), // 63 bytes; not cut inside a character
	} {
		req, _ := parse([]byte(`{"permission_id":"a",`+fields+`}`), "p")
		if req.claims != want {
			t.Errorf("parse(%s) claims %q, want %q", fields, req.claims, want)
		}
	}
}

func TestEncode(t *testing.T) {
	decode := func(b []byte) (r response) {
		t.Helper()
		if len(b) > MaxResponse {
			t.Errorf("an answer of %d bytes, want at most %d", len(b), MaxResponse)
		}
		if err := json.Unmarshal(b, &r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := decode(encode(nil, "i", jsontext.Value(`{"a":1}`), nil, 1500*time.Microsecond)); !r.Success || string(r.Output) != `{"a":1}` || r.Error != nil || r.ErrorType != nil || r.LatencyMS != 1.5 {
		t.Errorf("a success is answered by %+v, want its output and latency", r)
	}
	if r := decode(encode(nil, "i", nil, &refusal{kind: trustDenied, reason: "why"}, 0)); r.Success || *r.Error != "Permission denied" || *r.ErrorType != trustDenied || string(r.Output) != "null" {
		t.Errorf("a refusal is answered by %+v, want no reason and no output", r)
	}
	huge := jsontext.Value(`"` + strings.Repeat("x", MaxResponse) + `"`)
	if r := decode(encode(nil, "i", huge, nil, 0)); r.Success || *r.Error != "Response too large" || *r.ErrorType != responseTooLarge {
		t.Errorf("an output over the limit is answered by %v (%v), want %v", *r.Error, *r.ErrorType, responseTooLarge)
	}
}

func TestWindow(t *testing.T) {
	now := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	w := newWindow()
	of := func(principal string) quota { return quota{principal, "p.q", 3} }
	for i, c := range []struct {
		quotas []quota
		after  time.Duration
		want   bool
	}{
		{[]quota{of("a")}, 0, true},
		{[]quota{of("a")}, 0, true},
		{[]quota{of("a")}, 30 * time.Second, true},
		{[]quota{of("a")}, 0, false},
		{[]quota{of("b")}, 0, true},
		{[]quota{{"a", "p.r", 3}}, 0, true},
		{[]quota{of("b"), of("a")}, 0, false}, // and not counted for b
		{[]quota{of("a")}, 29 * time.Second, false},
		{[]quota{of("a")}, time.Second, true},
		{[]quota{of("b"), of("a")}, 0, true},
		{[]quota{of("a")}, 0, false},
		{[]quota{of("b")}, 0, true},
		{[]quota{of("a")}, 30 * time.Second, true},
		{[]quota{of("a")}, time.Hour, true},
		{[]quota{{"a", "p.q", 1}}, 0, true}, // another limit starts anew
		{[]quota{{"a", "p.q", 1}}, 0, false},
		{nil, 0, true},
	} {
		now = now.Add(c.after)
		if got := w.take(now, c.quotas...); got != c.want {
			t.Errorf("event %d at %v: taken %v, want %v", i, now.Format(time.TimeOnly), got, c.want)
		}
	}
}

// The largest value that secrets accepts, a JSON string of 1 MiB less 1 KiB, fits in an answer, whatever the request's id.
func TestTheLargestSecretFitsInAnAnswer(t *testing.T) {
	output := `{"success":true,"value":"` + strings.Repeat("x", 1<<20-1<<10-2) + `"}`
	var answer response
	raw := encode(nil, strings.Repeat("r", 128), jsontext.Value(output), nil, 119*time.Second)
	if err := json.Unmarshal(raw, &answer); err != nil || !answer.Success || len(raw) > MaxResponse {
		t.Errorf("an answer of %d bytes, success %t, %v; want success in %d bytes", len(raw), answer.Success, err, MaxResponse)
	}
}

// setClock is t as read after somebody set the clock by so much: its wall clock jumps, its monotonic clock doesn't.
func setClock(t time.Time, by time.Duration) time.Time {
	// The first word of a Time that has both is a flag, 33 bits of seconds and 30 bits of nanoseconds (package time, Time).
	*(*uint64)(unsafe.Pointer(&t)) += uint64(by/time.Second) << 30
	return t
}

func TestUsualRefillsByTheMonotonicClock(t *testing.T) {
	for _, by := range []time.Duration{0, -365 * 24 * time.Hour, time.Hour} {
		u, now := newDefaultRate(600), time.Now()
		count := func(after time.Duration) (n int) {
			for range 1000 {
				if u.take("p", setClock(now.Add(after), by)) {
					n++
				}
			}
			return n
		}
		if got := [4]int{count(0), count(0), count(3 * time.Second), count(time.Minute)}; got != [4]int{100, 0, 30, 100} {
			t.Errorf("the clock set by %v: %v calls at +0, +0, +3 s, +1 min, want 100, 0, 30, 100", by, got)
		}
		if !u.take("q", now) {
			t.Error("one principal's calls use up another's")
		}
	}
}

// A clock that is set back or ahead neither starves a principal nor lets it make more calls than its rate.
func TestWindowUnderAClockThatIsSet(t *testing.T) {
	for _, by := range []time.Duration{-365 * 24 * time.Hour, -24 * time.Hour, -time.Hour, time.Hour, 365 * 24 * time.Hour} {
		w, q := newWindow(), quota{"a", "p.q", 2}
		now := time.Now()
		if got := setClock(now, by); got.Sub(now) != 0 || got.Unix()-now.Unix() != int64(by/time.Second) {
			t.Fatalf("setting the clock by %v gave %v from %v", by, got, now)
		}
		for i, c := range []struct {
			after time.Duration
			want  bool
		}{{0, true}, {time.Second, true}, {2 * time.Second, false}, {59 * time.Second, false}, {60 * time.Second, true}, {61 * time.Second, true}, {62 * time.Second, false}} {
			at := now.Add(c.after)
			if i > 1 {
				at = setClock(at, by)
			}
			if got := w.take(at, q); got != c.want {
				t.Errorf("the clock set by %v: event at +%v: %v, want %v", by, c.after, got, c.want)
			}
		}
	}
}

// Whatever a pack sends, what comes of it is a request that can be decided about or a refusal that can be told.
func FuzzParse(f *testing.F) {
	for _, frame := range []string{
		`{"permission_id":"a.b","args":{"a":[1,{"b":null}]},"timeout_seconds":1.5,"request_id":"r"}`,
		`{"permission_id":"a","timeout_seconds":1e400,"principal_id":{"x":1}}`,
		`{"permission_id":"a","args":{"a":1,"a":2}}`, `{"permission_id":"\ud800"}`, `{"timeout_seconds":-0}`, `{"pack_id":"q","args":[]}`, `null`, ``,
	} {
		f.Add([]byte(frame))
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		req, refused := parse(frame, "p")
		if !origin.ValidRequestID(req.id) || len(req.claims) > 64 {
			t.Errorf("the request has the id %q and claims %q, want a valid id and at most 64 bytes", req.id, req.claims)
		}
		if refused != nil {
			if refused.message() == "" || refused.kind == "" {
				t.Errorf("the refusal is %+v, want one with a kind and a message", refused)
			}
		} else if !grant.ValidPermission(req.permission) || req.args.Kind() != '{' || req.timeout <= 0 || req.timeout > MaxTimeout {
			t.Errorf("the request is %+v, want one that can be decided about", req)
		}
		var answer response
		if err := json.Unmarshal(encode(nil, req.id, nil, refused, 0), &answer); err != nil || answer.Success != (refused == nil) {
			t.Errorf("the answer is %+v, %v; want success %v", answer, err, refused == nil)
		}
	})
}
