package service

import (
	"context"
	"io"
	"log/slog"
	"slices"
	"strconv"

	"go.opentelemetry.io/otel/trace"

	"github.com/rumi-ai/rumi/libs/origin"
)

// newLogger writes JSON lines with the service, its version and, if the context has them, the ids of trace and request. No name is in a line
// twice, whatever attributes callers add: for JSON with a name twice, a reader may refuse the line or use either value.
func newLogger(w io.Writer, service string, level slog.Level) *slog.Logger {
	handler := slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level})
	unique := correlating{Handler: handler, used: []string{slog.TimeKey, slog.LevelKey, slog.MessageKey}}
	return slog.New(unique).With("service", service, "version", Version())
}

// correlating is a slog.Handler that adds the ids of the context to a record, and renames attributes whose name is in the line already.
type correlating struct {
	slog.Handler
	used []string // names that are in each line already
}

func (h correlating) Handle(ctx context.Context, record slog.Record) error {
	var buffer [16]slog.Attr // on the stack: a line has fewer, so that no slice is allocated
	attrs := buffer[:0]
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		attrs = append(attrs, slog.String("trace_id", span.TraceID().String()), slog.String("span_id", span.SpanID().String()))
	}
	if id := origin.Of(ctx).RequestID; id != "" {
		attrs = append(attrs, slog.String("request_id", id))
	}
	record.Attrs(func(a slog.Attr) bool {
		attrs = append(attrs, a)
		return true
	})
	line := slog.NewRecord(record.Time, record.Level, record.Message, record.PC)
	line.AddAttrs(unique(attrs, h.used)...)
	return h.Handler.Handle(ctx, line)
}

// unique renames each attribute whose name is in used, or is that of an attribute before it: x becomes x_2. An attribute that repeats both
// name and value of one before it is dropped. It changes attrs.
func unique(attrs []slog.Attr, used []string) []slog.Attr {
	kept := attrs[:0]
	for _, a := range attrs {
		if a.Value = a.Value.Resolve(); a.Value.Kind() == slog.KindGroup {
			a.Value = slog.GroupValue(unique(slices.Clone(a.Value.Group()), nil)...)
		}
		same := slices.ContainsFunc(kept, func(b slog.Attr) bool { return b.Equal(a) })
		if same {
			continue
		}
		key := a.Key
		for n := 2; slices.Contains(used, a.Key) || slices.ContainsFunc(kept, func(b slog.Attr) bool { return b.Key == a.Key }); n++ {
			a.Key = key + "_" + strconv.Itoa(n)
		}
		kept = append(kept, a)
	}
	return kept
}

func (h correlating) WithAttrs(attrs []slog.Attr) slog.Handler {
	attrs = unique(slices.Clone(attrs), h.used)
	used := slices.Clone(h.used)
	for _, a := range attrs {
		used = append(used, a.Key)
	}
	return correlating{h.Handler.WithAttrs(attrs), used}
}

func (h correlating) WithGroup(name string) slog.Handler {
	return correlating{h.Handler.WithGroup(name), nil}
}
