package tracing

import (
	"net/http"
	"net/http/httptest"
	"testing"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/rumi-ai/rumi/libs/tracing/tracingtest"
)

// others are spans that somebody else made.
func others() []*tracepb.ResourceSpans {
	return []*tracepb.ResourceSpans{{ScopeSpans: []*tracepb.ScopeSpans{{Spans: []*tracepb.Span{{TraceId: make([]byte, 16), SpanId: make([]byte, 8), Name: "theirs"}}}}}}
}

func TestUpload(t *testing.T) {
	collector := tracingtest.New(t)
	tracing := start(t, collector.URL)
	if tracing.Collected() {
		t.Error("there is a collector before anybody has looked, want none")
	}
	tracing.lookOnce()
	if !tracing.Collected() {
		t.Error("there is no collector, want one")
	}
	if err := tracing.Upload(t.Context(), others()); err != nil {
		t.Fatal(err)
	}
	if got := collector.Spans(); len(got) != 1 || got[0].Name != "theirs" {
		t.Errorf("the collector got %+v, want the span", got)
	}
	if without := start(t, ""); without.Collected() || without.Upload(t.Context(), others()) == nil {
		t.Error("without a collector: an upload succeeds, want an error")
	}
}

// Spans of others that the collector refuses don't switch off the service's own.
func TestRefusedUpload(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength > 0 {
			w.WriteHeader(http.StatusBadRequest)
		}
	}))
	defer server.Close()
	tracing := start(t, server.URL)
	tracing.lookOnce()
	if err := tracing.Upload(t.Context(), others()); err == nil {
		t.Error("the upload succeeded, want the collector's refusal")
	}
	if !tracing.Collected() {
		t.Error("the service's own spans are switched off by spans of others")
	}
}
