package store

import (
	"context"

	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/rumi-ai/rumi/libs/tracing/step"
)

// step begins the span of a transaction that writes, by OpenTelemetry's conventions for databases. Its statements aren't in it: they are many, and
// short. Transactions that only read have no span: one reads copies in memory where it matters.
func (db *DB) step(ctx context.Context) (_ context.Context, end func(error)) {
	if !trace.SpanFromContext(ctx).IsRecording() { // without the attributes then
		return ctx, func(error) {}
	}
	return step.Begin(ctx, "write "+db.service, step.Client, semconv.DBSystemNameKey.String(db.system), semconv.DBNamespace(db.service), semconv.DBOperationName("write"))
}
