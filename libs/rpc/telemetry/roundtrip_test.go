package telemetry_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/rumi-ai/rumi/libs/rpc/telemetry"
)

// TestPassed: a request that is only passed on belongs to the span of the caller, and has one of its own only where no answer comes.
func TestPassed(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("test")
	ctx, top := tracer.Start(t.Context(), "top")
	for about, failure := range map[string]error{"answered": nil, "not answered": errors.New("the connection broke")} {
		r, err := http.NewRequestWithContext(ctx, "GET", "https://approval:8080/api/packs", nil)
		if err != nil {
			t.Fatal(err)
		}
		before := len(spans.Ended())
		response, err := telemetry.Pass(tracer, "approval", r, func(r *http.Request) (*http.Response, error) {
			if got, want := r.Header.Get("Traceparent"), top.SpanContext().SpanID().String(); !strings.Contains(got, want) {
				t.Errorf("%s: the service is told %q, want the span %s", about, got, want)
			}
			if failure != nil {
				return nil, failure
			}
			return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
		})
		if err == nil {
			response.Body.Close()
		}
		if !errors.Is(err, failure) {
			t.Errorf("%s: got the error %v, want %v", about, err, failure)
		}
		made := spans.Ended()[before:]
		switch {
		case failure == nil && len(made) != 0:
			t.Errorf("%s: %d spans, want none", about, len(made))
		case failure == nil:
		case len(made) != 1 || made[0].SpanKind() != trace.SpanKindClient || made[0].Status().Code != codes.Error || made[0].Parent().SpanID() != top.SpanContext().SpanID():
			t.Errorf("%s: the spans are %v, want one of a client that failed, below the caller's", about, made)
		}
	}
}
