package packspans

import (
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/trace"
	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Whose spans they are, Rumi says. What the pack says about itself stands apart.
func TestResourceIsRumis(t *testing.T) {
	w := newWorld(t, 100)
	m := request(span())
	m.ResourceSpans[0].SchemaUrl = "http://169.254.169.254/schema"
	m.ResourceSpans[0].Resource = &resourcepb.Resource{Attributes: []*commonpb.KeyValue{
		attr("service.name", stringValue("gateway")), attr("service.namespace", stringValue("rumi")), attr("rumi.untrusted", stringValue("false")),
		attr("rumi.pack_id", stringValue("other")), attr("service.name", stringValue("again")), attr("", stringValue("no key")),
	}}
	m.ResourceSpans[0].ScopeSpans[0].SchemaUrl = "http://169.254.169.254/schema"
	m.ResourceSpans[0].ScopeSpans[0].Scope = &commonpb.InstrumentationScope{
		Name: "github.com/rumi-ai/rumi", Version: "1.0", Attributes: []*commonpb.KeyValue{attr("rumi.x", stringValue("y"))},
	}
	if n := w.sendRequest("weather", m); n != 0 {
		t.Fatalf("%d spans rejected, want 0", n)
	}
	got := w.received()[0]
	want := `service.name=string_value:"pack:weather"
service.namespace=string_value:"rumi-packs"
rumi.pack_id=string_value:"weather"
rumi.untrusted=bool_value:true
pack.resource.service.name=string_value:"gateway"
pack.resource.service.namespace=string_value:"rumi"
pack.resource.rumi.untrusted=string_value:"false"
pack.resource.rumi.pack_id=string_value:"other"`
	if listed(got.Resource.Attributes) != want || got.Resource.DroppedAttributesCount != 2 {
		t.Errorf("got the resource\n%s\nand %d dropped, want\n%s\nand 2", listed(got.Resource.Attributes), got.Resource.DroppedAttributesCount, want)
	}
	scope := got.ScopeSpans[0].Scope
	if scope.Name != "pack:github.com/rumi-ai/rumi" || scope.Version != "1.0" || listed(scope.Attributes) != `pack.rumi.x=string_value:"y"` {
		t.Errorf("got the scope %v, want it marked as the pack's", scope)
	}
	if got.SchemaUrl != "" || got.ScopeSpans[0].SchemaUrl != "" { // a collector may fetch it
		t.Errorf("got schema URLs %q and %q, want none", got.SchemaUrl, got.ScopeSpans[0].SchemaUrl)
	}
}

// A pack's spans are in a trace that Rumi handed to this pack, or in one that only this pack can have.
func TestTraces(t *testing.T) {
	w := newWorld(t, 100)
	sampled, not := trace.FlagsSampled, trace.TraceFlags(0)
	mapped := w.key.Map("weather", traceID)
	for about, c := range map[string]struct {
		state string
		want  trace.TraceID
		tells string // of the state, to the collector
	}{
		"handed to it":                {w.handed("weather", traceID, sampled), traceID, ""},
		"among others":                {"a=b," + w.handed("weather", traceID, sampled) + ",c=d", traceID, "a=b,c=d"},
		"its own":                     {"", mapped, ""},
		"its own, with a state":       {"a=b", mapped, "a=b"},
		"handed to another pack":      {w.handed("other", traceID, sampled), mapped, ""},
		"another trace":               {w.handed("weather", trace.TraceID{9}, sampled), mapped, ""},
		"guessed":                     {"rumi=1AAAAAAAAAAAAAAAAAAAAAA", mapped, ""},
		"not recorded, said recorded": {strings.Replace(w.handed("weather", traceID, not), "rumi=0", "rumi=1", 1), mapped, ""},
		"a state that isn't one":      {"\x00,,,=", mapped, ""},
		"a long state":                {strings.Repeat("a=b,", 2000), mapped, ""},
	} {
		w.send("weather", span(func(s *tracepb.Span) {
			s.TraceState = c.state
			s.Links = []*tracepb.Span_Link{{TraceId: traceID[:], SpanId: aSpanID[:], TraceState: c.state}}
		}))
		got := w.one()
		if string(got.TraceId) != string(c.want[:]) || got.TraceState != c.tells {
			t.Errorf("%s: got trace %x, state %q; want %s, %q", about, got.TraceId, got.TraceState, c.want, c.tells)
		}
		if string(got.SpanId) != string(aSpanID[:]) || string(got.ParentSpanId) != string(aParent[:]) {
			t.Errorf("%s: got span %x below %x, want %s below %s", about, got.SpanId, got.ParentSpanId, aSpanID, aParent)
		}
		if len(got.Links) != 1 || string(got.Links[0].TraceId) != string(c.want[:]) || got.Links[0].TraceState != c.tells {
			t.Errorf("%s: got the links %v, want one to %s", about, got.Links, c.want)
		}
	}
	if w.send("other", span()); string(w.one().TraceId) == string(mapped[:]) {
		t.Error("two packs that name the same trace are in one")
	}
}

// What Rumi decided not to record is not recorded because a pack says so.
func TestUnsampled(t *testing.T) {
	w := newWorld(t, 100)
	w.unkept[w.key.Map("weather", traceID)] = true
	for about, state := range map[string]string{"handed": w.handed("weather", traceID, 0), "its own": ""} {
		if n := w.send("weather", span(func(s *tracepb.Span) { s.TraceState, s.Flags = state, 1 })); n != 1 || len(w.received()) != 0 {
			t.Errorf("%s: %d spans rejected, want the one", about, n)
		}
	}
	if n := w.count("rumi_pack_spans_total", "unsampled"); n != 2 {
		t.Errorf("%d spans counted as unsampled, want 2", n)
	}
}

func TestInvalidSpans(t *testing.T) {
	w := newWorld(t, 100)
	for about, change := range map[string]func(*tracepb.Span){
		"no trace":         func(s *tracepb.Span) { s.TraceId = nil },
		"a trace of zeros": func(s *tracepb.Span) { s.TraceId = make([]byte, 16) },
		"a short trace":    func(s *tracepb.Span) { s.TraceId = s.TraceId[:15] },
		"a long trace":     func(s *tracepb.Span) { s.TraceId = make([]byte, 1000) },
		"no id":            func(s *tracepb.Span) { s.SpanId = nil },
		"an id of zeros":   func(s *tracepb.Span) { s.SpanId = make([]byte, 8) },
		"a long id":        func(s *tracepb.Span) { s.SpanId = make([]byte, 9) },
		"its own parent":   func(s *tracepb.Span) { s.ParentSpanId = s.SpanId },
		"nothing in it":    func(s *tracepb.Span) { proto.Reset(s) },
	} {
		if n := w.send("p", span(change)); n != 1 || len(w.received()) != 0 {
			t.Errorf("%s: %d spans rejected, want the one", about, n)
		}
	}
}

// The table of what a hostile pack may put into a span, and what the collector gets of it.
func TestHostileSpans(t *testing.T) {
	w := newWorld(t, 100)
	now := time.Now()
	nested := stringValue("deep")
	for range 10 {
		nested = &commonpb.AnyValue{Value: &commonpb.AnyValue_ArrayValue{ArrayValue: &commonpb.ArrayValue{Values: []*commonpb.AnyValue{nested}}}}
	}
	long := strings.Repeat("ä", 1<<16)
	var many []*commonpb.KeyValue
	for i := range 1000 {
		many = append(many, attr(fmt.Sprint("k", i), stringValue("v")))
	}
	for about, c := range map[string]struct {
		change func(*tracepb.Span)
		check  func(*tracepb.Span) any
		want   any
	}{
		"parent of zeros":       {func(s *tracepb.Span) { s.ParentSpanId = make([]byte, 8) }, func(s *tracepb.Span) any { return len(s.ParentSpanId) }, 0},
		"parent of three bytes": {func(s *tracepb.Span) { s.ParentSpanId = []byte("abc") }, func(s *tracepb.Span) any { return len(s.ParentSpanId) }, 0},
		"kind 77":               {func(s *tracepb.Span) { s.Kind = 77 }, func(s *tracepb.Span) any { return s.Kind }, tracepb.Span_SPAN_KIND_INTERNAL},
		"kind -1":               {func(s *tracepb.Span) { s.Kind = -1 }, func(s *tracepb.Span) any { return s.Kind }, tracepb.Span_SPAN_KIND_INTERNAL},
		"a server":              {func(s *tracepb.Span) { s.Kind = tracepb.Span_SPAN_KIND_SERVER }, func(s *tracepb.Span) any { return s.Kind }, tracepb.Span_SPAN_KIND_SERVER},
		"flags":                 {func(s *tracepb.Span) { s.Flags = math.MaxUint32 }, func(s *tracepb.Span) any { return s.Flags }, uint32(0x3ff)},
		"no flags":              {func(s *tracepb.Span) { s.Flags = 0 }, func(s *tracepb.Span) any { return s.Flags }, uint32(1)},
		"status 9":              {func(s *tracepb.Span) { s.Status = &tracepb.Status{Code: 9, Message: "x"} }, func(s *tracepb.Span) any { return s.Status == nil }, true},
		"status":                {func(s *tracepb.Span) { s.Status = &tracepb.Status{Code: 2, Message: "a\nb\x1b[31m"} }, func(s *tracepb.Span) any { return s.Status.Message }, `a\nb\x1b[31m`},
		"name with line breaks": {func(s *tracepb.Span) { s.Name = "a\nb\u202ec" }, func(s *tracepb.Span) any { return s.Name }, `a\nb\u202ec`},
		"a long name":           {func(s *tracepb.Span) { s.Name = long }, func(s *tracepb.Span) any { return len(s.Name) }, maxName + len("…")},
		"no times": {func(s *tracepb.Span) { s.StartTimeUnixNano, s.EndTimeUnixNano = 0, 0 }, func(s *tracepb.Span) any {
			return s.EndTimeUnixNano == s.StartTimeUnixNano && near(s.StartTimeUnixNano, now.Add(-maxAge))
		}, true},
		"the end of time":       {func(s *tracepb.Span) { s.StartTimeUnixNano, s.EndTimeUnixNano = math.MaxUint64, math.MaxUint64 }, func(s *tracepb.Span) any { return near(s.EndTimeUnixNano, now.Add(maxAhead)) }, true},
		"ends before it begins": {func(s *tracepb.Span) { s.EndTimeUnixNano = 1 }, func(s *tracepb.Span) any { return s.EndTimeUnixNano == s.StartTimeUnixNano }, true},
		"counts":                {func(s *tracepb.Span) { s.DroppedLinksCount, s.Links = math.MaxUint32, make([]*tracepb.Span_Link, 2) }, func(s *tracepb.Span) any { return s.DroppedLinksCount }, uint32(math.MaxUint32)},
		"rumi's attributes":     {with("rumi.pack_id", stringValue("x")), firstKey, "pack.rumi.pack_id"},
		"in other letters":      {with("RUMI.pack_id", stringValue("x")), firstKey, "pack.RUMI.pack_id"},
		"hidden":                {with("\u200brumi.pack_id", stringValue("x")), firstKey, `\u200brumi.pack_id`},
		"service.name":          {with("service.name", stringValue("x")), firstKey, "pack.service.name"},
		"peer.service":          {with("peer.service", stringValue("gateway")), firstKey, "pack.peer.service"},
		"http.route":            {with("http.route", stringValue("/x")), firstKey, "http.route"},
		"a long key":            {with(long, stringValue("x")), func(s *tracepb.Span) any { return len(s.Attributes[0].Key) }, maxKey + len("…")},
		"a long value":          {with("k", stringValue(long)), func(s *tracepb.Span) any { return len(s.Attributes[0].Value.GetStringValue()) }, maxString + len("…")},
		"a stack trace":         {with("k", stringValue("a\n\tb\u202ec")), func(s *tracepb.Span) any { return s.Attributes[0].Value.GetStringValue() }, "a\n\\tb\\u202ec"},
		"an honest stack trace": {with("k", stringValue("a\n\tb")), func(s *tracepb.Span) any { return s.Attributes[0].Value.GetStringValue() }, "a\n\tb"},
		"no value":              {with("k", nil), func(s *tracepb.Span) any { return s.Attributes[0].Value.Value }, nil},
		"nested":                {with("k", nested), func(s *tracepb.Span) any { return depth(s.Attributes[0].Value) }, maxNesting},
		"a thousand attributes": {func(s *tracepb.Span) { s.Attributes = many }, func(s *tracepb.Span) any { return fmt.Sprint(len(s.Attributes), " ", s.DroppedAttributesCount) }, "128 872"},
		"a thousand events":     {func(s *tracepb.Span) { s.Events = events(1000) }, func(s *tracepb.Span) any { return fmt.Sprint(len(s.Events), " ", s.DroppedEventsCount) }, "32 968"},
		"an event of no time":   {func(s *tracepb.Span) { s.Events = events(1) }, func(s *tracepb.Span) any { return near(s.Events[0].TimeUnixNano, now.Add(-maxAge)) }, true},
		"links without ids":     {func(s *tracepb.Span) { s.Links = make([]*tracepb.Span_Link, 3); fill(s.Links) }, func(s *tracepb.Span) any { return fmt.Sprint(len(s.Links), " ", s.DroppedLinksCount) }, "0 3"},
	} {
		if n := w.send("p", span(c.change)); n != 0 {
			t.Errorf("%s: the span was rejected", about)
			continue
		}
		got := w.one()
		if of := c.check(got); of != c.want {
			t.Errorf("%s: got %v, want %v", about, of, c.want)
		}
		if n := proto.Size(got); n > 2*maxSpanBytes {
			t.Errorf("%s: %d bytes are sent on, want %d at most", about, n, 2*maxSpanBytes)
		}
	}
}

func with(key string, value *commonpb.AnyValue) func(*tracepb.Span) {
	return func(s *tracepb.Span) { s.Attributes = []*commonpb.KeyValue{attr(key, value)} }
}

func firstKey(s *tracepb.Span) any { return s.Attributes[0].Key }

func near(nanos uint64, t time.Time) bool {
	return time.Unix(0, int64(nanos)).Sub(t).Abs() < time.Minute/2
}

func depth(v *commonpb.AnyValue) int {
	if a := v.GetArrayValue(); a != nil {
		return 1 + depth(a.Values[0])
	}
	return 0
}

func events(n int) (all []*tracepb.Span_Event) {
	for range n {
		all = append(all, &tracepb.Span_Event{Name: "e"})
	}
	return all
}

func fill(links []*tracepb.Span_Link) {
	for i := range links {
		links[i] = &tracepb.Span_Link{}
	}
}

// All attributes of a span share one bound, whatever they are in.
func TestSpanBytes(t *testing.T) {
	w := newWorld(t, 100)
	var big []*commonpb.KeyValue
	for i := range 16 {
		big = append(big, attr(fmt.Sprint(i), stringValue(strings.Repeat("x", maxString))))
	}
	w.send("p", span(func(s *tracepb.Span) {
		s.Attributes = big
		s.Events = []*tracepb.Span_Event{{Name: "e", Attributes: big}}
		s.Links = []*tracepb.Span_Link{{TraceId: traceID[:], SpanId: aSpanID[:], Attributes: big}}
	}))
	if n := proto.Size(w.one()); n > maxSpanBytes+1024 {
		t.Errorf("%d bytes are sent on, want about %d", n, maxSpanBytes)
	}
}

func TestTooManySpans(t *testing.T) {
	w := newWorld(t, 1<<20)
	spans := make([]*tracepb.Span, maxSpans+10)
	for i := range spans {
		spans[i] = span()
	}
	if n := w.send("p", spans...); n != 10 || w.count("rumi_pack_spans_total", "over_limit") != 10 {
		t.Errorf("%d spans rejected, want 10", n)
	}
	if n := len(spansOf(w.received())); n != maxSpans {
		t.Errorf("the collector got %d spans, want %d", n, maxSpans)
	}
}

// FuzzServe checks of any bytes that what is sent on of them is bounded, labelled, and in the pack's traces.
func FuzzServe(f *testing.F) {
	seed := request(span(func(s *tracepb.Span) {
		s.TraceState = "a=b,rumi=1x"
		s.Attributes = []*commonpb.KeyValue{attr("rumi.x", stringValue("y\u202e")), attr("k", &commonpb.AnyValue{Value: &commonpb.AnyValue_KvlistValue{
			KvlistValue: &commonpb.KeyValueList{Values: []*commonpb.KeyValue{attr("a", &commonpb.AnyValue{Value: &commonpb.AnyValue_IntValue{IntValue: 7}})}},
		}})}
		s.Events = events(2)
		s.Links = []*tracepb.Span_Link{{TraceId: traceID[:], SpanId: aSpanID[:]}}
		s.Status = &tracepb.Status{Code: 2, Message: "m"}
	}))
	seed.ResourceSpans[0].Resource = &resourcepb.Resource{Attributes: []*commonpb.KeyValue{attr("service.name", stringValue("gateway"))}}
	f.Add(marshal(f, seed), false, false)
	f.Add(zip(f, marshal(f, seed)), false, true)
	f.Add([]byte(spanJSON), true, false)
	f.Add([]byte(`{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"00","kind":"x"}]}]}]}`), true, false)
	f.Add([]byte{0x0a, 0x00, 0x0a, 0x02, 0x12, 0x00}, false, false)
	f.Add([]byte{0x0b, 0x0c}, false, false)
	f.Fuzz(func(t *testing.T, body []byte, asJSON, gzipped bool) {
		w := newWorld(t, 1<<20)
		kind := "application/x-protobuf"
		if asJSON {
			kind = "application/json"
		}
		a := w.post("p", kind, body, func(r *http.Request) {
			if gzipped {
				zipped(r)
			}
		})
		if a.Status != 200 && a.Status != 400 && a.Status != 413 {
			t.Fatalf("got %d, want 200, 400 or 413", a.Status)
		}
		for _, resource := range w.received() {
			checkSent(t, w, resource)
		}
	})
}

// checkSent checks what must be true of all that is sent on.
func checkSent(t *testing.T, w *world, resource *tracepb.ResourceSpans) {
	t.Helper()
	if _, err := proto.Marshal(&collectorpb.ExportTraceServiceRequest{ResourceSpans: []*tracepb.ResourceSpans{resource}}); err != nil {
		t.Fatalf("what is sent on is no protobuf: %v", err)
	}
	own := resource.Resource.Attributes
	if len(own) < 4 || own[0].Value.GetStringValue() != "pack:p" || own[1].Value.GetStringValue() != "rumi-packs" || !own[3].Value.GetBoolValue() {
		t.Fatalf("the resource isn't Rumi's: %v", own)
	}
	for _, a := range own[4:] {
		if !strings.HasPrefix(a.Key, resourcePrefix) {
			t.Fatalf("a pack's attribute %q of the resource", a.Key)
		}
	}
	for _, s := range spansOf([]*tracepb.ResourceSpans{resource}) {
		if len(s.TraceId) != 16 || len(s.SpanId) != 8 || s.EndTimeUnixNano < s.StartTimeUnixNano || !utf8.ValidString(s.Name) {
			t.Fatalf("a span that is none: %v", s)
		}
		if string(s.TraceId) == string(traceID[:]) || strings.Contains(s.TraceState, "rumi=") {
			t.Fatalf("a span in a trace that isn't the pack's: %v", s)
		}
		if proto.Size(s) > 2*maxSpanBytes || len(s.Attributes) > maxAttributes || len(s.Events) > maxEvents || len(s.Links) > maxLinks {
			t.Fatalf("a span of %d bytes, %d attributes", proto.Size(s), len(s.Attributes))
		}
		for _, a := range s.Attributes {
			if strings.HasPrefix(strings.ToLower(a.Key), "rumi.") {
				t.Fatalf("a pack's attribute %q", a.Key)
			}
		}
	}
}
