package worker

import (
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/rumi-ai/rumi/libs/packtrace"
)

// A call's wait, the start of the worker that it waits for, and the handler's work are spans below the call. The handler is handed its part of the trace,
// with the proof for its own pack.
func TestTrace(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("")
	border := packtrace.Border{Key: packtrace.Random()}
	var handed handlerContext
	m := &machine{behave: func(id string, args []jsontext.Value) ([]string, bool) {
		if err := json.Unmarshal(args[0], &handed); err != nil {
			panic(err)
		}
		return polite(id, args)
	}}
	inPool(t, m, Limits{PerHandler: 1, Total: 2, Queue: 4, Idle: time.Minute}, func(t *testing.T, p *Pool) {
		p.border = border
		for _, want := range []string{"capability.start_worker<capability.queue capability.queue<call capability.handler<call call<", "capability.handler<call call<"} {
			spans.Reset()
			ctx, call := tracer.Start(t.Context(), "call")
			if _, err := p.Run(ctx, job("caller", "1")); err != nil {
				t.Fatal(err)
			}
			call.End()
			if got := tree(spans.Ended()); got != want {
				t.Errorf("the spans are %s, want %s", got, want)
			}
			var handlerSpan trace.SpanContext
			for _, s := range spans.Ended() {
				if s.Name() == "capability.handler" {
					handlerSpan = s.SpanContext()
				}
			}
			if got := (packtrace.Context{TraceParent: handed.TraceParent, TraceState: handed.TraceState}); got != border.Key.Mint("o", handlerSpan) {
				t.Errorf("the handler was handed %+v, want its span with the proof for its own pack", got)
			}
		}
		handed = handlerContext{}
		if _, err := p.Run(t.Context(), job("caller", "1")); err != nil || handed.TraceParent != "" || handed.TraceState != "" {
			t.Errorf("a call without a trace: the handler was handed %q, %q, %v; want nothing", handed.TraceParent, handed.TraceState, err)
		}
	})
}

// tree lists spans as they have ended, each with its parent.
func tree(ended []sdktrace.ReadOnlySpan) string {
	names := map[trace.SpanID]string{}
	for _, s := range ended {
		names[s.SpanContext().SpanID()] = s.Name()
	}
	var all []string
	for _, s := range ended {
		all = append(all, s.Name()+"<"+names[s.Parent().SpanID()])
	}
	return strings.Join(all, " ")
}
