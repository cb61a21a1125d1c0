// Package tracingtest is a collector of spans for tests: OTLP over HTTP, with protobuf, as any collector takes it.
package tracingtest

import (
	"compress/gzip"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// maxRequest bounds a request, after it was unpacked.
const maxRequest = 64 << 20

// Span is a span that was received. Attributes are as text.
type Span struct {
	Name, Kind, TraceID, ID, ParentID, Status string
	Attributes, Resource                      map[string]string
	Events, Links                             []string // names; trace ids
	Begin, End                                time.Time
}

// Receiver takes spans.
type Receiver struct {
	URL string // for OTEL_EXPORTER_OTLP_ENDPOINT

	mu       sync.Mutex
	spans    []Span
	problems []string
}

// New starts a receiver at a free port of 127.0.0.1 until t ends.
func New(t testing.TB) *Receiver {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return Serve(t, l)
}

// Serve is New on a listener.
func Serve(t testing.TB, l net.Listener) *Receiver {
	r := &Receiver{URL: "http://" + l.Addr().String()}
	server := &http.Server{Handler: r, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() {
		server.Close()
		for _, p := range r.problems {
			t.Error("the collector was sent what it can't take: ", p)
		}
	})
	return r
}

// ServeHTTP implements http.Handler.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	spans, err := read(q)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.problems = append(r.problems, err.Error())
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.spans = append(r.spans, spans...)
	w.Header().Set("Content-Type", "application/x-protobuf")
}

// Spans are all that came so far, by their beginning.
func (r *Receiver) Spans() []Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := slices.Clone(r.spans)
	slices.SortStableFunc(all, func(a, b Span) int { return a.Begin.Compare(b.Begin) })
	return all
}

// Trace are the spans of a trace.
func (r *Receiver) Trace(id string) []Span {
	return slices.DeleteFunc(r.Spans(), func(s Span) bool { return s.TraceID != id })
}

// Forget drops what came so far.
func (r *Receiver) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spans = nil
}

func read(q *http.Request) ([]Span, error) {
	if q.Method != http.MethodPost || q.URL.Path != "/v1/traces" || q.Header.Get("Content-Type") != "application/x-protobuf" {
		return nil, fmt.Errorf("%s %s of type %q; want POST /v1/traces of protobuf", q.Method, q.URL.Path, q.Header.Get("Content-Type"))
	}
	body := io.Reader(q.Body)
	if q.Header.Get("Content-Encoding") == "gzip" {
		unpacked, err := gzip.NewReader(body)
		if err != nil {
			return nil, err
		}
		body = unpacked
	}
	data, err := io.ReadAll(io.LimitReader(body, maxRequest))
	if err != nil {
		return nil, err
	}
	var message collector.ExportTraceServiceRequest
	if err := proto.Unmarshal(data, &message); err != nil {
		return nil, err
	}
	return spansOf(&message), nil
}

func spansOf(message *collector.ExportTraceServiceRequest) (all []Span) {
	for _, of := range message.ResourceSpans {
		resource := texts(of.GetResource().GetAttributes())
		for _, scope := range of.ScopeSpans {
			for _, s := range scope.Spans {
				all = append(all, spanOf(s, resource))
			}
		}
	}
	return all
}

func spanOf(s *otlp.Span, resource map[string]string) Span {
	span := Span{
		Name: s.Name, Kind: strings.ToLower(strings.TrimPrefix(s.Kind.String(), "SPAN_KIND_")), TraceID: hex.EncodeToString(s.TraceId),
		ID: hex.EncodeToString(s.SpanId), ParentID: hex.EncodeToString(s.ParentSpanId),
		Status:     strings.ToLower(strings.TrimPrefix(s.GetStatus().GetCode().String(), "STATUS_CODE_")),
		Attributes: texts(s.Attributes), Resource: resource,
		Begin: time.Unix(0, int64(s.StartTimeUnixNano)), End: time.Unix(0, int64(s.EndTimeUnixNano)),
	}
	for _, e := range s.Events {
		span.Events = append(span.Events, e.Name)
	}
	for _, l := range s.Links {
		span.Links = append(span.Links, hex.EncodeToString(l.TraceId))
	}
	return span
}

func texts(attributes []*common.KeyValue) map[string]string {
	all := map[string]string{}
	for _, a := range attributes {
		all[a.Key] = text(a.Value)
	}
	return all
}

func text(v *common.AnyValue) string {
	switch v := v.GetValue().(type) {
	case *common.AnyValue_StringValue:
		return v.StringValue
	case *common.AnyValue_IntValue:
		return fmt.Sprint(v.IntValue)
	case *common.AnyValue_BoolValue:
		return fmt.Sprint(v.BoolValue)
	case *common.AnyValue_DoubleValue:
		return fmt.Sprint(v.DoubleValue)
	}
	return v.String()
}

// Tree writes spans as a tree: a line each, indented below its parent, with its service, kind, name and those attributes that are asked for.
// Children are sorted by their line. A span whose parent isn't among spans is a root.
func Tree(spans []Span, attributes ...string) string {
	children, known := map[string][]Span{}, map[string]bool{}
	for _, s := range spans {
		known[s.ID] = true
	}
	for _, s := range spans {
		parent := s.ParentID
		if !known[parent] {
			parent = ""
		}
		children[parent] = append(children[parent], s)
	}
	return strings.Join(branches(children, "", "", attributes), "\n")
}

func branches(children map[string][]Span, parent, indent string, attributes []string) []string {
	blocks := map[string]int{}
	for _, s := range children[parent] {
		lines := append([]string{indent + line(s, attributes)}, branches(children, s.ID, indent+"  ", attributes)...)
		blocks[strings.Join(lines, "\n")]++
	}
	var all []string
	for _, block := range slices.Sorted(maps.Keys(blocks)) {
		for range blocks[block] {
			all = append(all, block)
		}
	}
	return all
}

func line(s Span, attributes []string) string {
	text := s.Resource["service.name"] + ": " + s.Name + " (" + s.Kind + ")"
	for _, name := range attributes {
		if value, ok := s.Attributes[name]; ok {
			text += " " + name + "=" + value
		}
	}
	if s.Status == "error" {
		text += " ERROR"
	}
	return text
}
