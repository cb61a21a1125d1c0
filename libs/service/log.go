package service

import (
	"context"
	"io"
	"log/slog"

	"go.opentelemetry.io/otel/trace"

	"github.com/rumi-ai/rumi/libs/origin"
)

// newLogger writes JSON lines that name the service and, where the context has them, trace and request.
func newLogger(w io.Writer, service string, level slog.Level) *slog.Logger {
	handler := slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level})
	return slog.New(correlating{handler}).With("service", service)
}

type correlating struct{ slog.Handler }

func (h correlating) Handle(ctx context.Context, record slog.Record) error {
	var ids [3]slog.Attr
	known := ids[:0]
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		known = append(known, slog.String("trace_id", span.TraceID().String()), slog.String("span_id", span.SpanID().String()))
	}
	if id := origin.Of(ctx).RequestID; id != "" {
		known = append(known, slog.String("request_id", id))
	}
	record.AddAttrs(known...)
	return h.Handler.Handle(ctx, record)
}

func (h correlating) WithAttrs(attrs []slog.Attr) slog.Handler {
	return correlating{h.Handler.WithAttrs(attrs)}
}

func (h correlating) WithGroup(name string) slog.Handler {
	return correlating{h.Handler.WithGroup(name)}
}
