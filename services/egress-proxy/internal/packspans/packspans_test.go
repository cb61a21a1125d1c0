package packspans

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/rumi-ai/rumi/services/egress-proxy/internal/decision"
)

// spanJSON is the example of OpenTelemetry's documents, shortened.
const spanJSON = `{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"my.service"}}]},
"scopeSpans":[{"scope":{"name":"my.library","version":"1.0.0"},"spans":[{"traceId":"5B8EFFF798038103D269B633813FC60C","spanId":"eee19b7ec3c1b174",
"parentSpanId":"EEE19B7EC3C1B173","name":"I'm a server span","startTimeUnixNano":"1544712660000000000","endTimeUnixNano":1544712661000000000,"kind":2,
"attributes":[{"key":"my.span.attr","value":{"intValue":"7"}}],"links":[{"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174"}],"later":1}]}]}]}`

func TestEncodings(t *testing.T) {
	w := newWorld(t, 100)
	plain := marshal(t, request(span()))
	for about, c := range map[string]struct {
		kind, encoding string
		body           []byte
	}{
		"protobuf":           {"application/x-protobuf", "", plain},
		"protobuf, identity": {"application/x-protobuf", "identity", plain},
		"protobuf, gzip":     {"application/x-protobuf", "gzip", zip(t, plain)},
		"JSON":               {"application/json", "", []byte(spanJSON)},
		"JSON, UTF-8":        {"application/json; charset=utf-8", "", []byte(spanJSON)},
		"JSON, gzip":         {"application/json", "gzip", zip(t, []byte(spanJSON))},
	} {
		a := w.post("p", c.kind, c.body, func(r *http.Request) { r.Header.Set("Content-Encoding", c.encoding) })
		if kind, _, _ := strings.Cut(c.kind, ";"); a.Status != http.StatusOK || a.ContentType != kind {
			t.Errorf("%s: got %d %s %q, want 200 in the same format", about, a.Status, a.ContentType, a.Body)
			continue
		}
		got := w.one()
		if kind := strings.HasPrefix(c.kind, "application/json"); !kind {
			continue
		}
		var id [16]byte
		hex.Decode(id[:], []byte("5b8efff798038103d269b633813fc60c"))
		mapped := w.key.Map("p", id)
		if string(got.TraceId) != string(mapped[:]) || hex.EncodeToString(got.SpanId) != "eee19b7ec3c1b174" || hex.EncodeToString(got.ParentSpanId) != "eee19b7ec3c1b173" || len(got.Links) != 1 {
			t.Errorf("%s: got %v, want the ids of the hexadecimal text", about, got)
		}
	}
}

// What is refused, and with which status: by OTLP, only 429, 502, 503 and 504 are tried again.
func TestRefusals(t *testing.T) {
	w := newWorld(t, 100)
	plain := marshal(t, request(span()))
	path := func(p string) func(*http.Request) { return func(r *http.Request) { r.URL.Path = p } }
	for about, c := range map[string]struct {
		kind   string
		body   []byte
		change func(*http.Request)
		status int
		text   string
	}{
		"metrics":             {"application/x-protobuf", plain, path("/v1/metrics"), 404, "Rumi takes spans of packs, no metrics: set OTEL_METRICS_EXPORTER=none"},
		"logs":                {"application/x-protobuf", plain, path("/v1/logs"), 404, "Rumi takes spans of packs, no logs: set OTEL_LOGS_EXPORTER=none"},
		"no type":             {"", plain, nil, 415, "Content-Type must be application/x-protobuf or application/json"},
		"another type":        {"text/plain", plain, nil, 415, "Content-Type must be application/x-protobuf or application/json"},
		"another encoding":    {"application/x-protobuf", plain, func(r *http.Request) { r.Header.Set("Content-Encoding", "br") }, 415, "Content-Encoding must be gzip or none"},
		"no gzip":             {"application/x-protobuf", plain, zipped, 400, "Spans are not well-formed"},
		"half a gzip":         {"application/x-protobuf", zip(t, plain)[:30], zipped, 400, "Spans are not well-formed"},
		"half a message":      {"application/x-protobuf", plain[:len(plain)-3], nil, 400, "Spans are not well-formed"},
		"text":                {"application/x-protobuf", []byte("hello"), nil, 400, "Spans are not well-formed"},
		"groups":              {"application/x-protobuf", bytes.Repeat([]byte{0x0b}, 1<<20), nil, 400, "Spans are not well-formed"},
		"invalid UTF-8":       {"application/x-protobuf", bytes.Replace(plain, []byte("work"), []byte("\xff\xfe\xfd\xfc"), 1), nil, 400, "Spans are not well-formed"},
		"half of JSON":        {"application/json", []byte(spanJSON[:100]), nil, 400, "Spans are not well-formed"},
		"JSON of a list":      {"application/json", []byte(`[]`), nil, 400, "Spans are not well-formed"},
		"two documents":       {"application/json", []byte(`{}{}`), nil, 400, "Spans are not well-formed"},
		"a body too long":     {"application/x-protobuf", make([]byte, maxBody+1), nil, 413, "Spans of more than 2097152 bytes in one request: export smaller batches"},
		"of unknown length":   {"application/x-protobuf", make([]byte, maxBody+1), func(r *http.Request) { r.ContentLength = -1 }, 413, "Spans of more than 2097152 bytes in one request: export smaller batches"},
		"a bomb":              {"application/x-protobuf", zip(t, make([]byte, 64<<20)), zipped, 413, "Spans of more than 4194304 bytes in one request: export smaller batches"},
		"half a million":      {"application/x-protobuf", bytes.Repeat([]byte{0x0a, 0x00}, 500_000), nil, 400, "Spans have too many parts, or too deep ones: export smaller batches"},
		"half a million list": {"application/json", []byte(`{"resourceSpans":[` + strings.Repeat("{},", 500_000) + `{}]}`), nil, 400, "Spans have too many parts, or too deep ones: export smaller batches"},
		"deep":                {"application/x-protobuf", deepValue(t), nil, 400, "Spans have too many parts, or too deep ones: export smaller batches"},
		"deep JSON":           {"application/json", bytes.Repeat([]byte("["), 200), nil, 400, "Spans have too many parts, or too deep ones: export smaller batches"},
		"half a body":         {"application/x-protobuf", nil, func(r *http.Request) { r.Body = io.NopCloser(iotest.ErrReader(io.ErrUnexpectedEOF)) }, 400, "Request body ended early"},
	} {
		w.Forget("p") // each begins with a whole rate
		change := c.change
		if change == nil {
			change = func(*http.Request) {}
		}
		a := w.post("p", c.kind, c.body, change)
		if c.kind == "application/json" {
			if a.Status != c.status || !strings.Contains(string(a.Body), c.text) || a.ContentType != c.kind {
				t.Errorf("%s: got %d %s %s, want %d and %q", about, a.Status, a.ContentType, a.Body, c.status, c.text)
			}
		} else if got := message(t, a); a.Status != c.status || got.Message != c.text || got.Code == 0 {
			t.Errorf("%s: got %d %v, want %d and %q", about, a.Status, got, c.status, c.text)
		}
		if got := w.received(); len(got) != 0 {
			t.Errorf("%s: the collector got %v, want nothing", about, got)
		}
	}
}

// deepValue is a span with a value of a hundred lists within each other.
func deepValue(t *testing.T) []byte {
	value := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "x") // AnyValue.string_value
	for range 100 {
		list := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), value) // ArrayValue.values
		value = protowire.AppendBytes(protowire.AppendTag(nil, 5, protowire.BytesType), list)  // AnyValue.array_value
	}
	attribute := protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), value)
	m := protowire.AppendBytes(protowire.AppendTag(nil, 9, protowire.BytesType), attribute) // Span.attributes
	for range 3 {                                                                           // spans, scope_spans, resource_spans
		m = protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), m)
	}
	m[0] = 0x0a // resource_spans is the first field
	return m
}

// What is refused for its number of parts is refused before it is decoded: two bytes each become a hundred.
func TestDecodingIsBounded(t *testing.T) {
	w := newWorld(t, 100)
	for about, one := range map[string]string{"resources": "\x0a\x00", "spans": ""} {
		body := bytes.Repeat([]byte(one), maxBody/2)
		if about == "spans" {
			spans := bytes.Repeat([]byte{0x12, 0x00}, maxBody/2-100)
			scope := protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), spans)
			body = protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), scope)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		a := w.post("p", "application/x-protobuf", body)
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; a.Status != http.StatusBadRequest || used > 32<<20 {
			t.Errorf("%s: got %d after %d bytes, want 400 after fewer than 32 MiB", about, a.Status, used)
		}
		w.Forget("p")
	}
}

// A pack whose gate is closed sends no spans, also if it closes while they come.
func TestGate(t *testing.T) {
	w := newWorld(t, 100)
	plain := marshal(t, request(span()))
	closed := decision.GrantDenied("not_approved", "pack is not approved")
	w.closed = closed
	if a := w.post("p", "application/x-protobuf", plain); a.Status != http.StatusForbidden || message(t, a).Message != closed.Text {
		t.Errorf("got %d %q, want 403 and %q", a.Status, a.Body, closed.Text)
	}
	w.closed = nil
	a := w.post("p", "application/x-protobuf", nil, func(r *http.Request) {
		r.Body = io.NopCloser(readerFunc(func([]byte) (int, error) { w.closed = closed; return 0, io.EOF }))
	})
	if a.Status != http.StatusForbidden || len(w.received()) != 0 || w.count("rumi_pack_span_requests_total", "gate_closed") != 2 {
		t.Errorf("got %d for a gate that closed meanwhile, want 403", a.Status)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// Without a collector, and where an operator wants none of them, spans are taken and dropped: packs see no errors.
func TestOff(t *testing.T) {
	for about, w := range map[string]*world{"no collector": newWorld(t, 100), "rate 0": newWorld(t, 0)} {
		w.away = about == "no collector"
		if n := w.send("p", span()); n != 0 || len(w.received()) != 0 || w.count("rumi_pack_span_requests_total", "off") != 1 {
			t.Errorf("%s: %d spans rejected, want that all are taken and dropped", about, n)
		}
		if a := w.post("p", "application/x-protobuf", []byte("not even protobuf")); a.Status != http.StatusOK {
			t.Errorf("%s: got %d, want 200: nothing is decoded", about, a.Status)
		}
		if a := w.post("p", "application/x-protobuf", make([]byte, maxBody+1)); a.Status != http.StatusRequestEntityTooLarge {
			t.Errorf("%s: got %d, want 413: bounds hold nevertheless", about, a.Status)
		}
	}
}

// Spans that wait when the collector goes are dropped; so are those that it doesn't take. Both are counted.
func TestCollectorFails(t *testing.T) {
	w := newWorld(t, 100)
	w.send("p", span())
	w.away = true
	w.upload(t.Context())
	w.away, w.broken = false, true
	w.send("p", span(), span())
	w.upload(t.Context())
	w.broken = false
	if got := w.received(); len(got) != 0 || w.count("rumi_pack_spans_total", "collector_off") != 1 || w.count("rumi_pack_spans_total", "failed") != 2 {
		t.Errorf("the collector got %v, want nothing, 1 span counted as collector_off and 2 as failed", got)
	}
	w.send("p", span())
	w.one()
	if n := w.count("rumi_pack_spans_total", "exported"); n != 1 {
		t.Errorf("%d spans counted as exported, want 1", n)
	}
	if !strings.Contains(w.logs.String(), "could not be sent to the collector") {
		t.Errorf("the log has %s, want that spans couldn't be sent", w.logs.String())
	}
}

// A pack over its rate loses the rest, then waits; another pack doesn't notice. The log says it once a minute.
func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 100)
		spans := make([]*tracepb.Span, 1000)
		for i := range spans {
			spans[i] = span()
		}
		rejected := 0
		for range 3 { // 2048 at once
			rejected += w.send("flood", spans...)
		}
		if rejected != 3000-burst {
			t.Errorf("%d spans rejected, want %d", rejected, 3000-burst)
		}
		began := time.Now()
		a := w.post("flood", "application/x-protobuf", marshal(t, request(span())))
		if waited := time.Since(began); a.Status != http.StatusTooManyRequests || a.RetryAfter != time.Second || waited != refusalDelay {
			t.Errorf("got %d, Retry-After %v after %v; want 429, a second, after %v", a.Status, a.RetryAfter, waited, refusalDelay)
		}
		if n := w.send("other", span()); n != 0 {
			t.Errorf("%d of another pack's spans rejected, want none", n)
		}
		time.Sleep(time.Second)
		if n := w.send("flood", spans...); n != 1000-120 { // of 1.2 s
			t.Errorf("%d spans rejected a second later, want all but 120", n)
		}
		if n := strings.Count(w.logs.String(), "spans of a pack were dropped"); n != 1 {
			t.Errorf("%d log lines, want 1: %s", n, w.logs.String())
		}
	})
}

// A pack that floods is answered a few times a second, however many requests it makes at once.
func TestFloodIsAnsweredSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		spans := make([]*tracepb.Span, 1024)
		for i := range spans {
			spans[i] = span()
		}
		w.send("p", spans...)
		w.send("p", spans...)
		answers := make(chan int, 1000)
		ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
		defer stop()
		for range 100 {
			go func() {
				for ctx.Err() == nil {
					answers <- w.post("p", "application/x-protobuf", []byte{}, func(r *http.Request) { *r = *r.WithContext(ctx) }).Status
				}
			}()
		}
		<-ctx.Done()
		n := len(answers)
		for range 100 {
			<-answers
		}
		if limit := maxRequests * int(5*time.Second/refusalDelay); n > limit+10 {
			t.Errorf("%d answers in 5 seconds, want %d at most", n, limit)
		}
		synctest.Wait()
	})
}

// Bytes count, too: a pack that sends long requests with little in them has the same rate.
func TestRateOfBytes(t *testing.T) {
	w := newWorld(t, 1)
	body := marshal(t, &collectorpb.ExportTraceServiceRequest{})
	body = append(body, protowire.AppendBytes(protowire.AppendTag(nil, 99, protowire.BytesType), make([]byte, maxBody-100))...) // a field that nobody knows
	n := 0
	for ; w.post("p", "application/x-protobuf", body).Status == http.StatusOK; n++ {
		if n > 100 {
			t.Fatal("a pack sends 100 requests of 2 MiB at once, want that its rate ends")
		}
	}
	if want := burst * bytesASpan / maxBody; n < want || n > want+1 {
		t.Errorf("%d requests of 2 MiB at once, want about %d", n, want)
	}
}

func TestQueueIsFair(t *testing.T) {
	q := newQueue()
	push := func(pack string, bytes int) (int, bool) {
		return q.push(pack, batch{resource: &tracepb.ResourceSpans{SchemaUrl: pack}, spans: 1, bytes: bytes})
	}
	// One pack fills its own line, not the queue.
	n := 0
	for ok := true; ok && n < 1000; n++ {
		_, ok = push("flood", maxPackBytes/8)
	}
	if n != 9 {
		t.Errorf("%d batches until the line is full, want 9", n)
	}
	// Its batches go out in turns with others'.
	push("small", 100)
	upload, _ := q.next()
	if len(upload) < 2 || upload[0].SchemaUrl != "flood" || upload[1].SchemaUrl != "small" {
		t.Errorf("the next upload is %v, want both packs' first batches", upload)
	}
	// Where many packs fill the queue, the longest lines give way, and a pack that has little keeps it.
	q = newQueue()
	push("small", 100)
	evicted := 0
	for i := range 100 {
		for range 8 {
			e, _ := push(fmt.Sprint("flood", i), maxPackBytes/8)
			evicted += e
		}
	}
	if q.bytes > maxQueueBytes || evicted == 0 {
		t.Errorf("%d bytes wait after %d evictions, want %d at most", q.bytes, evicted, maxQueueBytes)
	}
	if _, ok := push("late", 100); !ok {
		t.Error("a pack that has nothing in the queue finds no room")
	}
	seen := map[string]int{}
	for {
		upload, n := q.next()
		if n == 0 {
			break
		}
		for _, one := range upload {
			seen[one.SchemaUrl]++
		}
	}
	if seen["small"] != 1 || seen["late"] != 1 || len(seen) < 30 {
		t.Errorf("sent on of each pack: %v; want the small ones' and some of many others'", seen)
	}
	if q.bytes != 0 || len(q.lines) != 0 || len(q.turns) != 0 {
		t.Errorf("the empty queue has %d bytes, %d lines, %d turns", q.bytes, len(q.lines), len(q.turns))
	}
}

// Run sends once a second, and what is left at its end.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 100)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- w.Run(ctx) }()
		w.send("p", span())
		time.Sleep(2 * uploadEvery)
		synctest.Wait()
		if n := w.count("rumi_pack_spans_total", "exported"); n != 1 {
			t.Errorf("%d spans exported after two seconds, want 1", n)
		}
		w.send("p", span())
		stop()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if n := w.count("rumi_pack_spans_total", "exported"); n != 2 {
			t.Errorf("%d spans exported at the end, want 2", n)
		}
	})
}
