package packtrace

import (
	"context"

	"go.opentelemetry.io/otel/trace"
)

// Border is where what packs send enters a service. The zero Border believes nothing: a request is in a trace of its own then.
type Border struct {
	Key     *Key
	Samples func(trace.TraceID) bool // whether a new trace is recorded (tracing.Tracing); nil for none
}

// Join returns ctx with the span that a pack's request is below, and whether it continues a trace that was handed to the pack. ctx is returned as it is
// if the pack sent no context, or one that can't be read.
func (b Border) Join(ctx context.Context, packID string, sent Context) (_ context.Context, joined bool) {
	if b.Key == nil || sent.TraceParent == "" {
		return ctx, false
	}
	parent, joined := b.Key.Accept(packID, sent.TraceParent, sent.TraceState)
	if !parent.IsValid() {
		return ctx, false
	}
	if !joined && b.Samples != nil && b.Samples(parent.TraceID()) {
		parent = parent.WithTraceFlags(trace.FlagsSampled)
	}
	return trace.ContextWithRemoteSpanContext(ctx, parent), joined
}

// Mint is Key.Mint for the span of ctx, and empty without a key.
func (b Border) Mint(ctx context.Context, packID string) Context {
	if b.Key == nil {
		return Context{}
	}
	return b.Key.Mint(packID, trace.SpanContextFromContext(ctx))
}
