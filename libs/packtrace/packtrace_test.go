package packtrace

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/trace"
)

const (
	idText     = "4bf92f3577b34da6a3ce929d0e0e4736"
	parentText = "00f067aa0ba902b7"
)

func span(t testing.TB, flags trace.TraceFlags) trace.SpanContext {
	t.Helper()
	id, err := trace.TraceIDFromHex(idText)
	if err != nil {
		t.Fatal(err)
	}
	parent, err := trace.SpanIDFromHex(parentText)
	if err != nil {
		t.Fatal(err)
	}
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: id, SpanID: parent, TraceFlags: flags})
}

// TestJoin: a pack continues a trace only with the proof that it was handed itself, and can't have more recorded than was decided.
func TestJoin(t *testing.T) {
	k, sampled, unsampled := Random(), span(t, trace.FlagsSampled), span(t, 0)
	own, quiet := k.Mint("a", sampled), k.Mint("a", unsampled)
	if want := "00-" + idText + "-" + parentText + "-01"; own.TraceParent != want || !strings.HasSuffix(quiet.TraceParent, "-00") {
		t.Fatalf("minted %q and %q, want %q and the same with 00", own.TraceParent, quiet.TraceParent, want)
	}
	otherTrace := strings.Replace(own.TraceParent, "4bf9", "4bf8", 1)
	upgraded := strings.TrimSuffix(quiet.TraceParent, "00") + "01"
	raised := strings.Replace(quiet.TraceState, "rumi=0", "rumi=1", 1)
	for _, c := range []struct {
		what, pack, parent, state string
		joined, sampled           bool
	}{
		{"as it was handed", "a", own.TraceParent, own.TraceState, true, true},
		{"a span of its own below it", "a", strings.Replace(own.TraceParent, parentText, "1111111111111111", 1), own.TraceState, true, true},
		{"among other members", "a", own.TraceParent, "x=1, " + own.TraceState + " ,y=2", true, true},
		{"not sampled", "a", quiet.TraceParent, quiet.TraceState, true, false},
		{"less than decided", "a", strings.TrimSuffix(own.TraceParent, "01") + "00", own.TraceState, true, false},
		{"more than decided", "a", upgraded, quiet.TraceState, true, false},
		{"more than decided, and the proof changed", "a", upgraded, raised, false, false},
		{"stolen by another pack", "b", own.TraceParent, own.TraceState, false, false},
		{"stolen by a child", "a__b", own.TraceParent, own.TraceState, false, false},
		{"the proof of another trace", "a", otherTrace, own.TraceState, false, false},
		{"of another key", "a", own.TraceParent, Random().Mint("a", sampled).TraceState, false, false},
		{"no proof", "a", own.TraceParent, "", false, false},
		{"an empty proof", "a", own.TraceParent, "rumi=", false, false},
		{"too short a proof", "a", own.TraceParent, own.TraceState[:len(own.TraceState)-1], false, false},
		{"too long a proof", "a", own.TraceParent, own.TraceState + "A", false, false},
		{"a wrong proof first", "a", own.TraceParent, "rumi=x," + own.TraceState, false, false},
		{"behind more than is read", "a", own.TraceParent, strings.Repeat("x=1,", maxState/4) + own.TraceState, false, false},
	} {
		got, joined := k.Accept(c.pack, c.parent, c.state)
		if joined != c.joined || got.IsSampled() != c.sampled || !got.IsRemote() || got.TraceState().Len() != 0 {
			t.Errorf("%s: got %+v, joined %v; want joined %v, sampled %v, remote, and no tracestate", c.what, got, joined, c.joined, c.sampled)
		}
		if sameTrace := got.TraceID().String() == c.parent[3:35]; sameTrace != c.joined {
			t.Errorf("%s: the trace is %s, sent was %s; want the same: %v", c.what, got.TraceID(), c.parent, c.joined)
		}
		if got.SpanID().String() != c.parent[36:52] {
			t.Errorf("%s: the parent is %s, want that of %s", c.what, got.SpanID(), c.parent)
		}
	}
}

// TestMap: the spans of a pack's own trace stay together, apart from those of everybody else.
func TestMap(t *testing.T) {
	k, id := Random(), span(t, 0).TraceID()
	if first, second := k.Map("a", id), k.Map("a", id); first != second {
		t.Errorf("the same trace of the same pack is mapped to %s and %s", first, second)
	}
	all := map[trace.TraceID]bool{id: true}
	for _, key := range []*Key{k, Random()} {
		for _, pack := range []string{"a", "b", "a__b"} {
			all[key.Map(pack, id)] = true
		}
	}
	other := id
	other[0]++
	if all[k.Map("a", other)] = true; len(all) != 8 {
		t.Errorf("%d ids, want 8 different ones", len(all))
	}
}

func TestNothingIsMintedForNoSpan(t *testing.T) {
	if got := Random().Mint("a", trace.SpanContext{}); got != (Context{}) {
		t.Errorf("minted %+v, want nothing", got)
	}
}

func TestMalformed(t *testing.T) {
	good := "00-" + idText + "-" + parentText + "-01"
	for _, c := range []struct {
		parent string
		ok     bool
	}{
		{good, true}, {"01" + good[2:] + "-more", true}, {"01" + good[2:], true}, {"01" + good[2:] + "x", false}, {"ff" + good[2:], false},
		{"", false}, {good[:54], false}, {good + "-", false}, {strings.ToUpper(good), false}, {"00-" + strings.Repeat("0", 32) + good[35:], false},
		{good[:36] + strings.Repeat("0", 16) + "-01", false}, {strings.Replace(good, "-", "_", 1), false}, {good[:53] + "zz", false},
	} {
		if got, _ := Random().Accept("a", c.parent, ""); got.IsValid() != c.ok {
			t.Errorf("%q: got %+v, want it valid: %v", c.parent, got, c.ok)
		}
	}
}

func TestStrip(t *testing.T) {
	for state, want := range map[string]string{
		"": "", "x=1": "x=1", "rumi=1A": "", "x=1,rumi=1A,y=2": "x=1,y=2", "x=1, rumi =1A ,y=2": "x=1,y=2", "xrumi=1,y=rumi": "xrumi=1,y=rumi",
		"rumi=1,rumi=2": "", strings.Repeat("x", maxState+1): "",
	} {
		if got := Strip(state); got != want {
			t.Errorf("%.80q is stripped to %.80q, want %q", state, got, want)
		}
	}
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), File)
	if err := Create(path); err != nil {
		t.Fatal(err)
	}
	a, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	b := LoadOrRandom(path, slog.New(slog.DiscardHandler))
	own := a.Mint("a", span(t, 0))
	if _, joined := b.Accept("a", own.TraceParent, own.TraceState); !joined {
		t.Error("what one service minted, another doesn't know; want the same key")
	}
	if err := Create(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second key: got %v, want that there is one", err)
	}
	for _, text := range []string{"", "abc", strings.Repeat("z", 64), strings.Repeat("a", 66)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if k, err := Load(path); err == nil {
			t.Errorf("%q was loaded as %v, want an error", text, k)
		}
		if LoadOrRandom(path, slog.New(slog.DiscardHandler)) == nil {
			t.Errorf("%q: no key, want a random one", text)
		}
	}
}

// FuzzAccept: whatever a pack sends, it is in a trace of its own unless it sent the proof.
func FuzzAccept(f *testing.F) {
	k := Random()
	own := k.Mint("a", span(f, trace.FlagsSampled))
	f.Add(own.TraceParent, own.TraceState)
	f.Add(own.TraceParent, "x=1,rumi=0AAAAAAAAAAAAAAAAAAAAAA")
	f.Add("01"+own.TraceParent[2:]+"-more", ", ,=,rumi,rumi=,=rumi")
	f.Add("ff-", "rumi=1")
	f.Fuzz(func(t *testing.T, parent, state string) {
		got, joined := k.Accept("b", parent, state)
		if joined || got.IsSampled() {
			t.Errorf("joined %v, sampled %v by %q, %q; want neither", joined, got.IsSampled(), parent, state)
		}
		if got.IsValid() && got.TraceID().String() == parent[3:35] {
			t.Errorf("%q is used as it is, want its id mapped", parent)
		}
		if left := Strip(state); find(left) != "" {
			t.Errorf("%q still has the proof after it was stripped: %q", state, left)
		}
		if got.IsValid() != trace.NewSpanContext(trace.SpanContextConfig{TraceID: got.TraceID(), SpanID: got.SpanID()}).IsValid() {
			t.Errorf("%q gave half a context: %+v", parent, got)
		}
	})
}

func BenchmarkAccept(b *testing.B) {
	k := Random()
	own := k.Mint("a", span(b, trace.FlagsSampled))
	b.Run("joined", func(b *testing.B) {
		for b.Loop() {
			k.Accept("a", own.TraceParent, own.TraceState)
		}
	})
	b.Run("mapped", func(b *testing.B) {
		for b.Loop() {
			k.Accept("a", own.TraceParent, "")
		}
	})
}
