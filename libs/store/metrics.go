package store

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/rumi-ai/rumi/libs/metric"
)

// operations are the durations of transactions.
type operations struct{ write, read *metric.Durations }

// newOperations registers the durations by the names and attributes of OpenTelemetry's conventions for databases. system is OpenTelemetry's
// name of the database.
func newOperations(registry prometheus.Registerer, system string) operations {
	duration := metric.NewDurationsVec(registry, prometheus.HistogramOpts{
		Name:    "db_client_operation_duration_seconds",
		Help:    "Time of a transaction, from the wait for a connection to the commit, tries that another transaction was in the way of among it; by database (sqlite, postgresql) and operation (read, write).",
		Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10},
	}, "db_system_name", "db_operation_name")
	return operations{write: duration.With(system, "write"), read: duration.With(system, "read")}
}

// observe measures a transaction that began at a time.
func observe(ctx context.Context, to *metric.Durations, began time.Time) {
	to.Observe(trace.SpanContextFromContext(ctx), time.Since(began))
}
